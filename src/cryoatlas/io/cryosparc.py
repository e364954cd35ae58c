"""cryoSPARC's ``.cs`` files: tables with one row per particle, told apart by their ``uid``.

A ``.cs`` file is an ``.npy`` file of a structured array. What a job did not change it leaves in
*passthrough* files of the same particles, in an order of their own; they are joined by ``uid``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatlas.errors import FormatError, MetadataError
from cryoatlas.io.inputs import require_file
from cryoatlas.io.npy import read_npy
from cryoatlas.io.star import TEXT
from cryoatlas.shapes import Array, Float, Int

UID = "uid"
STREAM_MAGIC = b"\x94CSDAT"
CHUNK = 2**16
"""Rows whose numbers are spelled out at a time."""


@dataclass(frozen=True)
class CsTable:
    """The columns of a ``.cs`` file, and of the passthrough files joined to it."""

    path: Path
    columns: Mapping[str, "CsColumn"]
    """By cryoSPARC's names, such as ``blob/path``."""

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def uid(self) -> Array:
        """Particle numbers, of 64 bits, no two the same."""
        return self.columns[UID].values()

    def has(self, *names: str) -> bool:
        """Whether all these columns are there."""
        return all(name in self.columns for name in names)

    def missing(self, *names: str) -> list[str]:
        """Those of the columns that are not there."""
        return [name for name in names if name not in self.columns]

    def number(self, name: str, width: int | None = None) -> Float[Array, "row ..."]:
        """A column as finite float64 numbers.

        cryoSPARC stores float32. Here each is the shortest decimal that is stored as that float32, so
        that a pixel size of 2.95 Å is 2.95 and not 2.9500000477.

        Args:
            name: of a column that is there.
            width: values in each row; None for one value that is no array.

        Raises:
            MetadataError: values are no numbers, not `width` in each row, NaN or infinite.
        """
        stored = self.columns[name].values()
        if stored.dtype.kind not in "biuf" or stored.shape[1:] != (() if width is None else (width,)):
            wanted = "one number" if width is None else f"{width} numbers"
            raise MetadataError(
                f"column {name} of {self.path} holds {stored.dtype} of shape {stored.shape[1:]} in each row, "
                f"but {wanted} should stand there: the file is of an unknown version or was altered."
            )
        bad = ~np.isfinite(stored).reshape(len(stored), -1).all(1)
        if bad.any():
            row = int(np.argmax(bad))
            raise MetadataError(
                f"{self.row_name(row)} has {stored[row]} in column {name}, but finite numbers were expected; "
                f"{bad.sum()} of {len(stored)} rows are bad: leave these particles out in cryoSPARC."
            )
        return _shortest_decimals(stored) if stored.dtype == np.float32 else stored.astype(np.float64)

    def text(self, name: str) -> Array:
        """A column as strings.

        Raises:
            MetadataError: it holds something else.
        """
        stored = self.columns[name].values()
        try:
            if stored.ndim != 1 or stored.dtype.kind not in "SU":
                raise ValueError(f"{stored.dtype} of shape {stored.shape[1:]}")
            known, which = np.unique(stored, return_inverse=True)
            words = [item.decode() if isinstance(item, bytes) else item for item in known.tolist()]
        except (ValueError, SystemError) as error:
            raise MetadataError(
                f"column {name} of {self.path} holds no readable text ({error}): the file was altered."
            ) from error
        return np.array(words, TEXT)[which]

    def row_name(self, position: int) -> str:
        """``row 12 of FILE``, from 1, for messages."""
        return f"row {position + 1} of {self.path}"


@dataclass(frozen=True)
class CsColumn:
    """A column on disk, and which of its rows are meant."""

    stored: Array
    rows: Int[Array, "row"] | None = None
    """Position of each row; None for all of them in order."""

    def values(self) -> Array:
        """The column in memory, as stored."""
        return np.ascontiguousarray(self.stored) if self.rows is None else self.stored[self.rows]


