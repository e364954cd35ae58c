"""Gaussian noise: white (the paper) and coloured, one variance per shell (σ_l of eq. 3)."""

import math
from dataclasses import dataclass

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.shells import shell_mean
from cryoatlas.shapes import Float, Tensor


@dataclass(frozen=True)
class NoiseModel:
    """Independent zero-mean Gaussian noise on every Hartley coefficient, variance by shell.

    In the scale of convention C6 white noise of standard deviation σ per pixel has variance σ² in
    every shell.
    """

    variance: Float[Tensor, "shell"]

    @classmethod
    def white(cls, sigma: float, box_size: int) -> "NoiseModel":
        """The paper's noise: one σ for all frequencies."""
        return cls(torch.full((box_size // 2 + 1,), sigma**2))

    @classmethod
    def from_residuals(cls, residuals: Float[Tensor, "image pixel"], disc: Disc) -> "NoiseModel":
        """Per-shell variances that maximise the likelihood of residuals X̂ − ĝ S A V̂."""
        power = residuals.square().mean(0)
        count = disc.box_size // 2 + 1
        variance = shell_mean(power, disc.shells.to(power.device), count)
        return cls(variance.clamp(min=1e-12))

    def on(self, disc: Disc) -> Float[Tensor, "pixel"]:
        """The variance of each coefficient of a disc."""
        return self.variance[disc.shells.to(self.variance.device)]

    def negative_log_likelihood(
        self, observed: Float[Tensor, "image pixel"], predicted: Float[Tensor, "image pixel"], disc: Disc
    ) -> Float[Tensor, "image"]:
        """−log p(X | V, φ) of eq. 3, with its normalisation, summed over the disc."""
        variance = self.on(disc).to(observed)
        normaliser = 0.5 * torch.log(2 * math.pi * variance).sum()
        return 0.5 * ((observed - predicted).square() / variance).sum(-1) + normaliser

    def sample(self, count: int, disc: Disc, generator: torch.Generator) -> Float[Tensor, "image pixel"]:
        """Noise drawn on a disc."""
        deviate = torch.randn(count, len(disc), generator=generator, device=self.variance.device)
        return deviate * self.on(disc).sqrt()
