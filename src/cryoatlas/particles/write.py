"""Particles → star file: the user's rows, in order and untouched, with new poses and columns."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryoatlas.geometry.pose import Pose
from cryoatlas.io.star import write_star
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.stack_files import IMAGE_NAME


def write_particles(
    path: Path | str,
    particles: ParticleSet,
    pose: Pose | None = None,
    extra_columns: Mapping[str, Iterable] | None = None,
    *,
    keep_image_names: bool = False,
) -> None:
    """Write particles as a star file beside, or far from, the one they came from.

    Rows and columns are those of the file that was read, every value as it was written there, but
    for what is asked for here.

    Args:
        path: the new star file.
        particles: all or some of those of a file.
        pose: replaces the file's angles and origins (in Å if the file has optics groups, else in px).
        extra_columns: names without the leading underscore, with one value per particle.
        keep_image_names: leave rlnImageName as it was; otherwise stacks are named relative to the
            folder of the new file.

    Raises:
        OutputError: the file cannot be written.
    """
    if pose is not None:
        particles = particles.with_pose(pose)
    table = particles.tables.particles
    if not keep_image_names:
        table = table.with_column(IMAGE_NAME, _image_names(particles, Path(path).parent))
    for name, values in (extra_columns or {}).items():
        table = table.with_column(name, values)
    write_star(path, particles.tables.with_particles(table).tables)


def _image_names(particles: ParticleSet, folder: Path) -> list[str]:
    """Names that lead from `folder` to the stacks; what stands before the ``@`` is kept as it was."""
    stacks = [os.path.relpath(header.path, folder) for header in particles.stacks]
    entries = particles.tables.particles.text(IMAGE_NAME)
    numbers = [entry.rpartition("@") for entry in entries]
    return [
        f"{number}{at}{stacks[stack]}"
        for (number, at, _), stack in zip(numbers, particles.addresses.stack, strict=True)
    ]
