"""The noise of a set of images by shell: first from their corners, then from residuals against a map.

Both are variances of Hartley coefficients of normalised and windowed images, as training compares them.
"""

import math
from dataclasses import dataclass

import torch

from cryoatlas.fourier.mask import soft_ball
from cryoatlas.fourier.shells import shell_mean
from cryoatlas.fourier.transform import hartley
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import central_slices
from cryoatlas.imaging.volume import Volume
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.preprocess import CHUNK_PIXELS
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.training.objective import centre_images

NOISE_IMAGES = 1000
"""Evenly spaced images that are looked at."""
CORNER_EDGE = 2.0
"""px over which corners set in, for less leakage between shells."""
EMPTY = 1e-3
"""Corners with less than this part of the variance of whole images were masked, and say nothing of noise."""
QUIETEST = 1e-3
"""No shell is taken to have less noise than this part of the strongest shell's power."""
SIGNAL_FLOOR = 1e-3
"""Shells whose images hold less signal than this part of the strongest are expected to hold this much."""
LEAST_TRANSFER = 0.05
"""Mean square of a CTF below which a shell says too little of the signal to be divided by it."""
QUIET_TAIL = 0.85
"""Shells beyond this part of the radius are taken to be noise alone where corners do not tell."""


@dataclass(frozen=True)
class Spectra:
    """What is known of images before there is a map."""

    noise: NoiseModel
    signal: Float[Tensor, "shell"]
    """Mean square of the particles' Hartley coefficients by shell, before any CTF; above 0."""


@torch.no_grad()
def spectra(loader: Loader) -> Spectra:
    """Noise from the corners, or from the outermost shells where corners were masked; signal is the rest."""
    power, transfer = _image_power(loader)
    corners = corner_noise(loader)
    noise = _flat_noise(power) if corners is None else corners.variance.to(power)
    noise = noise.clamp(min=QUIETEST * float(power.max()))
    signal = (power - noise) / transfer.clamp(min=LEAST_TRANSFER)
    return Spectra(NoiseModel(noise), signal.clamp(min=SIGNAL_FLOOR * float(signal[1:].max())))


def _image_power(loader: Loader) -> tuple[Float[Tensor, "shell"], Float[Tensor, "shell"]]:
    """Mean squares of the coefficients and of the CTF by shell, of evenly spaced images."""
    total = torch.zeros(len(loader.disc), device=loader.device)
    transfer, seen = torch.zeros_like(total), 0
    for batch in loader.batches(_evenly_spaced(len(loader.particles))):
        total += batch.images.square().sum(0)
        transfer += len(batch.images) if batch.ctf is None else batch.ctf.square().sum(0)
        seen += len(batch.images)
    shells, count = loader.disc.shells.to(total.device), loader.disc.box_size // 2 + 1
    power, transfer = (shell_mean(sums / seen, shells, count) for sums in (total, transfer))
    # Normalisation took most of k = 0 away; the outermost shell may lie outside the disc.
    power[0], power[-1] = power[1], power[-2]
    transfer[-1] = transfer[-2]
    return power, transfer


def _flat_noise(power: Float[Tensor, "shell"]) -> Float[Tensor, "shell"]:
    """What the outermost shells hold, for all."""
    return torch.full_like(power, float(power[round(QUIET_TAIL * len(power)) :].mean()))


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
