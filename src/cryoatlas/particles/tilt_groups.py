"""Images of one particle: which rows of a tilt series belong together, with exposure and tilt of each.

Files of tilt series with one row per image (Warp, M, WarpTools, tomoDRGN; `tilt_stacks` makes such rows
of RELION 5's) name the particle in rlnTomoParticleName, or in rlnGroupName. Each image can be used
alone; what has to know the particles, such as half sets, asks here.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from cryoatlas.errors import MetadataError
from cryoatlas.particles.metadata import ParticleTables
from cryoatlas.shapes import Array, Float, Int, Tensor

PARTICLE, GROUP_NAME, MICROGRAPH = "rlnTomoParticleName", "rlnGroupName", "rlnMicrographName"
TOMOGRAM_SUFFIX = ".tomostar"
EXPOSURE, B_FACTOR, SCALE = "rlnMicrographPreExposure", "rlnCtfBfactor", "rlnCtfScalefactor"
TILTS_DEG = ("rlnTomoNominalStageTiltAngle", "rlnTomoYTilt")
B_PER_EXPOSURE = 4.0
"""Å² of B-factor that Warp, M and RELION write for an exposure of 1 e/Å²."""
COSINE_TOLERANCE = 1e-3
SHARED = "rlnRandomSubset"


@dataclass(frozen=True)
class TiltGroups:
    """The particles that images show."""

    names: tuple[str, ...]
    """Of the particles, in the order in which they first appear."""
    particle: Int[Tensor, "image"]
    """Position in `names` of the particle that each image shows."""
    exposure: Float[Tensor, "image"] | None
    """What each image's specimen had been exposed to, e/Å²; None where the file does not say."""
    tilt: Float[Tensor, "image"] | None
    """Of the stage, radians; without sign where the file has its cosine alone; None where unknown."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images_per_particle(self) -> Int[Tensor, "group"]:
        """How many images there are of each particle, in the order of `names`."""
        return torch.bincount(self.particle, minlength=len(self.names))

    def __getitem__(self, chosen: Int[Tensor, "some"]) -> "TiltGroups":
        """The particles that some of the images show, numbered anew."""
        old, particle = _in_order_of_appearance(self.particle[chosen].numpy())
        return replace(
            self,
            names=tuple(self.names[number] for number in old.tolist()),
            particle=torch.from_numpy(particle),
            exposure=None if self.exposure is None else self.exposure[chosen],
            tilt=None if self.tilt is None else self.tilt[chosen],
        )


def tilt_groups(tables: ParticleTables, pixel_size: Float[Array, "image"]) -> TiltGroups | None:
    """The groups of a file with one row per image, None if each of its images is a particle of its own.

    rlnTomoParticleName always groups. rlnGroupName does where it cannot be RELION's group of
    micrographs: the file has a tilt or an exposure that differs from image to image, and the images
    of a group come from different micrographs (or the file names tomograms or no micrographs).

    Exposure is rlnMicrographPreExposure, else |rlnCtfBfactor|/4. Tilt is rlnTomoNominalStageTiltAngle
    or rlnTomoYTilt, else ± the arc cosine of rlnCtfScalefactor.

    Args:
        tables: of the star file.
        pixel_size: of every image, Å.

    Raises:
        MetadataError: images of one particle have different pixel sizes or belong to different half sets.
    """
    particles = tables.particles
    if particles.has(PARTICLE):
        names = particles.text(PARTICLE)
    elif particles.has(GROUP_NAME) and _is_tilt_series(tables):
        names = particles.text(GROUP_NAME)
    else:
        return None
    unique, codes = np.unique(names, return_inverse=True)
    old, particle = _in_order_of_appearance(codes)
    groups = TiltGroups(
        names=tuple(str(unique[number]) for number in old),
        particle=torch.from_numpy(particle),
        exposure=_exposure(tables),
        tilt=_tilt(tables),
    )
    _check_agreement(tables, groups, pixel_size, "Å per pixel")
    if particles.has(SHARED):
        _check_agreement(tables, groups, particles.number(SHARED), f"as {SHARED}")
    return groups


def _in_order_of_appearance(codes: Int[Array, "image"]) -> tuple[Array, Int[Array, "image"]]:
    """The different codes in the order in which they appear, and each image's position among them."""
    values, first, position = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return values[order], rank[position].astype(np.int64)


def _is_tilt_series(tables: ParticleTables) -> bool:
    """Whether rlnGroupName names particles, not groups of micrographs."""
    telling = [name for name in (EXPOSURE, SCALE, *TILTS_DEG) if tables.has(name)]
    if not any(np.ptp(tables.number(name)) > 0 for name in telling):
        return False
    particles = tables.particles
    if not particles.has(MICROGRAPH):
        return True
    micrographs = particles.text(MICROGRAPH)
    if np.strings.endswith(micrographs, TOMOGRAM_SUFFIX).all():
        return True
    pairs = np.stack(
        [np.unique(each, return_inverse=True)[1] for each in (particles.text(GROUP_NAME), micrographs)]
    )
    return np.unique(pairs, axis=1).shape[1] == len(tables)


def _exposure(tables: ParticleTables) -> Float[Tensor, "image"] | None:
    if tables.has(EXPOSURE):
        return torch.from_numpy(tables.number(EXPOSURE))
    b_factor = np.abs(tables.number(B_FACTOR, 0.0))
    return torch.from_numpy(b_factor / B_PER_EXPOSURE) if b_factor.any() else None


def _tilt(tables: ParticleTables) -> Float[Tensor, "image"] | None:
    for name in TILTS_DEG:
        if tables.has(name):
            return torch.deg2rad(torch.from_numpy(tables.number(name)))
    if not tables.has(SCALE):
        return None
    cosine = tables.number(SCALE)
    if cosine.min() < 0 or cosine.max() > 1 + COSINE_TOLERANCE:
        return None
    return torch.arccos(torch.from_numpy(cosine).clamp(max=1))


def _check_agreement(
    tables: ParticleTables, groups: TiltGroups, values: Float[Array, "image"], what: str
) -> None:
    """Refuse images of one particle with different values."""
    particle = groups.particle.numpy()
    first = np.unique(particle, return_index=True)[1][particle]
    wrong = np.flatnonzero(~np.isclose(values, values[first], rtol=1e-5, atol=0)).tolist()
    if wrong:
        row, name = wrong[0], tables.particles.row_name
        other = int(first[row])
        raise MetadataError(
            f"{name(row)} has {values[row]:g} {what} and {name(other)} {values[other]:g}, but both are "
            f"images of particle {groups.names[particle[row]]}; {len(wrong)} of {len(values)} rows "
            "contradict the first image of their particle. Two files may have been joined that use the "
            "same names: rename the particles of one of them, or correct the column."
        )
