"""Optics groups made from values that stand in every row: RELION 3.1 has them, other sources do not."""

from dataclasses import replace

import numpy as np

from cryoatlas.io.star import StarTable
from cryoatlas.particles.metadata import GROUP, MICROSCOPE, OPTICS, ParticleTables
from cryoatlas.particles.microscope import ABERRATIONS, IMAGE_STATE
from cryoatlas.shapes import Array

GROUP_NAME = "rlnOpticsGroupName"
SHARED = (
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
    *MICROSCOPE,
    *ABERRATIONS,
    *IMAGE_STATE,
)
"""Columns that the optics table has and the particle table has not."""


def regrouped(tables: ParticleTables, labels: list[str] | None = None) -> ParticleTables:
    """The same particles in new optics groups: those that agree in all that groups share are of one group.

    Args:
        tables: with what groups share in either table.
        labels: a name for each particle's group; those of different names share no group. By default
            the names of the groups they are in.
    """
    table, optics = tables.particles, tables.optics
    if labels is None:
        named = optics is not None and optics.has(GROUP_NAME)
        labels = tables.text(GROUP_NAME).tolist() if named else ["opticsGroup"] * len(table)
    assert labels is not None
    old = () if optics is None else tuple(name for name in optics.names if name not in (GROUP, GROUP_NAME))
    names = dict.fromkeys((*old, *(name for name in SHARED if table.has(name))))
    shared = {name: tables.text(name) for name in names}
    first, number = _groups([np.asarray(labels), *shared.values()])
    columns = {
        GROUP: np.arange(1, len(first) + 1),
        GROUP_NAME: _distinct([labels[row] for row in first.tolist()]),
        **{name: values[first] for name, values in shared.items()},
    }
    source = optics.source if optics is not None else f"{tables.path} (its optics groups)"
    particles = table.without_columns(*SHARED).with_column(GROUP, number)
    new = {OPTICS: StarTable.from_columns(columns, source), tables.block: particles}
    return replace(
        tables, tables={**new, **{name: new.get(name, old) for name, old in tables.tables.items()}}
    )


def _groups(keys: list[Array]) -> tuple[Array, Array]:
    """First row of each combination of keys, in the order of the rows, and the number of every row's, from "
    "1."""
    codes = np.stack([np.unique(key, return_inverse=True)[1].reshape(-1) for key in keys], -1)
    _, first, group = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(1, len(order) + 1)
    return first[order], number[group.reshape(-1)]


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where several groups would have the same."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    many = {name for name, count in seen.items() if count > 1}
    place: dict[str, int] = {}
    result = []
    for name in names:
        place[name] = place.get(name, 0) + 1
        result.append(f"{name}_{place[name]}" if name in many else name)
    return result
