"""Every kind of file that particles come in → the tables of a star file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoatlas.errors import ConfigError, FormatError
from cryoatlas.io.mrc import read_header
from cryoatlas.particles.bare_stacks import LIST_SUFFIX, STACK_SUFFIXES, header_pixel_sizes, stack_tables
from cryoatlas.particles.cryosparc import CS_SUFFIX, read_cs_tables
from cryoatlas.particles.indices import read_indices
from cryoatlas.particles.joining import PIXEL_SIZE, companion_pixel_size, with_ctf_of, with_poses_of
from cryoatlas.particles.metadata import ParticleTables
from cryoatlas.particles.optics import regrouped
from cryoatlas.particles.sources import is_pickle
from cryoatlas.particles.stack_files import image_addresses, locate_stacks
from cryoatlas.particles.tilt_stacks import read_star_particles
from cryoatlas.shapes import Array, Float

BOX = "rlnImageSize"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is given beside a file of particles."""

    datadir: Path | str | None = None
    """Where stacks are sought first."""
    poses: Path | str | None = None
    """File of the poses, in place of those in the file of particles."""
    ctf: Path | str | None = None
    """File of the CTF parameters, likewise."""
    passthrough: Sequence[Path | str] = ()
    """cryoSPARC's further files of the same particles."""
    indices: Path | str | None = None
    """File of the positions of the particles to take."""


def read_any_tables(path: Path | str, beside: Beside) -> ParticleTables:
    """The particles of a file, as tables of RELION's.

    Args:
        path: star file, .cs file, list of stacks (.txt), or image stack.
        beside: other files that say more of them.

    Raises:
        InputError: a file is missing.
        FormatError: a file is of another format.
        MetadataError: columns are missing, or the files do not belong together.
        ImageDataError: a stack without star file is a volume, or its images are not square.
        ConfigError: passthrough files are given with something else than a .cs file.
    """
    path = Path(path)
    tables = read_images(path, beside)
    if beside.ctf is not None and not is_bare(path):
        tables = add_ctf(tables, beside)
    if beside.poses is not None:
        tables = add_poses(tables, beside)
    if beside.indices is not None:
        tables = tables.select(read_indices(beside.indices, len(tables)))
    files = {"poses": beside.poses, "ctf": beside.ctf, "indices": beside.indices}
    files |= {f"passthrough_{number}": file for number, file in enumerate(beside.passthrough, 1)}
    joined = tuple((name, Path(file)) for name, file in files.items() if file is not None)
    return replace(tables, joined=joined)


def read_images(path: Path, beside: Beside) -> ParticleTables:
    """What a file itself says of its particles; of stacks without star file, with CTF and pixel size.

    Raises:
        InputError, FormatError, MetadataError, ImageDataError, ConfigError: as `read_any_tables`.
    """
    is_cs = path.suffix.lower() == CS_SUFFIX
    if beside.passthrough and not is_cs:
        raise ConfigError(f"--passthrough goes with a .cs file of cryoSPARC's, but the particles are {path}.")
    if is_pickle(path):
        raise FormatError(
            f"{path} holds no images: give the stack (.mrcs) or the list of stacks (.txt) as particles, and "
            "this file as --poses or --ctf."
        )
    if is_bare(path):
        return _bare_stacks(path, beside)
    return read_cs_tables(path, beside.passthrough) if is_cs else read_star_particles(path, beside.datadir)


def is_bare(path: Path) -> bool:
    """Whether a file's name is that of an image stack or of a list of such."""
    return path.suffix.lower() in (LIST_SUFFIX, *STACK_SUFFIXES)


def add_ctf(tables: ParticleTables, beside: Beside) -> ParticleTables:
    """The particles with the CTF of `beside`."""
    assert beside.ctf is not None
    return with_ctf_of(tables, beside.ctf, _boxes(tables, beside.datadir) if is_pickle(beside.ctf) else None)


def add_poses(tables: ParticleTables, beside: Beside) -> ParticleTables:
    """The particles with the poses of `beside`."""
    assert beside.poses is not None
    box = _boxes(tables, beside.datadir) if is_pickle(beside.poses) else None
    return with_poses_of(tables, beside.poses, box)


def _bare_stacks(path: Path, beside: Beside) -> ParticleTables:
    """Images alone, with CTF, and with a pixel size from the first file that has one."""
    tables, stated = stack_tables(path, beside.datadir)
    if beside.ctf is not None:
        tables = add_ctf(tables, beside)
    if not tables.has(PIXEL_SIZE):
        sizes = None if beside.poses is None else companion_pixel_size(beside.poses, tables)
        sizes = header_pixel_sizes(path, stated) if sizes is None else sizes
        tables = tables.with_particles(tables.particles.with_column(PIXEL_SIZE, sizes))
    return regrouped(tables)


def _boxes(tables: ParticleTables, datadir: Path | str | None) -> Float[Array, "image"]:
    """Side of every image, px, from the tables or from the stacks."""
    if tables.has(BOX):
        return tables.number(BOX)
    addresses = image_addresses(tables.particles)
    headers = [read_header(path) for path in locate_stacks(addresses.names, tables.path, datadir)]
    return np.array([float(header.box_size) for header in headers])[addresses.stack]
