"""Which files of a RELION 5 project belong together: optimisation sets; paths from the project's folder."""

import logging
from pathlib import Path

from cryoatlas.errors import InputError, MetadataError
from cryoatlas.io.star import read_star
from cryoatlas.particles.stack_files import find_stacks

logger = logging.getLogger(__name__)

PARTICLES_FILE, TOMOGRAMS_FILE = "rlnTomoParticlesFile", "rlnTomoTomogramsFile"
LARGEST_SET_FILE = 2**16
"""Bytes: an optimisation set names a handful of files."""


def optimisation_set(path: Path) -> tuple[str, str] | None:
    """Files of particles and of tomograms that an optimisation set names; None if `path` is something else.

    The second is empty if there is none.

    Raises:
        FormatError: it is no star file.
    """
    if not path.is_file() or not 0 < path.stat().st_size < LARGEST_SET_FILE:
        return None
    for table in read_star(path).values():
        if table.has(PARTICLES_FILE):
            tomograms = str(table.text(TOMOGRAMS_FILE)[0]) if table.has(TOMOGRAMS_FILE) else ""
            return str(table.text(PARTICLES_FILE)[0]), tomograms
    return None


def set_beside(path: Path) -> tuple[Path, tuple[str, str]]:
    """The one optimisation set in the folder of a file of particles that names it, and what it names.

    Raises:
        FormatError: one of them is no star file.
        MetadataError: there is none, or more than one.
    """
    found = []
    for each in sorted(path.parent.glob("*optimisation_set.star")):
        members = optimisation_set(each)
        if members is not None and Path(members[0]).name == path.name:
            found.append((each, members))
    if len(found) != 1:
        raise MetadataError(
            f"{path} lists particles that are stacks of tilt images, whose geometry is in a file of "
            f"tomograms, and {len(found)} optimisation sets beside it name it: give the optimisation set "
            "(…optimisation_set.star) in its place."
        )
    logger.info("%s: geometry of the tilt series from %s", path, found[0][0])
    return found[0]


def find_project_file(name: str, star: Path) -> Path:
    """A file that a star file names from the project's folder: beside it, in the working folder, or above.

    Raises:
        InputError: it is nowhere.
    """
    found = find_stacks([name], star, None)[0]
    if found is None:
        raise InputError(
            f"{star} names the file {name}, which is neither beside it nor in the working folder nor in a "
            "folder above: run in the RELION project's folder, or copy the file beside."
        )
    return found
