"""What is the best that any method can do on a simulated set? Ceilings that know the truth.

The oracle back-projects the images with their true poses, weighted by a Gaussian kernel in the true
state coordinate; of several kernel widths the best is taken. The consensus is the same without a
kernel: a method that finds no heterogeneity has it for every image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cryoatlas.analysis.fsc import fourier_shell_correlation, resolution
from cryoatlas.analysis.truth import Truth
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.recipes.backprojection import backproject_particles


@dataclass(frozen=True)
class Ceiling:
    """Resolution per image at FSC = 0.5, px."""

    name: str
    mean_px: float
    std_px: float
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
    where = coordinates(truth)
    chosen = _spaced_states(truth, states)
    best = None
    for width in widths_deg:
        found = []
        for state in chosen:
            centre = where[truth.states == state][0]
            distance = np.linalg.norm(where - centre, axis=1) / np.radians(width)
            weights = torch.from_numpy(np.where(distance < 3, np.exp(-0.5 * distance**2), 0)).float()
            map_ = backproject_particles(particles, weights=weights).map
            found.append(_resolution(map_, truth, state))
        ceiling = Ceiling(f"oracle, kernel {width:g}°", float(np.mean(found)), float(np.std(found)), len(found))
        best = ceiling if best is None or ceiling.mean_px < best.mean_px else best
    assert best is not None
    return best


def consensus(particles: ParticleSet, truth: Truth, states: int = 50) -> Ceiling:
    """One map for all images."""
    map_ = backproject_particles(particles).map
    found = [_resolution(map_, truth, state) for state in _spaced_states(truth, states)]
    return Ceiling("consensus", float(np.mean(found)), float(np.std(found)), len(found))


def _spaced_states(truth: Truth, count: int) -> list[int]:
    every = np.unique(truth.states)
    return every[np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int)].tolist()


def _resolution(map_: torch.Tensor, truth: Truth, state: int) -> float:
    fsc = fourier_shell_correlation(map_, torch.from_numpy(truth.volume(state)))
    return resolution(fsc, 0.5, map_.shape[-1])
