"""cryoSPARC's columns → the tables of a star file of RELION 3.1, so that all else is as for RELION.

=================================== ==============================================================
``blob/path``, ``blob/idx``         rlnImageName
``blob/psize_A``, ``blob/shape``    rlnImagePixelSize, rlnImageSize
``blob/sign``                       −1: particles are dark in the images (`ParticleTables.dark`)
``ctf/df1_A df2_A df_angle_rad``    rlnDefocusU, V, Angle
``ctf/phase_shift_rad``             rlnPhaseShift
``ctf/bfactor``, ``ctf/scale``      rlnCtfBfactor, rlnCtfScalefactor
``ctf/accel_kv cs_mm amp_contrast`` rlnVoltage, rlnSphericalAberration, rlnAmplitudeContrast
``ctf/tilt_A``                      rlnBeamTiltX, Y
``ctf/exp_group_id``                optics group (with all the above that groups share)
``alignments3D/pose``               rlnAngleRot, Tilt, Psi
``alignments3D/shift``              rlnOriginX, YAngst
``alignments3D/split``              rlnRandomSubset
``location/micrograph_path``        rlnMicrographName
``uid``                             cryoatlasUid
=================================== ==============================================================
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoatlas.errors import ImageDataError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import to_relion_angles
from cryoatlas.io.cryosparc import CsTable, read_cs
from cryoatlas.io.star import StarTable
from cryoatlas.particles.metadata import ANGLES, ORIGINS, ParticleTables
from cryoatlas.particles.optics import regrouped
from cryoatlas.particles.source import UID
from cryoatlas.particles.stack_files import IMAGE_NAME, LARGEST_NUMBER
from cryoatlas.shapes import Array, Float, Tensor

logger = logging.getLogger(__name__)

Columns = dict[str, Array | list]
Attempt = Callable[[Callable[[CsTable], Any], CsTable], Any]
CS_SUFFIX = ".cs"
BLOCK = "particles"
IMAGES = ("blob/path", "blob/idx", "blob/psize_A", "blob/shape")
DEFOCUS = {"rlnDefocusU": "ctf/df1_A", "rlnDefocusV": "ctf/df2_A", "rlnDefocusAngle": "ctf/df_angle_rad"}
MICROSCOPE = {
    "rlnVoltage": "ctf/accel_kv",
    "rlnSphericalAberration": "ctf/cs_mm",
    "rlnAmplitudeContrast": "ctf/amp_contrast",
}
PHASE_SHIFT = "ctf/phase_shift_rad"
POSE, SHIFT, POSE_PIXEL_SIZE = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"
UNMODELLED = {"ctf/shift_A": 2, "ctf/trefoil_A": 2, "ctf/tetra_A": 4, "ctf/anisomag": 4}
"""Columns that change images where they are not 0, and how many numbers each has in a row."""
ANGSTROM_PER_MM = 1e7
NUMBERS: dict[str, int | None] = {
    **dict.fromkeys((*IMAGES[1:3], "blob/sign", *DEFOCUS.values(), *MICROSCOPE.values(), PHASE_SHIFT)),
    **dict.fromkeys(("ctf/bfactor", "ctf/scale", "ctf/exp_group_id", POSE_PIXEL_SIZE)),
    "blob/shape": 2,
    "ctf/tilt_A": 2,
    POSE: 3,
    SHIFT: 2,
    **UNMODELLED,
}
"""Columns of numbers that matter, and how many numbers each has in a row; None for one that is no array."""


def _make(part: Callable[[CsTable], Any], table: CsTable) -> Any:
    return part(table)


def read_cs_tables(path: Path | str, passthrough: Sequence[Path | str] = ()) -> ParticleTables:
    """Read a ``.cs`` file with its passthrough files as the tables of a star file.

    Raises:
        InputError: there is no such file.
        FormatError: a file is no table of cryoSPARC's.
        MetadataError: a column is missing or holds what it should not; or particles are missing from a
            passthrough file.
        ImageDataError: images are not square.
    """
    tables = cs_tables(read_cs(path, passthrough))
    return replace(tables, passthrough=tuple(Path(each) for each in passthrough))


def cs_tables(table: CsTable) -> ParticleTables:
    """What `read_cs_tables` says, of a table that is read."""
    require_images(table)
    return cs_columns(table)


def require_images(table: CsTable) -> None:
    """Refuse a table that does not say where the images are.

    Raises:
        MetadataError: naming what is missing.
    """
    missing = table.missing(*IMAGES)
    if missing:
        raise MetadataError(
            f"{table.path} lacks {', '.join(missing)}: it does not say where the images are. Give the other "
            ".cs file of the job, whose name has 'passthrough' in it, with --passthrough."
        )


def cs_columns(table: CsTable, attempt: Attempt = _make) -> ParticleTables:
    """The tables of a ``.cs`` file that need not name images: a source of poses or CTF.

    Args:
        table: the file.
        attempt: calls a function with the table and gives its columns, or None if it goes without.

    Raises:
        MetadataError: a column holds what it should not.
        ImageDataError: images are not square.
    """
    columns: Columns = {}
    for part in (_image_columns, _micrograph_columns, _ctf_columns, _pose_columns):
        columns |= attempt(part, table) or {}
    columns[UID] = table.uid
    particles = StarTable.from_columns(columns, str(table.path))
    dark = attempt(is_dark, table) or False
    tables = ParticleTables(table.path, {BLOCK: particles}, BLOCK, dark=dark)
    return regrouped(tables, attempt(_exposure_groups, table))


def rotations_of(pose: Float[Array, "row 3"]) -> Float[Tensor, "row 3 3"]:
    """R (C3) of ``alignments3D/pose``, a rotation vector from image to volume coordinates."""
    import roma

    return roma.rotvec_to_rotmat(torch.from_numpy(pose)).mT


def shift_pixel_sizes(table: CsTable) -> Float[Array, "row"]:
    """Size of the pixels that ``alignments3D/shift`` counts in, Å.

    Raises:
        MetadataError: it is unknown, or not positive.
    """
    if table.has(POSE_PIXEL_SIZE):
        pixel_size = table.number(POSE_PIXEL_SIZE)
    else:
        # cryoSPARC wrote none before shifts could be in other pixels than those of the images.
        logger.info("%s has no %s; shifts are taken in pixels of the images", table.path, POSE_PIXEL_SIZE)
        if not table.has("blob/psize_A"):
            raise MetadataError(f"{table.path} has neither {POSE_PIXEL_SIZE} nor blob/psize_A.")
        pixel_size = table.number("blob/psize_A")
    if not (pixel_size > 0).all():
        row = int(np.argmin(pixel_size > 0))
        raise MetadataError(
            f"{table.row_name(row)} has {pixel_size[row]:g} Å as the pixel size of its shift "
            f"({POSE_PIXEL_SIZE}), but it must be positive."
        )
    return pixel_size


def pose_columns_of(pose: Pose, pixel_size: Float[Array, "row"]) -> dict[str, Array]:
    """The columns of cryoSPARC that say these poses: rotation vectors of Rᵀ, and shifts in px.

    Args:
        pixel_size: that shifts are counted in, ``alignments3D/psize_A``, Å.
    """
    import roma

    vectors = roma.rotmat_to_rotvec(pose.rotation.detach().cpu().double().mT)
    origins = -pose.shift.detach().cpu().double().numpy()  # t = −origin (C4)
    return {POSE: vectors.numpy(), SHIFT: origins / pixel_size[:, None]}


def beam_tilt_mrad(tilt: Float[Array, "row 2"], aberration_mm: Float[Array, "row"]) -> Float[Array, "row 2"]:
    """rlnBeamTiltX, Y (mrad) of ``ctf/tilt_A`` (Å): Cs sin(tilt), as pyem's csparc2star has it.

    Args:
        tilt: x and y, Å.
        aberration_mm: not 0 where `tilt` is not.
    """
    safe = np.where(aberration_mm == 0, 1, aberration_mm) * ANGSTROM_PER_MM
    return 1e3 * np.arcsin(tilt / safe[:, None])


def _image_columns(table: CsTable) -> Columns:
    if table.missing(*IMAGES):
        return {}
    return {
        IMAGE_NAME: _image_names(table),
        "rlnImagePixelSize": table.number("blob/psize_A"),
        "rlnImageSize": _box_sizes(table),
        "rlnImageDimensionality": np.full(len(table), 2),
    }


def _micrograph_columns(table: CsTable) -> Columns:
    name = "location/micrograph_path"
    return {"rlnMicrographName": _without_mark(table.text(name))} if table.has(name) else {}


def _exposure_groups(table: CsTable) -> list[str] | None:
    name = "ctf/exp_group_id"
    return [f"exposureGroup{group:g}" for group in table.number(name).tolist()] if table.has(name) else None


def _image_names(table: CsTable) -> list[str]:
    index = table.number("blob/idx")
    wrong = np.flatnonzero((index < 0) | (index >= LARGEST_NUMBER) | (index != np.round(index)))
    if len(wrong):
        raise MetadataError(
            f"{table.row_name(int(wrong[0]))} has {index[wrong[0]]:g} as blob/idx, but the position of an "
            "image in its stack was expected, from 0: the file was altered."
        )
    names = _without_mark(table.text("blob/path"))
    numbers = (index + 1).astype(np.int64).tolist()
    return [f"{number:06d}@{name}" for number, name in zip(numbers, names, strict=True)]


def _without_mark(paths: Array) -> Array:
    """Paths without the ``>`` that cryoSPARC puts before those inside its project."""
    return np.array([path.removeprefix(">") for path in paths], paths.dtype)


def _box_sizes(table: CsTable) -> Array:
    shape = table.number("blob/shape", 2)
    uneven = np.flatnonzero((shape[:, 0] != shape[:, 1]) | (shape[:, 0] < 1))
    if len(uneven):
        height, width = shape[uneven[0]].tolist()
        raise ImageDataError(
            f"{table.row_name(int(uneven[0]))} is {width:g} × {height:g} px large (blob/shape), but images "
            "of particles are square: give particles that were extracted, not micrographs."
        )
    return shape[:, 0].astype(np.int64)


def is_dark(table: CsTable) -> bool:
    """Whether particles are dark on a bright ground (``blob/sign`` −1).

    Raises:
        MetadataError: some are and some are not.
    """
    if not table.has("blob/sign"):
        return False
    signs = np.unique(table.number("blob/sign")).tolist()
    if signs not in ([1.0], [-1.0]):
        raise MetadataError(
            f"{table.path} has {', '.join(f'{sign:g}' for sign in signs[:4])} as blob/sign, but one sign for "
            "all, 1 or -1, was expected: particles of both signs were put together; split them in cryoSPARC."
        )
    return signs == [-1.0]


def _ctf_columns(table: CsTable) -> Columns:
    missing = table.missing(*DEFOCUS.values(), *MICROSCOPE.values())
    if len(table.missing(*DEFOCUS.values())) == len(DEFOCUS):
        return {}
    if missing:
        raise MetadataError(
            f"{table.path} has CTF columns, but lacks {', '.join(missing)}: export the particles again, or "
            "give the file that has them with --passthrough."
        )
    columns: Columns = {}
    for name, theirs in {**DEFOCUS, **MICROSCOPE, "rlnPhaseShift": PHASE_SHIFT}.items():
        if table.has(theirs):
            values = table.number(theirs)
            columns[name] = np.rad2deg(values) if theirs.endswith("_rad") else values
    for name, theirs, neutral in (("rlnCtfBfactor", "ctf/bfactor", 0), ("rlnCtfScalefactor", "ctf/scale", 1)):
        values = table.number(theirs) if table.has(theirs) else np.array([neutral])
        if (values != neutral).any():
            columns[name] = values
    _note_what_is_ignored(table)
    return columns | _beam_tilt_columns(table)


def _beam_tilt_columns(table: CsTable) -> Columns:
    tilt = table.number("ctf/tilt_A", 2) if table.has("ctf/tilt_A") else np.zeros((len(table), 2))
    if not tilt.any():
        return {}
    aberration = table.number("ctf/cs_mm")
    wrong = np.flatnonzero(np.abs(tilt).max(1) > np.abs(aberration) * ANGSTROM_PER_MM)
    if len(wrong):
        row = int(wrong[0])
        raise MetadataError(
            f"{table.row_name(row)} has a beam tilt of {tilt[row].tolist()} Å (ctf/tilt_A) with a spherical "
            f"aberration of {aberration[row]:g} mm, which no angle gives: the file was altered."
        )
    return dict(zip(("rlnBeamTiltX", "rlnBeamTiltY"), beam_tilt_mrad(tilt, aberration).T, strict=True))


def _note_what_is_ignored(table: CsTable) -> None:
    found = [
        name for name, width in UNMODELLED.items() if table.has(name) and table.number(name, width).any()
    ]
    if found:
        logger.info("%s: what %s say is not modelled", table.path, ", ".join(found))


def _pose_columns(table: CsTable) -> Columns:
    if not table.has(POSE):
        others = sorted(
            {name for name in table.columns if name.startswith("align") and name.endswith("/pose")}
        )
        if others:
            logger.info(
                "%s has no %s; %s are of 2-D classes or of several volumes and are not used",
                table.path,
                POSE,
                ", ".join(others[:3]),
            )
        return {}
    missing = table.missing(SHIFT)
    if missing:
        raise MetadataError(f"{table.path} has {POSE}, but lacks {missing[0]}: export the particles again.")
    pixel_size = shift_pixel_sizes(table)
    angles = to_relion_angles(rotations_of(table.number(POSE, 3))).numpy()
    origins = table.number(SHIFT, 2) * pixel_size[:, None]
    columns: Columns = dict(zip((*ANGLES, *ORIGINS), (*angles.T, *origins.T), strict=True))
    split = table.number("alignments3D/split") if table.has("alignments3D/split") else np.zeros(1)
    if len(np.unique(split)) == 2:
        columns["rlnRandomSubset"] = (split + 1).astype(np.int64)
    return columns
