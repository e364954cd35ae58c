"""Which particles are meant: thresholds on columns, and groups of similar z as `analyze` numbers them.

A threshold is read by a grammar of three words and evaluated by numpy; nothing is executed::

    condition = name operator number        operator = < | <= | > | >= | == | !=
    selection = condition [and condition] …
"""

import csv
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatlas.analysis.latent import kmeans
from cryoatlas.errors import ConfigError, FormatError
from cryoatlas.io.inputs import require_file
from cryoatlas.shapes import Array, Bool, Float, Int

OPERATORS: dict[str, Callable[[Array, float], Array]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
CONDITION = re.compile(rf"\s*_?([A-Za-z]\w*)\s*(<=|>=|==|!=|<|>)\s*({NUMBER})\s*")
LATENT_TOLERANCE = 1e-5
"""Relative difference up to which a latent in a table and one of the run count as the same."""


@dataclass(frozen=True)
class Condition:
    """A column compared with a number."""

    name: str
    comparison: str
    number: float

    def holds(self, values: Float[Array, "image"]) -> Bool[Array, "image"]:
        """Where the values of the column satisfy it."""
        return OPERATORS[self.comparison](values, self.number)


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Read ``latent1 > 0.5 and rlnDefocusU < 20000``.

    Raises:
        ConfigError: it is not of this form.
    """
    conditions = []
    for part in re.split(r"\band\b", text):
        found = CONDITION.fullmatch(part)
        if found is None:
            raise ConfigError(
                f"--where takes a column, a comparison (<, <=, >, >=, ==, !=) and a number, joined by `and`, "
                f"such as 'latent0 > 0.5 and rlnDefocusU < 20000'; {part.strip()!r} is none of that."
            )
        conditions.append(Condition(found[1], found[2], float(found[3])))
    return tuple(conditions)


def where(
    conditions: Sequence[Condition], column: Callable[[str], Float[Array, "image"]]
) -> Bool[Array, "image"]:
    """The images that satisfy all conditions.

    Args:
        column: gives the values of a column by its name.
    """
    return np.logical_and.reduce([each.holds(column(each.name)) for each in conditions])


def group_labels(
    latents: Float[Array, "image latent"], count: int, analysis: Path
) -> tuple[Int[Array, "image"], str]:
    """The group of each image, from 1, and where the groups are from, in words.

    Those of `analyze`, if it made as many groups; else they are made now as it would make them.

    Args:
        latents: of the run.
        count: of groups.
        analysis: the folder that `analyze` writes; it need not be there.

    Raises:
        FormatError: the analysis is damaged, or of other latents than these.
    """
    table = analysis / "kmeans" / "clusters.csv"
    if table.is_file():
        labels = _stored_labels(table, len(latents))
        if labels.max() == count:
            _check_same_latents(analysis / "kmeans" / "volumes.csv", latents)
            return labels, f"the groups of {table}"
    return kmeans(latents, count).labels + 1, "groups made now, as analyze makes them"


def _stored_labels(path: Path, images: int) -> Int[Array, "image"]:
    rows = _rows(path)
    try:
        numbers = np.array([[int(cell) for cell in row[:2]] for row in rows], np.int64).reshape(-1, 2)
    except ValueError as error:
        raise FormatError(f"{path} is damaged ({error}): run analyze again with --overwrite.") from error
    if not np.array_equal(numbers[:, 0], np.arange(images)):
        raise FormatError(
            f"{path} has {len(numbers)} rows, but the run has {images} images: it is of another state of the "
            "run; run analyze again with --overwrite."
        )
    return numbers[:, 1]


def _check_same_latents(path: Path, latents: Float[Array, "image latent"]) -> None:
    """Refuse groups that were made before the run was trained further."""
    for row in _rows(path):
        image, stored = int(row[1]), np.array(row[2:], np.float64)
        if not np.allclose(latents[image], stored, rtol=LATENT_TOLERANCE, atol=LATENT_TOLERANCE):
            raise FormatError(
                f"the groups in {path.parent} were made from other latents than the run has now: run analyze "
                "again with --overwrite, so that numbers of groups mean the same."
            )


def _rows(path: Path) -> list[list[str]]:
    """The rows of a table but for its head."""
    with require_file(path, "a table of analyze").open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))[1:]
