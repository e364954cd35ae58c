"""RELION's columns → pixel sizes, CTF parameters and poses of every particle, in our units.

Files of RELION 3.1 and later keep what a microscope session shares in a table ``optics``; each
particle names its group. Earlier files repeat everything in every row. Here both look the same.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import FormatError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.io.star import StarTable, read_star
from cryoatlas.particles.ctf_units import check_ctf_units
from cryoatlas.shapes import Array, Float, Int, Tensor

logger = logging.getLogger(__name__)

OPTICS, GROUP = "optics", "rlnOpticsGroup"
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
ORIGINS_PX = ("rlnOriginX", "rlnOriginY")
DAMAGING_EXPOSURE = "cryoatlasDamagingExposure"
"""Our column for the exposure whose `radiation_damage` is part of the CTF, e/Å²."""
SMALLEST_PIXEL, LARGEST_PIXEL = 0.01, 1000.0
"""Å; no image of a molecule has others, so they are errors of unit or of writing."""
PIXEL_SIZE = "rlnImagePixelSize, or rlnPixelSize, or rlnDetectorPixelSize with rlnMagnification"


@dataclass(frozen=True)
class ParticleTables:
    """The tables of a particle star file, and which of them holds the particles."""

    path: Path
    tables: dict[str, StarTable]
    block: str
    """Name of the block with one row per particle."""
    dark: bool = False
    """The file says that particles are dark on a bright ground; only cryoSPARC's do."""
    passthrough: tuple[Path, ...] = ()
    """Further files of the same particles that were read with it; only cryoSPARC has such."""
    joined: tuple[tuple[str, Path], ...] = ()
    """Files that say something of the particles beside the one at `path`, each with what it is given as."""

    @property
    def particles(self) -> StarTable:
        """One row per particle."""
        return self.tables[self.block]

    @property
    def optics(self) -> StarTable | None:
        """One row per optics group; None in files before RELION 3.1."""
        return self.tables.get(OPTICS)

    def __len__(self) -> int:
        return len(self.particles)

    def has(self, name: str) -> bool:
        """Whether a column is in the particle table or in the optics table."""
        return self.particles.has(name) or (self.optics is not None and self.optics.has(name))

    def missing(self, *names: str) -> list[str]:
        """Those of the columns that are in neither table."""
        return [name for name in names if not self.has(name)]

    def number(self, name: str, default: float | None = None) -> Float[Array, "image"]:
        """A column for every particle, from the optics table of its group where it stands there.

        Raises:
            MetadataError: the column is nowhere and has no default; a value is no finite number; the
                two tables contradict each other; or a particle's optics group is not in the table.
        """
        own = self.particles.number(name) if self.particles.has(name) else None
        if self.optics is not None and self.optics.has(name):
            shared = self.optics.number(name)[self.optics_rows()]
            if own is not None and not np.allclose(own, shared, rtol=1e-5, atol=1e-8):
                row = int(np.argmin(np.isclose(own, shared, rtol=1e-5, atol=1e-8)))
                raise MetadataError(
                    f"{self.particles.row_name(row)} has {own[row]:g} as {name}, but its optics "
                    f"group says {shared[row]:g}: remove the column from one of the tables."
                )
            return shared
        if own is not None:
            return own
        if default is None:
            raise MetadataError(
                f"{self.path} has no column {name}, neither for particles nor for optics groups."
            )
        return np.full(len(self), default)

    def text(self, name: str) -> Array:
        """A column for every particle as strings, from the optics table of its group where it stands there.

        Raises:
            MetadataError: the column is nowhere, or a particle's optics group is not in the table.
        """
        if self.optics is not None and self.optics.has(name):
            return self.optics.text(name)[self.optics_rows()]
        return self.particles.text(name)

    def select(self, indices: Int[Array, "some"]) -> "ParticleTables":
        """Some of the particles, in the order given."""
        return self.with_particles(self.particles.select(indices))

    def with_particles(self, table: StarTable) -> "ParticleTables":
        """The same file with another particle table."""
        return replace(self, tables={**self.tables, self.block: table})

    def optics_rows(self) -> Int[Array, "image"]:
        """The row of the optics table that is each particle's, in files that have that table.

        Raises:
            MetadataError: a particle's optics group is not in the table, or is there twice.
        """
        assert self.optics is not None
        groups, wanted = self.optics.text(GROUP), self.particles.text(GROUP)
        row_of = {str(group): row for row, group in enumerate(groups)}
        if len(row_of) < len(groups):
            raise MetadataError(
                f"{self.optics.source} names an optics group twice: give each its own number."
            )
        known, which = np.unique(wanted, return_inverse=True)
        unknown = [str(group) for group in known if str(group) not in row_of]
        if unknown:
            row = int(np.argmax(wanted == unknown[0]))
            raise MetadataError(
                f"{self.particles.row_name(row)} belongs to optics group "
                f"{unknown[0]}, but {self.optics.source} has only {', '.join(row_of)}: add the group."
            )
        return np.array([row_of[str(group)] for group in known])[which]


