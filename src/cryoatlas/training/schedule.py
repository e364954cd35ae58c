"""How the band, the learning rate and β change over a run. Progress is the fraction of steps done."""

import math
from dataclasses import dataclass

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.training.config import TrainConfig


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Linear rise, then a half cosine to 0; constant when `warm_up` is negative."""
    if config.warm_up < 0:
        return config.learning_rate
    if progress < config.warm_up:
        return config.learning_rate * progress / config.warm_up
    fall = (progress - config.warm_up) / (1 - config.warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * fall))


def kl_weight(config: TrainConfig, progress: float) -> float:
    """β, rising linearly from 0 over `kl_warm_up`."""
    return config.kl_weight * (min(1.0, progress / config.kl_warm_up) if config.kl_warm_up else 1.0)


def band_radius(config: TrainConfig, progress: float, full: float) -> float:
    """Radius in cycles per box of the frequencies in use (frequency marching)."""
    if progress >= config.marching:
        return full
    grown = config.marching_start + (1 - config.marching_start) * progress / config.marching
    return grown * full


@dataclass(frozen=True)
class Draw:
    """A part of a disc that estimates sums over the disc's band without bias."""

    keep: Int[Tensor, "kept"]
    """Positions in the disc's list, increasing and closed under k → −k."""
    weight: Float[Tensor, "kept"]
    """One over the probability that each was kept."""

    def to(self, device: torch.device) -> "Draw":
        """Move both tensors."""
        return Draw(self.keep.to(device), self.weight.to(device))


def draw_coefficients(disc: Disc, radius: float, dense_radius: float, generator: torch.Generator) -> Draw:
    """All coefficients inside `dense_radius`, and of those out to `radius` a share dense_radius/|k|.

    Rings are then equally populated. Outer rings hold most coefficients, little signal, and cost the
    decoder as much as any; the weights keep the objective's expectation what it is with all of them.
    A coefficient and its opposite are kept or left together.
    """
    length = disc.frequencies.norm(dim=-1)
    half = len(disc) // 2 + 1
    probability = (dense_radius / length.clamp(min=1e-9)).clamp(max=1.0)
    drawn = torch.rand(half, generator=generator, dtype=torch.float64) < probability[:half]
    drawn &= length[:half] < radius
    first = drawn.nonzero().squeeze(-1)
    keep = torch.cat([first, len(disc) - 1 - first[:-1].flip(0)])
    return Draw(keep, (1 / probability[keep]).float())
