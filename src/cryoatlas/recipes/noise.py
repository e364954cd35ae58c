"""The noise of a set of images by shell: first from their corners, then from residuals against a map.

Both are variances of Hartley coefficients of normalised and windowed images, as training compares them.
"""

import math

import torch

from cryoatlas.fourier.mask import soft_ball
from cryoatlas.fourier.shells import shell_mean
from cryoatlas.fourier.transform import hartley
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import central_slices
from cryoatlas.imaging.volume import Volume
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.preprocess import CHUNK_PIXELS
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.training.objective import centre_images

NOISE_IMAGES = 1000
"""Evenly spaced images that are looked at."""
EMPTY = 1e-3
"""Corners with less than this part of the variance of whole images were masked, and say nothing of noise."""


@torch.no_grad()
def corner_noise(loader: ParticleLoader) -> NoiseModel | None:
    """From what the window of the images takes away; None where that was masked before.

    Needs no map. A CTF spreads signal into the corners too, so low shells come out a little high; and
    sharp features of the spectrum are smeared by the narrow shape of the corners.
    """
    preprocessor, box = loader.preprocessor, loader.particles.box_size
    config = preprocessor.config
    inner, outer = (box / 2 * fraction for fraction in (config.window_inner, config.window_outer))
    corners = 1 - soft_ball(box, 2, inner, outer - inner).float()
    power, variance, images = torch.zeros(len(loader.disc), dtype=torch.float64), 0.0, 0
    for index in _evenly_spaced(len(loader.particles)).split(max(1, CHUNK_PIXELS // box**2)):
        pixels = (loader.particles.images(index) - preprocessor.mean) / preprocessor.std
        level = (pixels * corners).sum((-2, -1)) / corners.sum()
        outside = (pixels - level[:, None, None]) * corners
        power += loader.disc.gather(hartley(outside)).square().sum(0)
        variance += float(pixels.square().mean((-2, -1)).sum())
        images += len(index)
    share = float(corners.square().mean())
    by_shell = shell_mean(power / (images * share), loader.disc.shells, box // 2 + 1)
    if float(by_shell[1:].mean()) < EMPTY * variance / images:
        return None
    # Subtracting the level took k = 0 away; the odd Nyquist shell of a disc may be empty.
    filled = _fill_ends(by_shell)
    return NoiseModel((filled * preprocessor.noise_factor).float())


@torch.no_grad()
def residual_noise(loader: ParticleLoader, volume: Volume) -> NoiseModel:
    """From what a map leaves unexplained in the images; takes the map's errors for noise."""
    power = torch.zeros(len(loader.disc), device=loader.device)
    images = _evenly_spaced(len(loader.particles))
    for batch in loader.batches(images):
        centred = centre_images(batch, loader.disc)
        predicted = centred.ctf * central_slices(volume, centred.plane, centred.rotation)
        power += (centred.images - predicted).square().sum(0)
    return NoiseModel.from_residuals((power / len(images)).sqrt()[None], loader.disc)


def _evenly_spaced(count: int) -> Int[Tensor, "image"]:
    return torch.arange(0, count, math.ceil(count / NOISE_IMAGES))


def _fill_ends(variance: Float[Tensor, "shell"]) -> Float[Tensor, "shell"]:
    """The first shell as the second, and shells of no coefficient as the last of some."""
    filled = variance.clone()
    filled[0] = filled[1]
    last = int((filled > 0).nonzero().max())
    filled[last:] = filled[last]
    return filled