def read_tables(path: Path | str) -> ParticleTables:
    """Read a particle star file of RELION 3.0, 3.1 or later.

    Raises:
        InputError: there is no such file.
        FormatError: it is no star file, or it is not clear which of its tables holds the particles.
    """
    tables = read_star(path)
    loops = [name for name, table in tables.items() if table.is_loop and name != OPTICS]
    if "particles" in tables:
        return ParticleTables(Path(path), tables, "particles")
    if len(loops) != 1:
        raise FormatError(
            f"{path} should hold one table of particles, but its tables are "
            f"{', '.join(f'data_{name}' for name in tables)}: give a file with a block data_particles."
        )
    return ParticleTables(Path(path), tables, loops[0])


def pixel_sizes(tables: ParticleTables) -> Float[Array, "image"]:
    """Pixel size of every particle image, Å.

    From rlnImagePixelSize, else rlnPixelSize, else 10⁴ · rlnDetectorPixelSize (µm) / rlnMagnification.
    Files with rlnDetectorPixelSize and no magnification hold Å in it (a magnification of 10,000, as
    written by Warp and tomoDRGN); this is logged.

    Raises:
        MetadataError: none of the columns is there, or a value is no pixel size.
    """
    for name in ("rlnImagePixelSize", "rlnPixelSize"):
        if tables.has(name):
            sizes, source = tables.number(name), name
            break
    else:
        if not tables.has("rlnDetectorPixelSize"):
            raise MetadataError(
                f"{tables.path} has no pixel size: it needs {PIXEL_SIZE}, in the particle or the optics "
                "table. Files of RELION 3.1 carry it in data_optics, which may have been lost in editing."
            )
        if not tables.has("rlnMagnification"):
            logger.info("%s has no rlnMagnification; rlnDetectorPixelSize is taken to be in Å", tables.path)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # refused below
            sizes = 1e4 * tables.number("rlnDetectorPixelSize") / tables.number("rlnMagnification", 1e4)
        source = "rlnDetectorPixelSize / rlnMagnification"
    bad = np.flatnonzero(~((sizes >= SMALLEST_PIXEL) & (sizes <= LARGEST_PIXEL))).tolist()
    if bad:
        raise MetadataError(
            f"{tables.particles.row_name(bad[0])} has a pixel size of "
            f"{sizes[bad[0]]:g} Å ({source}), but it must lie between "
            f"{SMALLEST_PIXEL:g} and {LARGEST_PIXEL:g} Å; {len(bad)} of {len(sizes)} rows are "
            "wrong. Correct the optics table or the column."
        )
    return sizes


def ctf_parameters(tables: ParticleTables) -> CTFParameters | None:
    """CTF parameters of every particle, None if the file has no defocus columns.

    rlnPhaseShift and rlnCtfBfactor are 0 where the column is missing, as in RELION; all others must
    be there. A negative rlnCtfBfactor, which Warp, M and tomoDRGN write for −4 × exposure, is decay of
    the same strength, so its sign is dropped.

    Raises:
        MetadataError: some of the columns are missing; values are in units other than RELION's (Å,
            degrees, kV, mm).
    """
    if len(tables.missing(*DEFOCUS)) == len(DEFOCUS):
        return None
    missing = tables.missing(*DEFOCUS, *MICROSCOPE)
    if missing:
        raise MetadataError(
            f"{tables.path} has CTF columns, but lacks {', '.join(missing)}: add them to the particle or the "
            "optics table, or remove the defocus columns if the images have no CTF."
        )
    values = {name: tables.number(name) for name in (*DEFOCUS, *MICROSCOPE)}
    values["rlnPhaseShift"] = tables.number("rlnPhaseShift", 0.0)
    check_ctf_units(values, tables.particles)
    b_factor = np.abs(tables.number("rlnCtfBfactor", 0.0))
    return to_ctf_parameters(values, b_factor, exposure=tables.number(DAMAGING_EXPOSURE, 0.0))


