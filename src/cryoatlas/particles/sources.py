"""CTF parameters and poses alone, without images: from star files, .cs files and cryoDRGN's pickles."""

from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import ConfigError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.io import cryodrgn
from cryoatlas.io.cryosparc import read_cs
from cryoatlas.io.star import StarTable
from cryoatlas.particles.cryosparc import CS_SUFFIX, POSE, cs_columns
from cryoatlas.particles.ctf_units import check_ctf_units
from cryoatlas.particles.metadata import (
    ANGLES,
    DEFOCUS,
    ORIGINS,
    ParticleTables,
    ctf_parameters,
    pixel_sizes,
    poses,
    read_tables,
    to_ctf_parameters,
)
from cryoatlas.shapes import Array

PICKLE_SUFFIXES = (".pkl", ".pickle")
PICKLE_COLUMNS = (*DEFOCUS, "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnPhaseShift")
"""What the columns of a ctf.pkl are in RELION's words, after the box and the pixel size."""


def is_pickle(path: Path | str) -> bool:
    """Whether a file's name is that of a pickle."""
    return Path(path).suffix.lower() in PICKLE_SUFFIXES


def read_columns(path: Path | str) -> ParticleTables:
    """The tables of a star or .cs file whose poses or CTF are wanted, whether it names images or not.

    Raises:
        InputError: there is no such file.
        FormatError: it is of another format.
        MetadataError: a column holds what it should not.
    """
    return cs_columns(read_cs(path)) if Path(path).suffix.lower() == CS_SUFFIX else read_tables(path)


def read_ctf(path: Path | str) -> CTFParameters:
    """CTF parameters of every row of a star file, a .cs file, or a cryoDRGN ``ctf.pkl``.

    Raises:
        InputError: there is no such file.
        FormatError: it is of another format.
        MetadataError: it has no CTF, some of it is missing, or values are in other units.
    """
    if is_pickle(path):
        table = cryodrgn.read_ctf_table(path)
        values: dict[str, Array] = dict(zip(PICKLE_COLUMNS, table[:, 2:].T, strict=True))
        check_ctf_units(values, StarTable.from_columns(values, source=str(path)))
        return to_ctf_parameters(values, b_factor=0.0)
    parameters = ctf_parameters(read_columns(path))
    if parameters is None:
        raise MetadataError(f"{path} has no CTF: it lacks {', '.join(DEFOCUS)}.")
    return parameters


def read_poses(path: Path | str, *, box_size: int | None = None, pixel_size: float | None = None) -> Pose:
    """Poses of every row of a star file, a .cs file, or a cryoDRGN ``poses.pkl``.

    Args:
        path: the file.
        box_size: px, of the images that a pickle's shifts belong to.
        pixel_size: Å, likewise.

    Raises:
        InputError: there is no such file.
        FormatError: it is of another format.
        MetadataError: it has no poses, or some of the columns are missing.
        ConfigError: it is a pickle, whose shifts are fractions of a box, and the box is not given.
    """
    if is_pickle(path):
        if box_size is None or pixel_size is None:
            raise ConfigError(
                f"{path} holds shifts as fractions of the box: give the box size and the pixel size of the "
                "images they belong to."
            )
        rotations, shifts = cryodrgn.read_poses(path, box_size, pixel_size)
        return Pose(torch.from_numpy(rotations), torch.from_numpy(shifts))
    return require_poses(read_columns(path))


def require_poses(tables: ParticleTables) -> Pose:
    """The poses of tables; their pixel size is needed only where origins are in px.

    Raises:
        MetadataError: they have no poses, or some of the columns are missing.
    """
    in_angstrom = not tables.missing(*ORIGINS)
    pose = poses(tables, np.ones(len(tables)) if in_angstrom else pixel_sizes(tables))
    if pose is None:
        lacking = [POSE] if tables.path.suffix.lower() == CS_SUFFIX else tables.missing(*ANGLES)
        raise MetadataError(
            f"{tables.path} has no poses: it lacks {', '.join(lacking)}. Give the file of a refinement."
        )
    return pose
