"""MRC files ↔ arrays: volumes here, image stacks in `cryoatlas.io.stack`, headers in `mrc_header`.

Arrays are ordered z, y, x for volumes and image, y, x for stacks (convention C2).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatlas.errors import FormatError, ImageDataError
from cryoatlas.io.mrc_header import MrcHeader, encode_header, read_header
from cryoatlas.io.output import atomic_path
from cryoatlas.io.stack import NO_ORIGIN, RunningStatistics, StackWriter, read_images, read_sections
from cryoatlas.shapes import Array, Float, Tensor

__all__ = ["Map", "MrcHeader", "StackWriter", "read_header", "read_images", "read_volume", "write_volume"]

SPACING_TOLERANCE = 1e-3
"""Relative difference between the axes up to which voxels count as cubes."""


@dataclass(frozen=True)
class Map:
    """A volume as a file holds it."""

    array: Float[Array, "z y x"]
    """Density, float32."""
    pixel_size: float
    """Side of the cubic voxel, Å."""
    origin: tuple[float, float, float]
    """Coordinates x, y, z of the first voxel, Å."""


def read_volume(path: Path | str, pixel_size: float | None = None) -> Map:
    """Read a volume as float32, its axes brought into the order z, y, x.

    Args:
        path: an ``.mrc`` or ``.map`` file.
        pixel_size: Å, in place of what the header says.

    Raises:
        InputError: there is no such file.
        FormatError: as `read_header`; or the voxels are not cubes, or the header has no pixel size and
            none is given.
        ImageDataError: a voxel is NaN or infinite.
    """
    header = read_header(path)
    if pixel_size is None:
        pixel_size = _voxel_side(header)
    sections = read_sections(header, np.arange(header.sections))
    if not np.isfinite(sections).all():
        raise ImageDataError(f"{header.path} holds voxels that are NaN or infinite: make the map again.")
    stored_axes = header.axes[::-1]
    array = np.ascontiguousarray(sections.transpose([stored_axes.index(axis) for axis in (3, 2, 1)]))
    return Map(array, pixel_size, header.origin)


def write_volume(
    path: Path | str,
    array: Float[Array, "z y x"] | Float[Tensor, "z y x"],
    pixel_size: float,
    origin: tuple[float, float, float] = NO_ORIGIN,
) -> None:
    """Write a volume as little-endian float32, atomically.

    Args:
        path: the new file.
        array: density.
        pixel_size: Å.
        origin: coordinates x, y, z of the first voxel, Å.

    Raises:
        OutputError: the file cannot be written.
    """
    voxels = np.ascontiguousarray(array, dtype="<f4")
    sections, rows, columns = voxels.shape
    statistics = RunningStatistics()
    statistics.add(voxels)
    header = encode_header((sections, rows, columns), pixel_size, origin, statistics.summary(), stack=False)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        stream.write(voxels.data)


def _voxel_side(header: MrcHeader) -> float:
    if header.spacing is None:
        raise FormatError(
            f"the header of {header.path} has no usable cell, so the pixel size of the map is unknown: give "
            "it, or set it in the header."
        )
    if max(header.spacing) > (1 + SPACING_TOLERANCE) * min(header.spacing):
        sides = " × ".join(f"{side:.4g}" for side in header.spacing)
        raise FormatError(
            f"the voxels of {header.path} measure {sides} Å, but only cubes can be used: resample the map, "
            "or give the pixel size if the header is wrong."
        )
    return header.spacing[0]
