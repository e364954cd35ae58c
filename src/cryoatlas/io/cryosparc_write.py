"""Rows of a user's ``.cs`` file as a new one, byte for byte, and the ``.csg`` file that imports them.

cryoSPARC takes particles back with the job *Import Result Group*, which reads a ``.csg`` file: a short
text that says in which ``.cs`` file each kind of column stands.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from cryoatlas.errors import FormatError, InputError
from cryoatlas.io.cryosparc import read_cs_array
from cryoatlas.io.inputs import require_file
from cryoatlas.io.output import atomic_path, write_text
from cryoatlas.shapes import Array, Int

logger = logging.getLogger(__name__)

CHUNK = 2**14
"""Rows copied at a time."""
MAGIC_BYTES = 8
SHAPE = re.compile(rb"""(['"]shape['"]\s*:\s*)\([^)]*\)""")
METAFILE = re.compile(r"""(?m)^([ \t]*metafile:[ \t]*)['"]?>?([^'"\n]+?)['"]?[ \t]*$""")
ITEMS = re.compile(r"(?m)^([ \t]*num_items:[ \t]*)\d+[ \t]*$")
LARGEST_GROUP_FILE = 2**20
"""Bytes; those of cryoSPARC have a few hundred."""


def write_cs_rows(
    path: Path | str,
    original: Path | str,
    rows: Int[Array, "some"],
    changes: Mapping[str, Array] | None = None,
) -> None:
    """Write some rows of a ``.cs`` file, atomically; all of them in order give the same file.

    Args:
        path: the new file.
        original: the file that the rows are of.
        rows: positions from 0, in the order wanted, none twice.
        changes: new values of columns that the file has, one for each row in `rows`.

    Raises:
        InputError, FormatError, MetadataError: the original is no table of cryoSPARC's.
        OutputError: the new file cannot be written.
    """
    table = read_cs_array(original)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(_header(Path(original), len(table), len(rows)))
        for start in range(0, len(rows), CHUNK):
            part = table[rows[start : start + CHUNK]]
            for name, values in (changes or {}).items():
                part[name] = values[start : start + CHUNK]
            stream.write(part.tobytes())


def find_group_file(table: Path | str) -> Path | None:
    """The ``.csg`` file beside a ``.cs`` file that names it, if there is one that can be read."""
    table = Path(table)
    for candidate in sorted(table.parent.glob("*.csg")):
        try:
            if table.name in tables_of_group(candidate):
                return candidate
        except InputError as error:
            logger.info("passed over: %s", error)
    return None


def tables_of_group(path: Path | str) -> list[str]:
    """Names of the ``.cs`` files that a ``.csg`` file names, each once, in its order.

    Raises:
        FormatError: it is no text of cryoSPARC's kind.
    """
    return list(dict.fromkeys(name for _, name in METAFILE.findall(_group_text(Path(path)))))


def write_group_file(path: Path | str, original: Path | str, names: Mapping[str, str], count: int) -> None:
    """Write a ``.csg`` file as the original one is, for other ``.cs`` files.

    Args:
        path: the new file, beside the new ``.cs`` files.
        original: the ``.csg`` file of the original ones.
        names: the new name of each file that the original names.
        count: rows in the new files.

    Raises:
        FormatError: the original is no text of cryoSPARC's kind.
        OutputError: the new file cannot be written.
    """
    text = METAFILE.sub(
        lambda found: f"{found[1]}'>{names.get(found[2], found[2])}'", _group_text(Path(original))
    )
    write_text(path, ITEMS.sub(rf"\g<1>{count}", text))


def _header(path: Path, rows: int, wanted: int) -> bytes:
    """The header of a file with another number of rows in it, of the same length."""
    with path.open("rb") as file:
        start = file.read(MAGIC_BYTES)
        length_bytes = file.read(2 if start[6] == 1 else 4)
        text = file.read(int.from_bytes(length_bytes, "little"))
    if wanted != rows:
        changed = SHAPE.sub(rb"\g<1>(%d,)" % wanted, text.rstrip(), count=1)
        text = changed.ljust(len(text) - 1) + b"\n"
    return start + length_bytes + text


def _group_text(path: Path) -> str:
    path = require_file(path, "a cryoSPARC .csg file")
    try:
        if path.stat().st_size > LARGEST_GROUP_FILE:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise FormatError(f"{path} is no .csg file of cryoSPARC ({error}): remove or rename it.") from error
