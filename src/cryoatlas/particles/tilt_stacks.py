r"""Particles of RELION 5's tilt series, one row and one stack of images for each → one row for each image.

With A the rotation of `TiltSeries`, S that of rlnTomoSubtomogramRot, Tilt, Psi and R that of rlnAngleRot,
Tilt, Psi (both as in convention C3), o the origin (rlnOriginX, Y, ZAngst) and c the particle's coordinates
from the tomogram's centre, the image of a particle in a tilt image has

.. math:: R_\mathrm{image} = A\,S\,R, \qquad t = -(A\,S\,o)_{xy}, \qquad
          \Delta f = \Delta f_\mathrm{centre} + h\,\bigl(A\,(c - S\,o)\bigr)_z,

h being `TiltSeries.depth_sign`. These are the relations of RELION 5 (src/exp_model.cpp and
src/jaz/tomography). As there, the signal decays with exposure (`radiation_damage`), or with a B-factor
per e/Å² if the tomograms have one; RELION weights the images that it premultiplies in the same way.
"""

from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import ImageDataError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import from_relion_angles
from cryoatlas.io.mrc import read_header
from cryoatlas.io.star import StarTable
from cryoatlas.particles.metadata import (
    ANGLES,
    DAMAGING_EXPOSURE,
    MICROSCOPE,
    OPTICS,
    ORIGINS,
    ParticleTables,
    pixel_sizes,
    read_tables,
)
from cryoatlas.particles.optimisation_set import (
    TOMOGRAMS_FILE,
    find_project_file,
    optimisation_set,
    set_beside,
)
from cryoatlas.particles.stack_files import IMAGE_NAME, locate_stacks
from cryoatlas.particles.tilt_geometry import (
    B_PER_EXPOSURE,
    DEFOCUS,
    EXPOSURE,
    NAME,
    TiltSeries,
    Tomograms,
    numbers_in_brackets,
)
from cryoatlas.particles.tilt_groups import PARTICLE
from cryoatlas.shapes import Array, Bool, Float, Int, Tensor

STACKS_FLAG, VISIBLE = "rlnTomoSubTomosAre2DStacks", "rlnTomoVisibleFrames"
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
ORIGIN_Z = "rlnOriginZAngst"
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
OF_THE_PARTICLE_ALONE = (VISIBLE, ORIGIN_Z, "rlnCtfImage", *SUBTOMOGRAM_ANGLES)
"""Columns that have no meaning for a single image."""


def read_star_particles(path: Path | str, datadir: Path | str | None = None) -> ParticleTables:
    """The particles of a star file, or those that an optimisation set of RELION 5 names.

    Args:
        path: star file of particles, or optimisation set.
        datadir: where image stacks are sought first.

    Raises:
        InputError: a file is missing.
        FormatError: one is no star file, or it is not clear which table holds the particles.
        MetadataError: particles are stacks of tilt images, and their geometry is missing or wrong.
        ImageDataError: a stack holds another number of images than its particle has tilts.
    """
    path = Path(path)
    members = optimisation_set(path)
    tables = read_tables(path if members is None else find_project_file(members[0], path))
    if not _are_tilt_stacks(tables):
        return tables
    if members is None:
        path, members = set_beside(path)
    if not members[1]:
        raise MetadataError(
            f"{path} has no {TOMOGRAMS_FILE}, without which the images of {tables.path} have no geometry: "
            "use the optimisation set of the job that extracted or refined the particles."
        )
    return expand_tilt_stacks(tables, Tomograms(find_project_file(members[1], path)), datadir)


def expand_tilt_stacks(
    tables: ParticleTables, tomograms: Tomograms, datadir: Path | str | None
) -> ParticleTables:
    """One row for each image, in the order of the particles and, within each, of the tilt series.

    Rows remember the number of their particle's row in the file.

    Args:
        tables: with one row per particle.
        tomograms: that the particles lie in.
        datadir: where image stacks are sought first.

    Raises:
        InputError, MetadataError, ImageDataError: as `read_star_particles`.
    """
    names = tables.particles.text(NAME)
    visible = _visible(tables.particles)
    sections = _sections(tables, datadir)
    parts = []
    for name in dict.fromkeys(str(each) for each in names):
        rows = np.flatnonzero(names == name)
        series = tomograms.series(name)
        particle, frame, section = _images(tables.particles, rows, visible, sections, series)
        columns = _columns(tables, series, torch.from_numpy(particle), torch.from_numpy(frame))
        parts.append({"particle": particle, "section": section, **columns})
    order = np.argsort(np.concatenate([part["particle"] for part in parts]), kind="stable")
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    columns = {key: np.concatenate([part[key] for part in parts])[order] for key in shared}
    table = _table(tables.particles, columns.pop("particle"), columns.pop("section"), columns)
    kept = {key: value for key, value in tables.tables.items() if key == OPTICS}
    return ParticleTables(tables.path, {**kept, tables.block: table}, tables.block)


