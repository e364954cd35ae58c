"""The tables of prepared particles: the user's rows, with everything that depends on the pixels made new."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cryoatlas.fourier.resample import Grid
from cryoatlas.io.star import StarTable
from cryoatlas.particles.metadata import OPTICS, ParticleTables
from cryoatlas.particles.microscope import PHASE_FLIPPED
from cryoatlas.particles.optics import regrouped
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.source import with_source_columns
from cryoatlas.particles.stack_files import IMAGE_NAME
from cryoatlas.shapes import Array, Float

IN_PIXELS = {
    "rlnOriginX": "rlnOriginXAngst",
    "rlnOriginY": "rlnOriginYAngst",
    "rlnOriginXPrior": "rlnOriginXPriorAngst",
    "rlnOriginYPrior": "rlnOriginYPriorAngst",
}
"""Columns in pixels of the image, and where the same is written in Å."""
OF_THE_OLD_IMAGE = (
    "rlnImagePixelSize",
    "rlnPixelSize",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnImageSize",
    "rlnImageSizeX",
    "rlnImageSizeY",
    "rlnImageSizeZ",
    "rlnImageDimensionality",
    "rlnReconstructImageName",
)
"""Columns that would contradict the new images: sizes, and stacks of the old box."""


def prepared_tables(
    particles: ParticleSet, grid: Grid, image_names: Sequence[str], *, phase_flipped: bool
) -> ParticleTables:
    """Tables of RELION 3.1 for images on a new grid.

    Poses, CTF and all else that is in Å or has no unit are as they were. Origins in pixels are turned
    into Å, pixel size and box are set, and files without optics groups get them. Rows tell which row of
    the user's file they were (`cryoatlas.particles.source`).

    Args:
        particles: as they were read.
        grid: of the new images.
        image_names: of each.
        phase_flipped: phases were flipped now.
    """
    tables = with_source_columns(particles.tables)
    table = _origins_in_angstrom(tables.particles, particles.pixel_size.numpy())
    table = table.without_columns(*OF_THE_OLD_IMAGE).with_column(IMAGE_NAME, image_names)
    new: dict[str, float] = {
        "rlnImagePixelSize": grid.pixel_size,
        "rlnImageSize": grid.box_size,
        "rlnImageDimensionality": 2,
    }
    if phase_flipped:
        table = table.without_columns(PHASE_FLIPPED)
        new[PHASE_FLIPPED] = 1
    tables = tables.with_particles(table)
    if tables.optics is None:
        return regrouped(tables.with_particles(_with_constants(table, new)))
    optics = _with_constants(tables.optics.without_columns(*OF_THE_OLD_IMAGE), new)
    return replace(tables, tables={**tables.tables, OPTICS: optics})


def _with_constants(table: StarTable, values: dict[str, float]) -> StarTable:
    for name, value in values.items():
        table = table.with_column(name, np.full(len(table), value))
    return table


def _origins_in_angstrom(table: StarTable, pixel_size: Float[Array, "image"]) -> StarTable:
    for name, name_angst in IN_PIXELS.items():
        if table.has(name) and not table.has(name_angst):
            table = table.with_column(name_angst, table.number(name) * pixel_size)
    return table.without_columns(*IN_PIXELS)
