"""Optics groups made from values that stand in every row: what RELION 3.1 has, and other programs do not."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoatlas.io.star import StarTable
from cryoatlas.particles.metadata import GROUP, OPTICS, ParticleTables
from cryoatlas.shapes import Array

GROUP_NAME = "rlnOpticsGroupName"
PARTICLES = "particles"


def grouped_tables(
    path: Path,
    particles: Mapping[str, Array | list],
    optics: Mapping[str, Array | list],
    names: Array | list | None = None,
    dark: bool = False,
) -> ParticleTables:
    """Tables as of a file of RELION 3.1: particles that share all of `optics` become a group.

    Args:
        path: of the file that all comes from.
        particles: columns of the particle table.
        optics: columns that go to the optics table, one value for each particle.
        names: of the group of each particle; particles of different names share no group.
        dark: what the file says of its images.
    """
    count = len(next(iter(particles.values())))
    labels = ["opticsGroup"] * count if names is None else names
    keys = [np.unique(np.asarray(values), return_inverse=True)[1] for values in (labels, *optics.values())]
    _, first, group = np.unique(np.stack(keys, -1), axis=0, return_index=True, return_inverse=True)
    # Numbered in the order in which the groups come in the file.
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(1, len(order) + 1)
    first = first[order]
    shared = {name: np.asarray(values)[first] for name, values in optics.items()}
    group_names = _distinct([str(labels[row]) for row in first.tolist()])
    head = {GROUP: np.arange(1, len(first) + 1), GROUP_NAME: group_names}
    columns = {**particles, GROUP: number[group.reshape(-1)]}
    return ParticleTables(
        path,
        {
            OPTICS: StarTable.from_columns({**head, **shared}, f"{path} (optics groups)"),
            PARTICLES: StarTable.from_columns(columns, str(path)),
        },
        PARTICLES,
        dark,
    )


def _distinct(names: list[str]) -> list[str]:
    """Each name with a number after it, where several groups would have the same."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if names.count(name) == 1 else f"{name}_{seen[name]}")
    return result