def _table(
    particles: StarTable,
    particle: Int[Array, "image"],
    section: Int[Array, "image"],
    columns: dict[str, Float[Array, "image"]],
) -> StarTable:
    """The rows of images: what is known of their particles, and what is new."""
    stacks = particles.text(IMAGE_NAME)[particle].tolist()
    addresses = [f"{n + 1:06d}@{_stack(name)}" for n, name in zip(section.tolist(), stacks, strict=True)]
    new = StarTable.from_columns({IMAGE_NAME: addresses, **columns})
    own = {
        name: column[particle]
        for name, column in particles.columns.items()
        if name not in (*OF_THE_PARTICLE_ALONE, *ANGLES, *ORIGINS)
    }
    if PARTICLE not in own:
        numbers = [f"particle_{number + 1:07d}" for number in particle.tolist()]
        own[PARTICLE] = StarTable.from_columns({PARTICLE: numbers}).columns[PARTICLE]
    rows = np.arange(1, len(particles) + 1) if particles.rows is None else particles.rows
    return StarTable({**own, **new.columns}, particles.source, rows=rows[particle])


def _images(
    particles: StarTable,
    rows: Int[Array, "some"],
    visible: list[Bool[Array, "frame"]],
    sections: Int[Array, "particle"],
    series: TiltSeries,
) -> tuple[Int[Array, "image"], Int[Array, "image"], Int[Array, "image"]]:
    """Particle, tilt and section of its stack of each image of the particles in one tomogram.

    RELION writes those images alone in which a particle is visible; WarpTools writes all.
    """
    found = []
    for row in rows.tolist():
        seen = visible[row]
        if len(seen) != len(series):
            raise MetadataError(
                f"{particles.row_name(row)} has {len(seen)} flags in {VISIBLE}, but its tilt series has "
                f"{len(series)} images: particles and tomograms are of different jobs."
            )
        frames = np.flatnonzero(seen)
        if sections[row] not in (len(frames), len(seen)):
            raise ImageDataError(
                f"the stack of {particles.row_name(row)} holds {sections[row]} images, but the particle is "
                f"visible in {len(frames)} of {len(seen)} ({VISIBLE}): star file and stack do not belong "
                "together, or the stack is not complete; extract the particles again."
            )
        numbers = np.arange(len(frames)) if sections[row] == len(frames) else frames
        found.append(np.stack([np.full(len(frames), row), frames, numbers]))
    particle, frame, section = np.concatenate(found, axis=1)
    return particle, frame, section


def _columns(
    tables: ParticleTables, series: TiltSeries, particle: Int[Tensor, "image"], frame: Int[Tensor, "image"]
) -> dict[str, Float[Array, "image"]]:
    """CTF, pose, exposure and tilt of each image, in RELION's units."""
    table, tilts = tables.particles, series.rotation[frame]
    boxes = _vectors_if_there(table, SUBTOMOGRAM_ANGLES)
    oriented = from_relion_angles(torch.zeros(len(table), 3).double() if boxes is None else boxes)
    shifts = _vectors_if_there(table, (*ORIGINS, ORIGIN_Z))
    origin = torch.zeros(len(table), 3).double() if shifts is None else shifts
    origin = (oriented @ origin[..., None])[particle]
    position = _positions(tables, series)[particle][..., None] - origin
    depth = series.depth_sign * (tilts @ position)[:, 2, 0].numpy()

    columns = {name: values[frame.numpy()] for name, values in series.columns.items()}
    for name in DEFOCUS[:2]:
        columns[name] = columns[name] + depth
    per_exposure = columns.pop(B_PER_EXPOSURE, np.zeros(len(frame)))
    columns["rlnCtfBfactor"] = per_exposure * columns[EXPOSURE]
    columns[DAMAGING_EXPOSURE] = np.where(per_exposure > 0, 0.0, columns[EXPOSURE])
    for name in MICROSCOPE:
        if name in series.microscope:
            columns[name] = np.full(len(frame), series.microscope[name])
    turns = _vectors_if_there(table, ANGLES)
    if turns is not None:
        rotation = tilts @ (oriented @ from_relion_angles(turns))[particle]
        angles, origins = Pose(rotation, -(tilts @ origin)[:, :2, 0]).to_relion()
        columns |= dict(zip((*ANGLES, *ORIGINS), (*angles.T.numpy(), *origins.T.numpy()), strict=True))
    return columns


