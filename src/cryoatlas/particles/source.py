"""Which row of which of the user's files a particle is, so that results lead back to it.

A star file of ours (of a prepared set, of a run) has the column `SOURCE_ROW`, for particles of
cryoSPARC also `UID`, and beside it `SOURCE_FILE`, which names the user's file and its checksum::

    path = "/data/project/run_data.star"
    sha256 = "…"
    passthrough = ["/data/project/P1_J2_passthrough_particles.cs"]      # for a .cs that had some

Any other particle file is its own source.
"""

import hashlib
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomlkit

from cryoatlas.errors import FormatError, InputError, MetadataError
from cryoatlas.io.inputs import require_file
from cryoatlas.io.output import write_text
from cryoatlas.particles.metadata import ParticleTables
from cryoatlas.shapes import Array, Int

SOURCE_ROW, UID = "cryoatlasSourceRow", "cryoatlasUid"
SOURCE_FILE = "source.toml"
STACK_SUFFIXES = (".mrc", ".mrcs")
MRC_HEADER_BYTES = 1024
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """The file that particles came from, before anything of ours was done to them."""

    path: Path
    """Absolute."""
    sha256: str
    """`checksum` of the file when it was read."""
    passthrough: tuple[Path, ...] = ()
    """cryoSPARC's further files of the same particles, absolute."""

    @classmethod
    def of(cls, path: Path | str, passthrough: Sequence[Path | str] = ()) -> "Source":
        """The source that a file of the user's is.

        Raises:
            InputError: there is no such file.
        """
        absolute = tuple(Path(os.path.abspath(each)) for each in passthrough)
        return cls(Path(os.path.abspath(path)), checksum(path), absolute)


def checksum(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal; of an image stack, of its header and length alone.

    Raises:
        InputError: there is no such file.
    """
    path = require_file(path, "a file of particles")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        if path.suffix in STACK_SUFFIXES:
            digest.update(stream.read(MRC_HEADER_BYTES))
            digest.update(str(path.stat().st_size).encode())
        else:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def source_of(tables: ParticleTables) -> Source:
    """Where particles came from: the file itself, or for one of ours what the file beside it names.

    Args:
        tables: of the particle file.

    Raises:
        InputError: the file is one of ours, and `SOURCE_FILE` is not beside it.
        FormatError: that file is damaged.
    """
    if not tables.particles.has(SOURCE_ROW):
        return Source.of(tables.path, tables.passthrough)
    return read_source(tables.path.parent)


def source_rows(tables: ParticleTables) -> Int[Array, "image"]:
    """Number of each particle's row in its source, from 1.

    Raises:
        MetadataError: the column is there and holds something else.
    """
    table = tables.particles
    if not table.has(SOURCE_ROW):
        return np.arange(1, len(table) + 1) if table.rows is None else table.rows.astype(np.int64)
    numbers = table.number(SOURCE_ROW)
    wrong = np.flatnonzero((numbers < 1) | (numbers != np.round(numbers))).tolist()
    if wrong:
        raise MetadataError(
            f"{table.row_name(wrong[0])} has {numbers[wrong[0]]:g} as {SOURCE_ROW}, but a row number "
            "from 1 was expected: the file was edited; take the one that CryoAtlas wrote, or remove the "
            "column."
        )
    return numbers.astype(np.int64)


def with_source_columns(tables: ParticleTables) -> ParticleTables:
    """The tables with the column `SOURCE_ROW`; `UID` stays as the reader of a .cs file put it."""
    return tables.with_particles(tables.particles.with_column(SOURCE_ROW, source_rows(tables)))


def write_source(folder: Path | str, source: Source) -> None:
    """Write `SOURCE_FILE` into the folder of a star file with source columns.

    Raises:
        OutputError: it cannot be written.
    """
    content: dict[str, object] = {"path": str(source.path), "sha256": source.sha256}
    if source.passthrough:
        content["passthrough"] = [str(path) for path in source.passthrough]
    write_text(Path(folder) / SOURCE_FILE, tomlkit.dumps(content))


def read_source(folder: Path | str) -> Source:
    """Read `SOURCE_FILE` in a folder.

    Raises:
        InputError: it is not there.
        FormatError: it is damaged.
    """
    file = Path(folder) / SOURCE_FILE
    if not file.is_file():
        raise InputError(
            f"the particles in {folder} have the column {SOURCE_ROW}, but {file} is missing, which names "
            "the file that these rows belong to: copy it along with the star file, or remove the column."
        )
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        passthrough = tuple(Path(path) for path in content.get("passthrough", []))
        return Source(Path(content["path"]), str(content["sha256"]), passthrough)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FormatError(
            f"{file} is damaged ({error}): it should hold the path and the sha256 of a particle file. "
            "Restore it, or prepare the particles again."
        ) from error
