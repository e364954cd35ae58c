"""Every kind of file that particles come in → the tables of a star file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoatlas.errors import ConfigError, FormatError
from cryoatlas.io.mrc import read_header
from cryoatlas.particles.bare_stacks import LIST_SUFFIX, STACK_SUFFIXES, header_pixel_sizes, stack_tables
from cryoatlas.particles.cryosparc import CS_SUFFIX, read_cs_tables
from cryoatlas.particles.indices import read_indices
from cryoatlas.particles.joining import PIXEL_SIZE, companion_pixel_size, with_ctf_of, with_poses_of
from cryoatlas.particles.metadata import ParticleTables, read_tables
from cryoatlas.particles.optics import regrouped
from cryoatlas.particles.sources import is_pickle
from cryoatlas.particles.stack_files import image_addresses, locate_stacks
from cryoatlas.shapes import Array, Float

BOX = "rlnImageSize"


def read_any_tables(
    path: Path | str,
    *,
    datadir: Path | str | None = None,
    poses: Path | str | None = None,
    ctf: Path | str | None = None,
    passthrough: Sequence[Path | str] = (),
    indices: Path | str | None = None,
) -> ParticleTables:
    """The particles of a file, as tables of RELION's.

    Args:
        path: star file, .cs file, list of stacks (.txt), or image stack.
        datadir: where stacks are sought first.
        poses: file of the poses, in place of those in `path`.
        ctf: file of the CTF parameters, likewise.
        passthrough: cryoSPARC's further files of the same particles.
        indices: file of the positions of the particles to take.

    Raises:
        InputError: a file is missing.
        FormatError: a file is of another format.
        MetadataError: columns are missing, or the files do not belong together.
        ImageDataError: a stack without star file is a volume, or its images are not square.
        ConfigError: passthrough files are given with something else than a .cs file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if passthrough and suffix != CS_SUFFIX:
        raise ConfigError(f"--passthrough goes with a .cs file of cryoSPARC's, but the particles are {path}.")
    if is_pickle(path):
        raise FormatError(
            f"{path} holds no images: give the stack (.mrcs) or the list of stacks (.txt) as particles, and "
            "this file as --poses or --ctf."
        )
    if suffix in (LIST_SUFFIX, *STACK_SUFFIXES):
        tables = _bare_stacks(path, datadir, poses, ctf)
    else:
        tables = read_cs_tables(path, passthrough) if suffix == CS_SUFFIX else read_tables(path)
        if ctf is not None:
            tables = with_ctf_of(tables, ctf, _boxes(tables, datadir) if is_pickle(ctf) else None)
    if poses is not None:
        tables = with_poses_of(tables, poses, _boxes(tables, datadir) if is_pickle(poses) else None)
    return tables if indices is None else tables.select(read_indices(indices, len(tables)))


def _bare_stacks(
    path: Path, datadir: Path | str | None, poses: Path | str | None, ctf: Path | str | None
) -> ParticleTables:
    """Images alone, with CTF and with a pixel size from the first file that has one."""
    tables, stated = stack_tables(path, datadir)
    if ctf is not None:
        tables = with_ctf_of(tables, ctf, tables.number(BOX))
    if not tables.has(PIXEL_SIZE):
        sizes = None if poses is None else companion_pixel_size(poses, tables)
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
