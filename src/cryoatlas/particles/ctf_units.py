"""Tells CTF values that cannot be in RELION's units (Å, kV, mm, degrees, fractions)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cryoatlas.errors import MetadataError
from cryoatlas.io.star import StarTable
from cryoatlas.shapes import Array

SMALLEST_DEFOCUS = 100.0
"""If no defocus is larger than this, in Å, the unit must be another: real ones reach thousands."""


@dataclass(frozen=True)
class Range:
    """Values that a quantity can have in the unit that files give it in."""

    lower: float
    upper: float
    unit: str
    advice: str


RANGES = {
    "rlnDefocusU": Range(-1e6, 1e6, "Å", "files in pm or m must be converted to Å"),
    "rlnDefocusV": Range(-1e6, 1e6, "Å", "files in pm or m must be converted to Å"),
    "rlnDefocusAngle": Range(-720.0, 720.0, "degrees", "check the column"),
    "rlnVoltage": Range(10.0, 3000.0, "kV", "values in volts must be divided by 1000"),
    "rlnSphericalAberration": Range(-50.0, 50.0, "mm", "values in µm must be divided by 1000"),
    "rlnAmplitudeContrast": Range(0.0, 1.0, "fractions", "values in percent must be divided by 100"),
    "rlnPhaseShift": Range(-720.0, 720.0, "degrees", "check the column"),
}


def check_ctf_units(values: dict[str, Array], table: StarTable) -> None:
    """Refuse values that no microscope gives in RELION's units.

    Args:
        values: RELION's columns, in the units of the file.
        table: where they come from, for the message.

    Raises:
        MetadataError: naming the row, the column, the unit expected and the usual mistake.
    """
    for problem in unit_problems(values, table):
        raise MetadataError(problem)


def unit_problems(values: dict[str, Array], table: StarTable) -> Iterator[str]:
    """What `check_ctf_units` would say, one message for each column that is wrong."""
    for name, column in values.items():
        allowed = RANGES[name]
        bad = np.flatnonzero(~((column >= allowed.lower) & (column <= allowed.upper))).tolist()
        if bad:
            yield (
                f"{table.row_name(bad[0])} has {column[bad[0]]:g} in {name}, which is expected in "
                f"{allowed.unit}, between {allowed.lower:g} and {allowed.upper:g}; {len(bad)} of "
                f"{len(column)} rows are outside: {allowed.advice}."
            )
    defoci = [values[name] for name in ("rlnDefocusU", "rlnDefocusV") if name in values]
    largest = max((float(np.abs(column).max()) for column in defoci), default=SMALLEST_DEFOCUS)
    if largest < SMALLEST_DEFOCUS:
        yield (
            f"the largest defocus in {table.source} is {largest:g}, but rlnDefocusU and rlnDefocusV are "
            "expected in Å, where real values reach thousands: multiply them by 10,000 if they are in µm or "
            "by 10 if in nm, or remove the columns if the images have no CTF."
        )
