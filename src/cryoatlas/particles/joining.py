"""CTF and poses from files of their own, joined to the particles they belong to."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.io import cryodrgn
from cryoatlas.io.star import StarTable
from cryoatlas.particles.ctf_units import check_ctf_units
from cryoatlas.particles.metadata import (
    DEFOCUS,
    MICROSCOPE,
    OPTICS,
    ParticleTables,
    pixel_sizes,
    with_pose_columns,
)
from cryoatlas.particles.microscope import ABERRATIONS, IMAGE_STATE
from cryoatlas.particles.optics import regrouped
from cryoatlas.particles.source import UID
from cryoatlas.particles.sources import PICKLE_COLUMNS, is_pickle, read_columns, require_poses
from cryoatlas.particles.stack_files import IMAGE_NAME
from cryoatlas.shapes import Array, Float, Int

logger = logging.getLogger(__name__)

PIXEL_SIZE = "rlnImagePixelSize"
CTF_COLUMNS = (
    *DEFOCUS,
    *MICROSCOPE,
    "rlnPhaseShift",
    "rlnCtfBfactor",
    "rlnCtfScalefactor",
    *ABERRATIONS,
)
"""What a file of CTF parameters replaces as a whole."""
SAME_SIZE = 0.01
"""Relative difference up to which two statements of the width of an image count as equal."""


@dataclass(frozen=True)
class Companion:
    """A file with poses or CTF of particles that another file lists."""

    path: Path
    tables: ParticleTables | None
    """None for a pickle."""
    rows: Int[Array, "image"]
    """The row that each particle has in it."""

    @classmethod
    def of(
        cls, path: Path | str, particles: ParticleTables, kind: str, count: int | None = None
    ) -> "Companion":
        """Read a file, and find the row of every particle: by uid where both are cryoSPARC's, else by order.

        Args:
            path: a star or .cs file, or a pickle that is read elsewhere.
            particles: that it is to be joined to.
            kind: what is sought in it, for messages.
            count: rows of a pickle.

        Raises:
            MetadataError: it has another number of rows, or names the same images in another order.
        """
        path = Path(path)
        tables = None if is_pickle(path) else read_columns(path)
        if tables is not None and tables.particles.has(UID) and particles.particles.has(UID):
            return cls(path, tables, _rows_by_uid(path, tables, particles))
        found = count if tables is None else len(tables)
        if found != len(particles):
            raise MetadataError(
                f"{path} has {kind} of {found:,} particles, but {particles.path} lists {len(particles):,}: "
                "give one row for each particle, in the same order; --indices is applied to both afterwards."
            )
        if tables is not None:
            _refuse_other_order(path, tables, particles)
        return cls(path, tables, np.arange(len(particles)))


def with_ctf_of(
    particles: ParticleTables, path: Path | str, box: Float[Array, "image"] | None
) -> ParticleTables:
    """Particles with the CTF of another file in place of their own.

    The pixel size is taken from it as well where the particles' file has none.

    Args:
        particles: to be joined to.
        path: star file, .cs file, or cryoDRGN's ctf.pkl.
        box: side of every image, px, which the pixel size in a pickle is scaled to.

    Raises:
        InputError: there is no such file.
        FormatError: it is of another format.
        MetadataError: it has no CTF, another number of rows, or images of another width.
    """
    if is_pickle(path):
        assert box is not None, "the pixel size in a pickle needs a box"
        new = _pickled_ctf(Path(path), particles, box)
    else:
        new = _ctf_of(Companion.of(path, particles, "CTF parameters"))
    if _has_pixel_size(particles):
        # A file of its own stands for the images: what it says of them counts, and what it does not say too.
        new = {name: values for name, values in new.items() if name in CTF_COLUMNS}
    joined = particles.particles.without_columns(*CTF_COLUMNS)
    for name, values in new.items():
        joined = joined.with_column(name, values)
    result = particles.with_particles(joined)
    if particles.optics is None:
        return result
    optics = particles.optics.without_columns(*CTF_COLUMNS)
    return regrouped(replace(result, tables={**result.tables, OPTICS: optics}))


def with_poses_of(
    particles: ParticleTables, path: Path | str, box: Float[Array, "image"] | None
) -> ParticleTables:
    """Particles with the poses of another file in place of their own.

    Args:
        particles: with a pixel size.
        path: star file, .cs file, or cryoDRGN's poses.pkl.
        box: side of every image, px, which a pickle's shifts are fractions of.

    Raises:
        InputError: there is no such file.
        FormatError: it is of another format.
        MetadataError: it has no poses, or another number of rows.
    """
    sizes = pixel_sizes(particles)
    if is_pickle(path):
        assert box is not None, "a pickle's shifts need a box"
        rotations, fractions = cryodrgn.read_poses(path, 1, 1.0)
        Companion.of(path, particles, "poses", len(rotations))
        shifts = fractions * (box * sizes)[:, None]
        return with_pose_columns(
            particles, Pose(torch.from_numpy(rotations), torch.from_numpy(shifts)), sizes
        )
    companion = Companion.of(path, particles, "poses")
    assert companion.tables is not None
    pose = require_poses(companion.tables)
    return with_pose_columns(particles, pose[torch.from_numpy(companion.rows)], sizes)


def companion_pixel_size(path: Path | str, particles: ParticleTables) -> Float[Array, "image"] | None:
    """The pixel size of every particle in the file of its pose, Å; None if it has none."""
    if is_pickle(path):
        return None
    companion = Companion.of(path, particles, "poses")
    assert companion.tables is not None
    return pixel_sizes(companion.tables)[companion.rows] if _has_pixel_size(companion.tables) else None


def _has_pixel_size(tables: ParticleTables) -> bool:
    return any(tables.has(name) for name in (PIXEL_SIZE, "rlnPixelSize", "rlnDetectorPixelSize"))


def _ctf_of(companion: Companion) -> dict[str, Array]:
    tables = companion.tables
    assert tables is not None
    missing = tables.missing(*DEFOCUS)
    if missing:
        raise MetadataError(f"{companion.path} has no CTF: it lacks {', '.join(missing)}.")
    present = [name for name in (*CTF_COLUMNS, *IMAGE_STATE) if tables.has(name)]
    new = {name: tables.text(name)[companion.rows] for name in present}
    if _has_pixel_size(tables):
        new[PIXEL_SIZE] = pixel_sizes(tables)[companion.rows]
    return new


def _pickled_ctf(path: Path, particles: ParticleTables, box: Float[Array, "image"]) -> dict[str, Array]:
    table = cryodrgn.read_ctf_table(path)
    Companion.of(path, particles, "CTF parameters", len(table))
    values: dict[str, Array] = dict(zip(PICKLE_COLUMNS, table[:, 2:].T, strict=True))
    check_ctf_units(values, StarTable.from_columns(values, source=str(path)))
    width = table[:, 0] * table[:, 1]
    if _has_pixel_size(particles):
        _refuse_other_width(path, particles, width, box)
        return values
    if (box != table[:, 0]).any():
        logger.info(
            "%s is of images of %g px, %s of %g px: the pixel size is scaled to the same width",
            path, table[0, 0], particles.path, box[0],
        )  # fmt: skip
    return {**values, PIXEL_SIZE: width / box}


def _refuse_other_width(
    path: Path, particles: ParticleTables, width: Float[Array, "image"], box: Float[Array, "image"]
) -> None:
    own = box * pixel_sizes(particles)
    other = np.flatnonzero(np.abs(width / own - 1) > SAME_SIZE).tolist()
    if other:
        row = other[0]
        raise MetadataError(
            f"row {row + 1} of {path} is of an image {width[row]:g} Å wide (box times pixel size), but that "
            f"of {particles.particles.row_name(row)} is {own[row]:g} Å wide: the files do not belong "
            "together, or one of them has a wrong pixel size."
        )


def _rows_by_uid(path: Path, tables: ParticleTables, particles: ParticleTables) -> Int[Array, "image"]:
    theirs, ours = tables.particles.text(UID), particles.particles.text(UID)
    place = {uid: row for row, uid in enumerate(theirs.tolist())}
    rows = np.array([place.get(uid, -1) for uid in ours.tolist()])
    absent = np.flatnonzero(rows < 0).tolist()
    if absent:
        raise MetadataError(
            f"{len(absent):,} of {len(particles):,} particles of {particles.path} are not in {path}, the "
            f"first with uid {ours[absent[0]]}: the files are of different particles."
        )
    return rows


def _refuse_other_order(path: Path, tables: ParticleTables, particles: ParticleTables) -> None:
    if not tables.particles.has(IMAGE_NAME) or not particles.particles.has(IMAGE_NAME):
        return
    theirs, ours = tables.particles.text(IMAGE_NAME), particles.particles.text(IMAGE_NAME)
    other = np.flatnonzero(theirs != ours)
    if len(other) and (np.sort(theirs) == np.sort(ours)).all():
        raise MetadataError(
            f"{path} lists the same images as {particles.path} in another order, the first other one in row "
            f"{other[0] + 1}: sort one of them like the other."
        )
