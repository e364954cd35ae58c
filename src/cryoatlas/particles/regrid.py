"""Particle images of any boxes and pixel sizes → images on one grid, phase flipped if asked."""

from collections.abc import Sequence

import numpy as np
import torch

from cryoatlas.errors import ConfigError, MetadataError
from cryoatlas.fourier.mask import soft_ball
from cryoatlas.fourier.resample import SAME, Grid, Resampler
from cryoatlas.imaging.aberrations import even_phase
from cryoatlas.imaging.ctf import contrast_transfer
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.microscope import PHASE_FLIPPED, PREMULTIPLIED
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.prepare_config import PrepareConfig
from cryoatlas.shapes import Array, Bool, Float, Int, Tensor

RawImages = list[tuple[Int[Array, "_"], Tensor]]
"""Images as they are on disk, those of one grid together, with their places in the request."""


class Regridder:
    """Reads images and brings them to one grid; immutable, so that threads may share it.

    Images that cover what the new grid covers are phase flipped after they are clipped, where it is
    cheaper; others before, so that what the CTF has carried away is gathered before it is cut off.

    Args:
        particles: of one or several boxes and pixel sizes.
        grid: the new one.
        phase_flip: multiply by the sign of the CTF.

    Raises:
        MetadataError: as `check_flippable`, if phases are to be flipped.
    """

    def __init__(self, particles: ParticleSet, grid: Grid, *, phase_flip: bool = False) -> None:
        if phase_flip:
            check_flippable(particles)
        self.particles, self.grid, self.phase_flip = particles, grid, phase_flip
        grids, self.grid_of = grids_of(particles)
        self.resamplers = [Resampler(old, grid) for old in grids]

    def read(self, positions: Int[Array, "image"]) -> RawImages:
        """The images at these positions of the set, as they are on disk.

        Raises:
            ImageDataError, FormatError: as `ParticleSet.images`.
        """
        kinds = self.grid_of[positions]
        parts = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        return [(places, self.particles.images(positions[places])) for places in parts]

    def regrid(self, positions: Int[Array, "image"], raw: RawImages) -> Float[Tensor, "image box box"]:
        """What `read` gave, on the new grid; zero where an old image does not reach."""
        if len(raw) == 1:
            return self._regrid_kind(positions, raw[0][1])
        out = torch.empty(len(positions), self.grid.box_size, self.grid.box_size)
        for places, images in raw:
            out[places] = self._regrid_kind(positions[places], images)
        return out

    def covered(self, positions: Int[Array, "image"]) -> Bool[Tensor, "image box box"]:
        """Which pixels of the new images lie inside the old ones."""
        masks = torch.stack([resampler.covered for resampler in self.resamplers])
        return masks[torch.from_numpy(self.grid_of[positions])]

    @property
    def pads(self) -> bool:
        """Whether some old images do not cover the new grid."""
        return not all(bool(resampler.covered.all()) for resampler in self.resamplers)

    def _regrid_kind(self, positions: Int[Array, "image"], images: Tensor) -> Tensor:
        resampler = self.resamplers[self.grid_of[positions[0]]]
        if not self.phase_flip:
            return resampler(images)
        if resampler.same_extent:
            return flip_phases(resampler(images), self._signs(positions, self.grid))
        return resampler(flip_phases(images, self._signs(positions, resampler.old)))

    def _signs(self, positions: Int[Array, "image"], grid: Grid) -> Float[Tensor, "image row column"]:
        ctf = self.particles.ctf
        assert ctf is not None, "check_flippable has seen it"
        index, freqs = torch.from_numpy(positions), half_plane(grid.box_size)
        plane, phase = freqs.flatten(0, 1)[None] / grid.extent, None
        aberrations = self.particles.aberrations
        if aberrations is not None:
            present, place = aberrations.kind[index].unique(return_inverse=True)
            plane = plane @ aberrations.magnification[present].mT
            phase = even_phase(plane, aberrations.even[present])[place]
            plane = plane[place]
        contrast = contrast_transfer(plane, ctf[index], phase).unflatten(1, freqs.shape[:2])
        # Where a frequency stands for its negative too, the CTF may have two signs: left as it is.
        nyquist = (freqs.abs() == grid.box_size / 2).any(-1)
        return torch.where((contrast < 0) & ~nyquist, -1.0, 1.0).float()


