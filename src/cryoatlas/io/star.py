"""STAR files ↔ tables, every value kept as the text it is in the file.

A table is a ``data_`` block: one loop, or single name-value pairs (a table of one row). Column names
are RELION's, without the leading underscore. Values are turned into numbers only when asked for, so
that rows can be written back as they were: reading what was written gives the same tables.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gemmi import cif

from cryoatlas.errors import FormatError, InputError, MetadataError
from cryoatlas.io.inputs import require_file
from cryoatlas.io.output import write_text
from cryoatlas.shapes import Array, Float, Int

TEXT = np.dtypes.StringDType()
"""Columns of any string length, compact: 10⁶ particles of 30 columns take about 1 GB."""
PLAIN = re.compile("[A-Za-z0-9./+-][!#-&(-~]*")
RESERVED = re.compile("(data|loop|save|stop|global)_", re.IGNORECASE)
VERSION_MARK = "# version 30001\n\n"
"""What RELION looks for to take a file with optics groups as one of 3.1 or later."""


@dataclass(frozen=True)
class StarTable:
    """The rows of one block of a star file.

    Columns hold the text of the file, quotes included; `number` and `text` give the meaning.
    """

    columns: Mapping[str, Array]
    """Text of each column, in the file's order."""
    source: str = "a table in memory"
    """File and block, for error messages."""
    is_loop: bool = True
    """A loop, rather than name-value pairs."""
    rows: Int[Array, "row"] | None = field(default=None, repr=False)
    """Number in the file of each row, from 1; None where this is their order."""

    @classmethod
    def from_columns(cls, columns: Mapping[str, Iterable], source: str = "a table in memory") -> "StarTable":
        """A new table of strings and numbers; numbers are written with as many digits as they need."""
        table = {name: _as_text(values) for name, values in columns.items()}
        lengths = {name: len(column) for name, column in table.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of a table must be of one length, got {lengths}")
        return cls(table, source)

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a table needs at least one column")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def names(self) -> list[str]:
        """Names of the columns, in the file's order."""
        return list(self.columns)

    def has(self, *names: str) -> bool:
        """Whether all these columns are there."""
        return all(name in self.columns for name in names)

    def row_name(self, position: int) -> str:
        """``row 12 of FILE (data_particles)``, by its number in the file from 1, for messages."""
        number = position + 1 if self.rows is None else int(self.rows[position])
        return f"row {number} of {self.source}"

    def text(self, name: str) -> Array:
        """A column as strings, without quotes.

        Raises:
            MetadataError: there is no such column.
        """
        column = self._column(name)
        quoted = np.strings.startswith(column, "'") | np.strings.startswith(column, '"')
        quoted |= np.strings.startswith(column, ";")
        if not quoted.any():
            return column
        plain = column.copy()
        for row in np.flatnonzero(quoted):
            plain[row] = cif.as_string(str(column[row]))
        return plain

    def number(self, name: str) -> Float[Array, "row"]:
        """A column as finite float64 numbers.

        Raises:
            MetadataError: there is no such column, or a value is no number, NaN or infinite.
        """
        column = self.text(name)
        try:
            values = column.astype(np.float64)
        except ValueError:
            values = np.array([_number_or_nan(text) for text in column])
        bad = np.flatnonzero(~np.isfinite(values)).tolist()
        if bad:
            others = f" ({len(bad) - 1} more rows are bad)" if len(bad) > 1 else ""
            raise MetadataError(
                f"{self.row_name(bad[0])} has '{column[bad[0]]}' in column {name}, "
                f"but a finite number was expected{others}: correct or remove these rows."
            )
        return values

    def select(self, indices: Int[Array, "some"]) -> "StarTable":
        """Some of the rows, in the order given."""
        rows = np.arange(1, len(self) + 1) if self.rows is None else self.rows
        columns = {name: column[indices] for name, column in self.columns.items()}
        return StarTable(columns, self.source, self.is_loop, rows[indices])

    def with_column(self, name: str, values: Iterable) -> "StarTable":
        """The table with a column replaced where it stands, or added at the end."""
        column = _as_text(values)
        if len(column) != len(self):
            raise ValueError(f"column {name} has {len(column)} values, the table {len(self)} rows")
        return StarTable({**self.columns, name: column}, self.source, self.is_loop, self.rows)

    def without_columns(self, *names: str) -> "StarTable":
        """The table without these columns; names it does not have are passed over."""
        columns = {name: column for name, column in self.columns.items() if name not in names}
        return StarTable(columns, self.source, self.is_loop, self.rows)

    def _column(self, name: str) -> Array:
        if name not in self.columns:
            raise MetadataError(
                f"{self.source} has no column {name}; it has {', '.join(self.columns)}. Add the column, or "
                "use the file of an earlier step that still has it."
            )
        return self.columns[name]


def read_star(path: Path | str) -> dict[str, StarTable]:
    """The tables of a star file by block name (``data_particles`` is ``particles``, ``data_`` is "").

    Raises:
        InputError: there is no such file.
        FormatError: it is empty, a folder, or not a star file; or a row has too few or too many values.
    """
    path = require_file(path, "a star file")
    try:
        tables = {block.name.strip(): _table(path, block) for block in cif.read_file(str(path))}
    except InputError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise FormatError(_why_unreadable(path, str(error))) from error
    if not tables:
        raise FormatError(f"{path} has no data_ block: it is not a star file with a table of particles.")
    return tables


def write_star(path: Path | str, tables: Mapping[str, StarTable]) -> None:
    """Write tables as a star file, atomically, with RELION's version mark if there is an optics table.

    Raises:
        OutputError: the file cannot be written.
    """
    mark = VERSION_MARK if "optics" in tables else ""
    write_text(path, "\n".join(mark + _block_text(name, table) for name, table in tables.items()))


def _table(path: Path, block: cif.Block) -> StarTable:
    source = f"{path} (data_{block.name.strip()})"
    items = list(block)
    loops = [item.loop for item in items if item.loop is not None]
    pairs: list[tuple[str, str]] = [tuple(item.pair) for item in items if item.pair is not None]  # type: ignore[misc]
    if len(loops) + bool(pairs) != 1:
        raise FormatError(
            f"{source} holds {len(loops)} loops and {len(pairs)} single values, but a block must be one "
            "table: either one loop or single values."
        )
    if pairs:
        columns = {name[1:]: np.array([value], TEXT) for name, value in pairs}
    else:
        # Column by column: all values at once would be a list of several times the size of the file.
        columns = {tag[1:]: np.array(list(block.find_loop(tag)), TEXT) for tag in loops[0].tags}
    if loops and loops[0].length() == 0:
        raise FormatError(f"{source} has columns but no rows: the job that wrote it selected nothing.")
    return StarTable(columns, source, is_loop=not pairs)


def _why_unreadable(path: Path, complaint: str) -> str:
    """A message for what the parser refused, with the row where it is a row."""
    if "duplicate" in complaint:
        return f"{path} names something twice ({complaint}): remove one of them."
    uneven = _first_uneven_row(path)
    if uneven is not None:
        line, row, found, expected = uneven
        return (
            f"{path} has {found} values in row {row} (line {line}), but {expected} columns are named: the "
            "file was cut off or edited; correct this row or make the file again."
        )
    return f"{path} is not a star file ({complaint})."


def _first_uneven_row(path: Path) -> tuple[int, int, int, int] | None:
    """Line, row, values found and values expected of the first row that does not fit its loop."""
    columns, row, in_loop = 0, 0, False
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line_number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "loop_" or words[0].startswith("data_"):
                columns, row, in_loop = 0, 0, words[0] == "loop_"
            elif in_loop and row == 0 and words[0].startswith("_"):
                columns += 1
            elif in_loop:
                row += 1
                if len(words) != columns and "'" not in line and '"' not in line:
                    return line_number, row, len(words), columns
    return None


def _number_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _as_text(values: Iterable) -> Array:
    """Numbers as the shortest text that reads back as the same number; strings quoted where needed."""
    array = np.asarray(values)
    if array.dtype.kind in "fiub":
        return np.array([str(value) for value in array.tolist()], TEXT)
    return np.array([_quoted(str(value)) for value in array], TEXT)


def _quoted(text: str) -> str:
    """In quotes only where it cannot be read without: not every program that reads star files knows them."""
    return text if PLAIN.fullmatch(text) and not RESERVED.match(text) else cif.quote(text)


def _block_text(name: str, table: StarTable) -> str:
    names = [f"_{key}" for key in table.columns]
    columns = [_own_lines(column) for column in table.columns.values()]
    if not table.is_loop:
        body = "".join(f"{key} {column[0]}\n" for key, column in zip(names, columns, strict=True))
        return f"data_{name}\n\n{body}"
    head = "".join(f"{key} #{number}\n" for number, key in enumerate(names, 1))
    # Rows begin with a space: in the first place of a line, a semicolon would open a text field.
    rows = "\n ".join(map(" ".join, zip(*columns, strict=True)))
    return f"data_{name}\n\nloop_\n{head} {rows}\n"


def _own_lines(column: Array) -> Array:
    """Text fields (``;`` … ``;`` over several lines) set apart, as they must begin and end a line."""
    field = np.strings.startswith(column, ";") & (np.strings.find(column, "\n") >= 0)
    return (
        np.where(field, np.strings.add(np.strings.add("\n", column), "\n"), column) if field.any() else column
    )
