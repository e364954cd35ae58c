"""What is the best that any method can do on a simulated set? Ceilings that know the truth.

The oracle back-projects the images with their true poses, weighted by a Gaussian kernel in the true
state coordinate; of several kernel widths the best is taken. The consensus is the same without a
kernel: a method that finds no heterogeneity has it for every image. The posterior mean is the best
estimate of the state from one image, by someone who knows all maps and the image's pose.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from benchmarks.accuracy.region import moving_region, region_correlation

from cryoatlas.analysis.fsc import fourier_shell_correlation, resolution
from cryoatlas.analysis.truth import Truth
from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.projection import central_slices
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.shapes import Array, Bool, Float
from cryoatlas.training.objective import centre_images

REACH = 3.0
"""Images further off than this many kernel widths are left out."""


@dataclass(frozen=True)
class Ceiling:
    """Maps of true states, compared with those states."""

    name: str
    mean_px: float
    """Resolution at FSC = 0.5, px."""
    std_px: float
    region_correlation: float
    """Correlation with the true map inside the region that moves."""
    states: int
    """States it was measured on, each image standing for its state."""


def coordinates(truth: Truth) -> np.ndarray:
    """True coordinates of the images, (image, coordinate), angles doubled into sine and cosine."""
    columns = []
    for name, values in truth.coordinates.items():
        angle = np.radians(values)
        columns += [np.sin(angle), np.cos(angle)] if truth.is_periodic(name) else [angle]
    return np.stack(columns, -1)


def oracle(
    particles: ParticleSet, truth: Truth, widths_deg: Sequence[float] = (4, 8, 16), states: int = 9
) -> Ceiling:
    """The best kernel-weighted back-projection, over evenly spaced states."""
    where, region = coordinates(truth), moving_region(truth)
    chosen = spaced_states(truth, states)
    ceilings = []
    for width in widths_deg:
        maps = []
        for state in chosen:
            maps.append(kernel_map(particles, where, where[truth.states == state][0], width))
        ceilings.append(_ceiling(f"oracle, kernel {width:g}°", maps, truth, chosen, region))
    return min(ceilings, key=lambda ceiling: ceiling.mean_px)


def kernel_map(
    particles: ParticleSet,
    where: Float[Array, "image coordinate"],
    centre: Float[Array, "coordinate"],
    width_deg: float,
) -> torch.Tensor:
    """The map of the images near a point of the true coordinates, by their distance.

    Args:
        where: what `coordinates` gives.
        width_deg: standard deviation of the Gaussian weights.
    """
    distance = np.linalg.norm(where - centre, axis=1) / np.radians(width_deg)
    near = np.flatnonzero(distance < REACH)
    weights = torch.from_numpy(np.exp(-0.5 * distance[near] ** 2)).float()
    return backproject_particles(particles[near], weights=weights).map


def consensus(particles: ParticleSet, truth: Truth, states: int = 50) -> Ceiling:
    """One map for all images."""
    chosen = spaced_states(truth, states)
    map_ = backproject_particles(particles).map
    return _ceiling("consensus", [map_] * len(chosen), truth, chosen, moving_region(truth))


@torch.no_grad()
def posterior_mean(
    particles: ParticleSet, truth: Truth, name: str, noise_sigma: float
) -> Float[Array, "image"]:
    """Mean of a coordinate under the true maps, poses, CTF and noise, every state being as likely.

    Args:
        name: of the coordinate.
        noise_sigma: standard deviation of the white noise, in the units of the images.
    """
    fitted = Preprocessor.fit(particles)
    disc = Disc(particles.box_size)
    variance = (noise_sigma / fitted.std) ** 2 * fitted.noise_factor
    states = np.unique(truth.states)
    values = np.array([truth.coordinates[name][truth.states == state][0] for state in states])
    pixel_size = float(particles.pixel_size.median())
    volumes = [
        VoxelVolume.from_map(torch.from_numpy(truth.volume(state)).float() / fitted.std, pixel_size)
        for state in states.tolist()
    ]
    estimate = np.empty(len(particles))
    for batch in ParticleLoader(particles, fitted, disc, 256).batches(range(len(particles))):
        centred = centre_images(batch, disc)
        log_likelihood = torch.empty(len(batch.index), len(states))
        for column, volume in enumerate(volumes):
            residual = centred.images - centred.ctf * central_slices(volume, centred.plane, centred.rotation)
            log_likelihood[:, column] = -0.5 * residual.square().sum(-1) / variance
        estimate[batch.index.numpy()] = torch.softmax(log_likelihood.double(), -1).numpy() @ values
    return estimate


def _ceiling(
    name: str,
    maps: Sequence[torch.Tensor],
    truth: Truth,
    states: Sequence[int],
    region: Bool[Array, "box box box"],
) -> Ceiling:
    found, correlations = [], []
    for map_, state in zip(maps, states, strict=True):
        true_map = truth.volume(state)
        fsc = fourier_shell_correlation(map_, torch.from_numpy(true_map))
        found.append(resolution(fsc, 0.5, map_.shape[-1]))
        correlations.append(region_correlation(map_.numpy(), true_map, region))
    return Ceiling(
        name, float(np.mean(found)), float(np.std(found)), float(np.mean(correlations)), len(states)
    )


def spaced_states(truth: Truth, count: int) -> list[int]:
    """Some of the states, evenly spaced over all of them."""
    every = np.unique(truth.states)
    return every[np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int)].tolist()
