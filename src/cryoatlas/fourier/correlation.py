"""Fourier shell correlation of two maps, and what it says of the signal in them."""

import torch

from cryoatlas.fourier.shells import shell_grid, shell_sum
from cryoatlas.fourier.transform import VOLUME_AXES, fourier
from cryoatlas.shapes import Float, Tensor


def fourier_shell_correlation(
    first: Float[Tensor, "box box box"], second: Float[Tensor, "box box box"]
) -> Float[Tensor, "shell"]:
    """Re Σ F₁F₂* / √(Σ|F₁|² Σ|F₂|²) over hard shells round(|k|), from k = 0 to the box's Nyquist.

    A shell in which either map is zero correlates as 0. Computed in float64.
    """
    box = first.shape[-1]
    a, b = fourier(first.double(), VOLUME_AXES), fourier(second.double(), VOLUME_AXES)
    shells, count = shell_grid(box, 3).to(first.device), box // 2 + 1
    cross = shell_sum((a * b.conj()).real, shells, count)
    power = shell_sum(a.abs().square(), shells, count) * shell_sum(b.abs().square(), shells, count)
    return torch.where(power > 0, cross / power.clamp(min=torch.finfo(power.dtype).tiny).sqrt(), 0.0)


def signal_to_noise(half_map_fsc: Float[Tensor, "shell"]) -> Float[Tensor, "shell"]:
    """Spectral signal-to-noise ratio of the *full* map from the FSC of its half maps, 2c / (1 − c).

    Negative correlations count as no signal; a correlation of 1 is held just below it.
    """
    c = half_map_fsc.clamp(0, 0.999)
    return 2 * c / (1 - c)
