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
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.preprocess import CHUNK_PIXELS
from cryoatlas.shapes import Int, Tensor
from cryoatlas.training.objective import centre_images

NOISE_IMAGES = 1000
"""Evenly spaced images that are looked at."""
CORNER_EDGE = 2.0
"""px over which corners set in, for less leakage between shells."""
EMPTY = 1e-3
"""Corners with less than this part of the variance of whole images were masked, and say nothing of noise."""


@torch.no_grad()
def corner_noise(loader: Loader) -> NoiseModel | None:
    """From the corners, which the images' window takes away; None where they were masked before. Of particles
    with several images the first ones speak for all.

    Needs no map. A CTF spreads signal into the corners too, so low shells come out a little high; and
    sharp features of the spectrum are smeared by the narrow shape of the corners.
    """
    preprocessor, box = loader.preprocessor, loader.particles.box_size
    corners = 1 - soft_ball(box, 2, box / 2 * preprocessor.config.window_outer, CORNER_EDGE).float()
    chosen = _evenly_spaced(len(loader.particles))
    mean = torch.zeros(len(loader.disc), dtype=torch.float64)
    power, whole = torch.zeros_like(mean), 0.0
    for index in chosen.split(max(1, CHUNK_PIXELS // box**2)):
        pixels = (loader.particles.images(index) - preprocessor.mean) / preprocessor.std
        outside = loader.disc.gather(hartley(pixels * corners)).double()
        mean += outside.sum(0) / len(chosen)
        power += outside.square().sum(0) / len(chosen)
        whole += float(pixels.square().mean((-2, -1)).sum()) / len(chosen)
    # What all images share, such as the level of the ground, is no noise.
    variance = (power - mean.square()) / float(corners.square().mean())
    by_shell = shell_mean(variance, loader.disc.shells, box // 2 + 1)
    if float(by_shell.mean()) < EMPTY * whole:
        return None
    # The last shell of an odd box may hold no coefficient.
    last = int((by_shell > 0).nonzero().max())
    by_shell[last:] = by_shell[last]
    return NoiseModel((by_shell * preprocessor.noise_factor).float())


@torch.no_grad()
def residual_noise(loader: Loader, volume: Volume) -> NoiseModel:
    """From what a map leaves unexplained in the images; takes the map's errors for noise."""
    power = torch.zeros(len(loader.disc), device=loader.device)
    images = 0
    for batch in loader.batches(_evenly_spaced(len(loader.particles))):
        centred = centre_images(batch, loader.disc)
        predicted = centred.ctf * central_slices(volume, centred.plane, centred.rotation)
        power += (centred.images - predicted).square().sum(0)
        images += len(predicted)
    return NoiseModel.from_residuals((power / images).sqrt()[None], loader.disc)


def _evenly_spaced(count: int) -> Int[Tensor, "image"]:
    return torch.arange(0, count, math.ceil(count / NOISE_IMAGES))