def to_ctf_parameters(
    values: dict[str, Array],
    b_factor: Float[Array, "image"] | float,
    exposure: Float[Array, "image"] | float = 0.0,
) -> CTFParameters:
    """CTF parameters from RELION's columns in RELION's units."""
    return CTFParameters.build(
        len(values["rlnDefocusU"]),
        defocus_u=torch.as_tensor(values["rlnDefocusU"]),
        defocus_v=torch.as_tensor(values["rlnDefocusV"]),
        defocus_angle=torch.deg2rad(torch.as_tensor(values["rlnDefocusAngle"])),
        voltage_kv=torch.as_tensor(values["rlnVoltage"]),
        spherical_aberration_mm=torch.as_tensor(values["rlnSphericalAberration"]),
        amplitude_contrast=torch.as_tensor(values["rlnAmplitudeContrast"]),
        phase_shift=torch.deg2rad(torch.as_tensor(values["rlnPhaseShift"])),
        b_factor=torch.as_tensor(b_factor),
        exposure=torch.as_tensor(exposure),
    )


def ctf_scales(tables: ParticleTables) -> Float[Tensor, "image"]:
    """Factor of each image's signal, rlnCtfScalefactor (the cosine of the tilt in tilt series); else 1."""
    return torch.from_numpy(tables.number("rlnCtfScalefactor", 1.0))


def poses(tables: ParticleTables, pixel_size: Float[Array, "image"]) -> Pose | None:
    """Poses of every particle, None if the file has none.

    A file has poses if it has rlnAngleRot, rlnAngleTilt and rlnAnglePsi; picking and 2-D
    classification write psi and origins alone, which is no pose. Origins are rlnOriginX/YAngst (Å) or
    rlnOriginX/Y (px); a file with neither means particles that are centred.

    Args:
        tables: of the star file.
        pixel_size: of every image, Å.

    Raises:
        MetadataError: one of rot and tilt is missing, or psi beside them, or one of two origins.
    """
    if len(tables.missing(*ANGLES[:2])) == 2:
        return None
    missing = tables.missing(*ANGLES)
    if missing:
        raise MetadataError(
            f"{tables.path} has some pose columns, but lacks {', '.join(missing)}: use the file of the "
            "refinement, or remove the others if the poses are not known."
        )
    angles = np.stack([tables.number(name) for name in ANGLES], -1)
    return Pose.from_relion(torch.from_numpy(angles), torch.from_numpy(_origins(tables, pixel_size)))


def with_pose_columns(
    tables: ParticleTables, pose: Pose | None, pixel_size: Float[Array, "image"]
) -> ParticleTables:
    """The tables with these poses in place of those they had, or with none.

    Origins are written in Å if the file has optics groups, as RELION 3.1 does, or already holds them in
    Å alone; else in px.

    Args:
        tables: of the star file.
        pose: one for each particle.
        pixel_size: of every image, Å.
    """
    table = tables.particles
    if pose is None:
        return tables.with_particles(table.without_columns(*ANGLES, *ORIGINS, *ORIGINS_PX))
    if len(pose) != len(tables):
        raise ValueError(f"{len(pose)} poses do not fit {len(tables)} particles")
    angles, origins = (values.detach().cpu().double().numpy() for values in pose.to_relion())
    in_angstrom = table.has(*ORIGINS) and not table.has(*ORIGINS_PX)
    written, other = ORIGINS_PX, ORIGINS
    if tables.optics is not None or in_angstrom:
        written, other = ORIGINS, ORIGINS_PX
    if written == ORIGINS_PX:
        origins = origins / pixel_size[:, None]
    for name, values in zip((*ANGLES, *written), (*angles.T, *origins.T), strict=True):
        table = table.with_column(name, values)
    return tables.with_particles(table.without_columns(*other))


def _origins(tables: ParticleTables, pixel_size: Float[Array, "image"]) -> Float[Array, "image 2"]:
    """RELION's origins in Å."""
    for names, unit in ((ORIGINS, np.ones_like(pixel_size)), (ORIGINS_PX, pixel_size)):
        missing = tables.missing(*names)
        if len(missing) == 1:
            raise MetadataError(f"{tables.path} has one origin column, but lacks {missing[0]}: add it.")
        if not missing:
            return np.stack([tables.number(name) * unit for name in names], -1)
    return np.zeros((len(tables), 2))