def half_plane(box_size: int) -> Float[Tensor, "row column 2"]:
    """(kx, ky) of the coefficients of `torch.fft.rfft2`, cycles per box, float64."""
    rows = torch.fft.fftfreq(box_size, d=1 / box_size, dtype=torch.float64)
    columns = torch.fft.rfftfreq(box_size, d=1 / box_size, dtype=torch.float64)
    ky, kx = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([kx, ky], -1)


def flip_phases(
    images: Float[Tensor, "image box box"], signs: Float[Tensor, "image row column"]
) -> Float[Tensor, "image box box"]:
    """Images whose transforms are multiplied by `signs`, given for the coefficients of rfft2."""
    return torch.fft.irfft2(torch.fft.rfft2(images) * signs, s=images.shape[1:])


def check_flippable(particles: ParticleSet) -> None:
    """Refuse to flip the phases of images that have no CTF, or whose phases are right already.

    Raises:
        MetadataError: saying which.
    """
    if particles.ctf is None:
        raise MetadataError(
            f"--phase-flip needs the CTF, but {particles.path} has no defocus columns: add them, give them "
            "with --ctf, or leave out --phase-flip."
        )
    for flag, done in ((PHASE_FLIPPED, "phase flipped"), (PREMULTIPLIED, "multiplied by their CTF")):
        if particles.tables.number(flag, 0.0).any():
            raise MetadataError(
                f"images of {particles.path} are {done} already ({flag}), so that flipping would turn right "
                "phases wrong: leave out --phase-flip."
            )


def grids_of(particles: ParticleSet) -> tuple[list[Grid], Int[Array, "image"]]:
    """The different grids of a set, and which of them is each image's."""
    pairs = np.stack([particles.box_sizes.astype(np.float64), particles.pixel_size.numpy()], 1)
    kinds, which = np.unique(pairs, axis=0, return_inverse=True)
    return [Grid(int(box), float(size)) for box, size in kinds], which.reshape(-1)


def choose_grid(grids: Sequence[Grid], config: PrepareConfig) -> Grid:
    """The grid that all images are brought to.

    Where box or pixel size is not given, the new images cover the smallest square that is covered by all
    old ones: nothing is padded.

    Raises:
        ConfigError: the pixels would be smaller than those of every old image.
    """
    extent = min(grid.extent for grid in grids)
    finest = min(grid.pixel_size for grid in grids)
    if config.pixel_size is not None:
        pixel_size = config.pixel_size
    elif config.box is not None:
        pixel_size = extent / config.box
    else:
        pixel_size = max(grid.pixel_size for grid in grids)
    box = config.box if config.box is not None else 2 * int(extent / pixel_size * (1 + SAME) / 2)
    if pixel_size < finest * (1 - SAME):
        raise ConfigError(
            f"the new images would have pixels of {pixel_size:.5g} Å, smaller than the {finest:.5g} Å of the "
            "old ones, and would hold nothing new: choose a smaller --box or a larger --pixel-size. To "
            "continue images with background instead, give both."
        )
    if box < 2:
        raise ConfigError(f"pixels of {pixel_size:g} Å leave nothing of images of {extent:g} Å.")
    return Grid(box, pixel_size)


def soft_window(box_size: int) -> Float[Tensor, "box box"]:
    """The window that training applies by default."""
    config, half = PreprocessConfig(), box_size / 2
    inner, outer = half * config.window_inner, half * config.window_outer
    return soft_ball(box_size, 2, inner, outer - inner).float()
