r"""Odd phases: in-plane shifts S(t) of the paper's eq. 2, and all others, on Hartley coefficients.

A phase with φ(−k) = −φ(k) that multiplies the transform of an image leaves the image real. On Hartley
coefficients it is

.. math:: \operatorname{Re}(e^{i\phi}F) - \operatorname{Im}(e^{i\phi}F) = \cos\phi\; H(k) - \sin\phi\; H(-k).
"""

import math

import torch

from cryoatlas.shapes import Complex, Float, Tensor


def phase_ramp(
    freqs: Float[Tensor, "#image pixel 2"], shift: Float[Tensor, "image 2"]
) -> Complex[Tensor, "image pixel"]:
    """exp(−2πi k·t): multiplying an image's transform by it moves the particle by `shift`.

    Args:
        freqs: (kx, ky), Å⁻¹; one list for all images, or one for each.
        shift: translation t, Å; positive moves the particle towards +x, +y.
    """
    return torch.exp(-1j * _phase(freqs, shift))


def shift_hartley(
    coefficients: Float[Tensor, "image pixel"],
    freqs: Float[Tensor, "#image pixel 2"],
    shift: Float[Tensor, "image 2"],
) -> Float[Tensor, "image pixel"]:
    """S(t) on the Hartley coefficients of a `Disc`: cos(2πk·t) H(k) + sin(2πk·t) H(−k).

    Args:
        coefficients: in a `Disc`'s order, which makes H(−k) the reversed list.
        freqs, shift: as in `phase_ramp`.
    """
    return turn_phase_hartley(coefficients, -_phase(freqs, shift))


def turn_phase_hartley(
    coefficients: Float[Tensor, "image pixel"], phase: Float[Tensor, "#image pixel"]
) -> Float[Tensor, "image pixel"]:
    """Hartley coefficients of an image whose transform is multiplied by exp(iφ), φ being odd in k.

    Args:
        coefficients: in a `Disc`'s order, which makes H(−k) the reversed list.
        phase: φ at the disc's frequencies, radians.
    """
    return torch.cos(phase) * coefficients - torch.sin(phase) * coefficients.flip(-1)


def _phase(
    freqs: Float[Tensor, "#image pixel 2"], shift: Float[Tensor, "image 2"]
) -> Float[Tensor, "image pixel"]:
    return 2 * math.pi * (freqs @ shift[:, :, None]).squeeze(-1)
