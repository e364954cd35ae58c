r"""Tilt series of RELION 5 and WarpTools: how each of their images looks at the tomogram.

A file of tomograms has one row for each tomogram and names, or holds, one table for each tilt series
with one row per tilt image. A rotation takes directions in the tomogram to directions in the image,

.. math:: x_\mathrm{image} = R_z(\mathtt{rlnTomoZRot})\, R_y(\mathtt{rlnTomoYTilt})\,
          R_x(\mathtt{rlnTomoXTilt})\; x_\mathrm{tomogram},

by active right-handed rotations, or stands as it is in rlnTomoProjX, Y and Z. Where an image was cut out
of the micrograph is settled when particles are extracted, so shifts of tilt images do not matter here.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import MetadataError
from cryoatlas.geometry.rotations import from_relion_angles, geodesic_angle
from cryoatlas.io.star import StarTable, read_star
from cryoatlas.particles.optimisation_set import find_project_file
from cryoatlas.shapes import Array, Float, Tensor

NAME, SERIES_FILE = "rlnTomoName", "rlnTomoTiltSeriesStarFile"
HAND, SLOPE = "rlnTomoHand", "rlnTomoDefocusSlope"
PIXEL_SIZE = "rlnTomoTiltSeriesPixelSize"
SIZES = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
X_TILT, Y_TILT, Z_ROT = "rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot"
MATRIX = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
EXPOSURE, SCALE, PHASE = "rlnMicrographPreExposure", "rlnCtfScalefactor", "rlnPhaseShift"
STAGE_TILT = "rlnTomoNominalStageTiltAngle"
B_PER_EXPOSURE = "rlnCtfBfactorPerElectronDose"
MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
ROTATION_TOLERANCE = 1e-2
"""Largest |MMᵀ − 1| of a matrix taken for a rotation: written with few digits, it is made one. Likewise the
largest angle in radians between two statements of the same rotation."""


@dataclass(frozen=True)
class TiltSeries:
    """The images of one tilt series, in the order of the file."""

    rotation: Float[Tensor, "frame 3 3"]
    """Takes directions in the tomogram to directions in the image."""
    columns: dict[str, Float[Array, "frame"]]
    """Defocus at the tomogram's centre, exposure, scale and such, by RELION's names and in its units."""
    microscope: dict[str, float]
    """Voltage, spherical aberration and amplitude contrast, as far as the tomogram's row has them."""
    depth_sign: float
    """Times the height over the tomogram's centre, along z of the image in Å: what the defocus grows by."""
    pixel_size: float
    """Of the tilt images, Å."""
    size: Float[Array, "3"] | None
    """Of the tomogram in px of the tilt images, along x, y, z."""

    def __len__(self) -> int:
        return len(self.rotation)