def _positions(tables: ParticleTables, series: TiltSeries) -> Float[Tensor, "particle 3"]:
    """Of every particle, from its tomogram's centre, Å."""
    table = tables.particles
    if table.has(*CENTRED):
        return _vectors(table, CENTRED)
    sizes = pixel_sizes(tables)
    if (
        series.size is None
        or not table.has(*COORDINATES)
        or not np.allclose(sizes, series.pixel_size, rtol=1e-3)
    ):
        raise MetadataError(
            f"{table.source} lacks {', '.join(CENTRED)}, and {COORDINATES[0]} … are in pixels of which "
            "it is not certain whether they are those of the tilt images or of the particles, so the defocus "
            "of the particles is not known: extract them in RELION 5, export them unbinned or as a flat star "
            "file, one row per image, or add the three columns."
        )
    return (_vectors(table, COORDINATES) - torch.from_numpy(series.size) / 2) * series.pixel_size


def _vectors_if_there(table: StarTable, names: tuple[str, ...]) -> Float[Tensor, "particle axis"] | None:
    """Columns that stand together or not at all."""
    missing = [name for name in names if not table.has(name)]
    if len(missing) == len(names):
        return None
    if missing:
        raise MetadataError(
            f"{table.source} has a part of {', '.join(names)}, but lacks {', '.join(missing)}: add the "
            "columns, or remove the others."
        )
    return _vectors(table, names)


def _vectors(table: StarTable, names: tuple[str, ...]) -> Float[Tensor, "particle axis"]:
    return torch.from_numpy(np.stack([table.number(name) for name in names], -1))


def _visible(particles: StarTable) -> list[Bool[Array, "frame"]]:
    """In which images of its tilt series each particle is seen."""
    flags = particles.text(VISIBLE)
    known = {}
    for row, text in enumerate(flags):
        if text not in known:
            known[text] = numbers_in_brackets(particles, VISIBLE, row) > 0
    empty = [row for row, text in enumerate(flags) if not known[text].any()]
    if empty:
        raise MetadataError(
            f"{particles.row_name(empty[0])} is visible in no image ({VISIBLE}); {len(empty)} of "
            f"{len(particles)} particles are: remove these rows."
        )
    return [known[text] for text in flags]


def _sections(tables: ParticleTables, datadir: Path | str | None) -> Int[Array, "particle"]:
    """How many images the stack of each particle holds."""
    names = [_stack(entry) for entry in tables.particles.text(IMAGE_NAME)]
    unique = list(dict.fromkeys(names))
    paths = locate_stacks(unique, tables.path, datadir)
    counts = {name: read_header(path).sections for name, path in zip(unique, paths, strict=True)}
    return np.array([counts[name] for name in names])


def _stack(entry: str) -> str:
    return str(entry).rpartition("@")[2]


def _are_tilt_stacks(tables: ParticleTables) -> bool:
    """Whether each row is a particle with a stack of tilt images."""
    flags = [table.number(STACKS_FLAG)[0] for table in tables.tables.values() if table.has(STACKS_FLAG)]
    if not flags or not flags[0]:
        return False
    missing = [name for name in (NAME, VISIBLE) if not tables.particles.has(name)]
    if missing:
        raise MetadataError(
            f"{tables.path} lists stacks of tilt images ({STACKS_FLAG} is 1), but lacks "
            f"{', '.join(missing)}: use the file of RELION's extraction or refinement."
        )
    return True
