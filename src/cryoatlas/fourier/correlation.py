"""Fourier shell correlation of two maps, and what it says of the signal in them."""

from collections.abc import Callable

import torch

from cryoatlas.fourier.shells import shell_sum
from cryoatlas.shapes import Float, Tensor


def fourier_shell_correlation(
    first: Float[Tensor, "box box box"],
    second: Float[Tensor, "box box box"],
    *,
    shell_of: Callable[[Tensor], Tensor] = torch.round,
) -> Float[Tensor, "shell"]:
    """Re Σ F₁F₂* / √(Σ|F₁|² Σ|F₂|²) over hard shells round(|k|), from k = 0 to the box's Nyquist.

    A shell in which either map is zero correlates as 0. Computed in float64.

    Args:
        shell_of: makes |k| the number of a shell; `torch.floor` for shells s ≤ |k| < s + 1.
    """
    # The half transform holds each conjugate pair once, so pairs count twice. Where the origin lies
    # does not matter: it turns the phases of both maps alike.
    a, b = torch.fft.rfftn(first.double()), torch.fft.rfftn(second.double())
    radius, multiplicity = _half_transform(first.shape[-1], first.device)
    shells = shell_of(radius).long()
    count = first.shape[-1] // 2 + 1
    cross = shell_sum((a * b.conj()).real * multiplicity, shells, count)
    power_a, power_b = (shell_sum(x.abs().square() * multiplicity, shells, count) for x in (a, b))
    power = power_a * power_b
    return torch.where(power > 0, cross / power.clamp(min=torch.finfo(power.dtype).tiny).sqrt(), 0.0)


def _half_transform(
    box: int, device: torch.device
) -> tuple[Float[Tensor, "box box half"], Float[Tensor, "half"]]:
    """|k| of each entry of an uncentred half transform, and how many coefficients it stands for."""
    full = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64, device=device)
    half = torch.fft.rfftfreq(box, 1 / box, dtype=torch.float64, device=device)
    squared = full[:, None, None] ** 2 + full[None, :, None] ** 2 + half[None, None, :] ** 2
    alone = (half == 0) | (2 * half == box)
    return squared.sqrt(), torch.where(alone, 1.0, 2.0).double()


def signal_to_noise(half_map_fsc: Float[Tensor, "shell"]) -> Float[Tensor, "shell"]:
    """Spectral signal-to-noise ratio of the *full* map from the FSC of its half maps, 2c / (1 − c).

    Negative correlations count as no signal; a correlation of 1 is held just below it.
    """
    c = half_map_fsc.clamp(0, 0.999)
    return 2 * c / (1 - c)