class Tomograms:
    """The tilt series of a file of tomograms, read when asked for.

    Args:
        path: the file.

    Raises:
        InputError: there is no such file.
        FormatError: it is no star file.
        MetadataError: it is no file of tomograms.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables = read_star(path)
        found = [table for table in self.tables.values() if table.has(NAME) and table.has(HAND)]
        if len(found) != 1:
            raise MetadataError(
                f"{path} should have one table with {NAME} and {HAND}, a row for each tomogram, but "
                f"{len(found)} of its {len(self.tables)} tables have both: give the tomograms.star of the "
                "job that extracted the particles."
            )
        self.summary = found[0]
        self.names = [str(name) for name in self.summary.text(NAME)]

    def series(self, name: str) -> TiltSeries:
        """The tilt series of a tomogram.

        Raises:
            InputError: the file of the tilt series is missing.
            FormatError: it is no star file.
            MetadataError: there is no such tomogram, or something is missing or wrong in its tables.
        """
        if name not in self.names:
            raise MetadataError(
                f"there are particles of tomogram {name}, but {self.summary.source} has "
                f"{', '.join(self.names[:3])}{' …' if len(self.names) > 3 else ''}: particles and tomograms "
                "do not belong together; use the optimisation set of the job that wrote the particles."
            )
        row = self.summary.select(np.array([self.names.index(name)]))
        images = self._images(name, row)
        return TiltSeries(
            rotation=_rotations(images),
            columns=_image_columns(images, row),
            microscope={key: float(row.number(key)[0]) for key in MICROSCOPE if row.has(key)},
            depth_sign=float(row.number(HAND)[0]) * _number(row, SLOPE, 1.0),
            pixel_size=float(row.number(PIXEL_SIZE)[0]),
            size=np.array([row.number(key)[0] for key in SIZES]) if row.has(*SIZES) else None,
        )

    def _images(self, name: str, row: StarTable) -> StarTable:
        """The table with one row per tilt image: in a file of its own, or beside the table of tomograms."""
        if not row.has(SERIES_FILE):
            if name in self.tables:
                return self.tables[name]
            raise MetadataError(
                f"{row.row_name(0)} names no {SERIES_FILE}, and {self.path} has no table data_{name} either: "
                "the geometry of this tilt series is missing; use the tomograms.star of the extraction."
            )
        stated = str(row.text(SERIES_FILE)[0])
        tables = read_star(find_project_file(stated, self.path))
        return tables[name] if name in tables else next(iter(tables.values()))


def numbers_in_brackets(table: StarTable, name: str, row: int) -> Float[Array, "number"]:
    """A cell such as ``[1,0,0,12.5]``.

    Raises:
        MetadataError: it is something else.
    """
    text = str(table.text(name)[row]).strip()
    try:
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError(text)
        return np.array([float(word) for word in text[1:-1].split(",")])
    except ValueError:
        raise MetadataError(
            f"{table.row_name(row)} has '{text}' as {name}, but a list of numbers in brackets was expected, "
            "such as [1,0,0,0]: correct the table."
        ) from None


def _number(row: StarTable, name: str, default: float) -> float:
    return float(row.number(name)[0]) if row.has(name) else default


def _image_columns(images: StarTable, row: StarTable) -> dict[str, Float[Array, "frame"]]:
    columns = {name: images.number(name) for name in (*DEFOCUS, EXPOSURE)}
    for name in (SCALE, PHASE, STAGE_TILT, Y_TILT):
        if images.has(name):
            columns[name] = images.number(name)
    for table in (images, row):
        if table.has(B_PER_EXPOSURE):
            columns[B_PER_EXPOSURE] = np.broadcast_to(table.number(B_PER_EXPOSURE), len(images))
            break
    return columns


def _rotations(images: StarTable) -> Float[Tensor, "frame 3 3"]:
    """From tilts, or from matrices; a file with both must say the same twice."""
    has_tilts, has_matrices = images.has(Y_TILT, Z_ROT), images.has(*MATRIX)
    if not has_tilts and not has_matrices:
        raise MetadataError(
            f"{images.source} has neither {Y_TILT} and {Z_ROT} nor {', '.join(MATRIX)}: the tilt series was "
            "not aligned, or this is the file of an earlier step."
        )
    if not has_matrices:
        return _from_tilt_columns(images)
    matrices = _from_matrix_columns(images)
    apart = geodesic_angle(_from_tilt_columns(images) if has_tilts else matrices, matrices)
    worst = int(apart.argmax())
    if apart[worst] > ROTATION_TOLERANCE:
        raise MetadataError(
            f"{images.row_name(worst)} has a projection matrix ({', '.join(MATRIX)}) that differs from its "
            f"tilts ({X_TILT}, {Y_TILT}, {Z_ROT}) by {np.rad2deg(float(apart[worst])):.2f}°: remove the "
            "columns that are out of date."
        )
    return matrices


def _from_tilt_columns(images: StarTable) -> Float[Tensor, "frame 3 3"]:
    x_tilt = images.number(X_TILT) if images.has(X_TILT) else np.zeros(len(images))
    angles = np.stack([x_tilt, images.number(Y_TILT), images.number(Z_ROT)], -1)
    return _from_tilts(torch.from_numpy(angles))


def _from_matrix_columns(images: StarTable) -> Float[Tensor, "frame 3 3"]:
    matrices = np.empty((len(images), 3, 3))
    for frame in range(len(images)):
        for axis, name in enumerate(MATRIX):
            values = numbers_in_brackets(images, name, frame)
            if len(values) != 4:
                raise MetadataError(
                    f"{images.row_name(frame)} has {len(values)} numbers in {name}, but 4 were expected, a "
                    "row of a projection matrix: correct the table."
                )
            matrices[frame, axis] = values[:3]
    return _nearest_rotations(images, torch.from_numpy(matrices))


def _from_tilts(angles_deg: Float[Tensor, "frame 3"]) -> Float[Tensor, "frame 3 3"]:
    """R_z(z) R_y(y) R_x(x) of active rotations by x, y, z degrees."""
    x, y, z = angles_deg.unbind(-1)
    zero, quarter = torch.zeros_like(x), torch.full_like(x, 90.0)
    # `from_relion_angles` gives (R_z(rot) R_y(tilt) R_z(psi))ᵀ, and R_x(x) = R_z(−90°) R_y(x) R_z(90°).
    about_x = from_relion_angles(torch.stack([-quarter, x, quarter], -1)).mT
    about_y_then_z = from_relion_angles(torch.stack([z, y, zero], -1)).mT
    return about_y_then_z @ about_x


def _nearest_rotations(images: StarTable, matrices: Float[Tensor, "frame 3 3"]) -> Float[Tensor, "frame 3 3"]:
    deviation = (matrices @ matrices.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    right = (deviation <= ROTATION_TOLERANCE) & (torch.linalg.det(matrices) > 0)
    wrong = torch.nonzero(~right)[:, 0].tolist()
    if wrong:
        raise MetadataError(
            f"{images.row_name(wrong[0])} has a projection matrix ({', '.join(MATRIX)}) that is no rotation; "
            f"{len(wrong)} of {len(images)} rows have. Tilt series that are mirrored, skewed or scaled are "
            "not supported: align them again without."
        )
    left, _, right = torch.linalg.svd(matrices)
    return left @ right