def read_cs(path: Path | str, passthrough: Sequence[Path | str] = ()) -> CsTable:
    """Read a ``.cs`` file and what passthrough files add to it, in the order of the main file.

    Columns that several files have are taken from the first, the main file before all.

    Raises:
        InputError: there is no such file.
        FormatError: a file is no table of cryoSPARC's, is cut off, or holds Python objects.
        MetadataError: a particle stands twice in one file, or not at all in a passthrough file.
    """
    main = read_cs_array(path)
    columns = {name: CsColumn(main[name]) for name in _names(main)}
    for other_path in passthrough:
        other = read_cs_array(other_path)
        rows = matching_rows(main[UID], other[UID], Path(path), Path(other_path))
        added = {name: CsColumn(other[name], rows) for name in _names(other)}
        columns = {**added, **columns}
    return CsTable(Path(path), columns)


def read_cs_array(path: Path | str) -> Array:
    """The structured array of a ``.cs`` file, mapped from disk.

    Raises:
        InputError: there is no such file.
        FormatError: it is no table of cryoSPARC's, is cut off, or holds Python objects.
        MetadataError: it has no rows, or a particle stands in it twice.
    """
    path = require_file(path, "a cryoSPARC .cs file")
    with path.open("rb") as file:
        if file.read(len(STREAM_MAGIC)) == STREAM_MAGIC:
            raise FormatError(
                f"{path} is in cryoSPARC's compressed stream format (CSDAT), which is not read: save it "
                "again as a plain .cs file, with cryosparc-tools by Dataset.load(…).save(…)."
            )
    table = read_npy(path, "a cryoSPARC .cs file")
    if table.ndim != 1 or table.dtype.names is None or UID not in table.dtype.names:
        raise FormatError(
            f"{path} holds an array of shape {table.shape} and type {str(table.dtype)[:50]}, but a table "
            f"with a column {UID} was expected: it is no .cs file of particles."
        )
    if len(table) == 0:
        raise MetadataError(f"{path} has no rows: the job that wrote it selected nothing.")
    if table.dtype[UID] not in (np.dtype(np.uint64), np.dtype(np.int64)):
        raise FormatError(
            f"{path} has {table.dtype[UID]} in column {UID}, but 64-bit integers were expected: it is no .cs "
            "file of particles."
        )
    uid = np.sort(table[UID])
    again = np.flatnonzero(uid[1:] == uid[:-1])
    if len(again):
        raise MetadataError(
            f"{path} has {len(again)} particles twice or more, the first with {UID} {uid[again[0]]}: remove "
            "the duplicates in cryoSPARC."
        )
    return table


def _names(table: Array) -> tuple[str, ...]:
    return table.dtype.names or ()


def matching_rows(uid: Array, other: Array, path: Path, other_path: Path) -> Int[Array, "row"]:
    """Position in the other file of each particle of this one.

    Args:
        uid: of the particles that are sought.
        other: of all particles of the other file.
        path, other_path: the two files, for the message.

    Raises:
        MetadataError: a particle is not in the other file.
    """
    order = np.argsort(other)
    place = np.searchsorted(other, uid, sorter=order).clip(max=len(other) - 1)
    rows = order[place]
    absent = np.flatnonzero(other[rows] != uid)
    if len(absent):
        raise MetadataError(
            f"{len(absent)} of {len(uid)} particles of {path} are not in {other_path}, the first with "
            f"{UID} {uid[absent[0]]} in row {absent[0] + 1}: give the passthrough file of the same job and "
            "the same output."
        )
    return rows


def _shortest_decimals(stored: Array) -> Float[Array, "row ..."]:
    numbers = np.empty(stored.shape, np.float64)
    for start in range(0, len(stored), CHUNK):
        part = slice(start, start + CHUNK)
        numbers[part] = stored[part].astype(str).astype(np.float64)
    return numbers
