r"""In-plane shifts S(t) of the paper's eq. 2 as phase ramps, for Fourier and for Hartley coefficients."""

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
    phase = _phase(freqs, shift)
    return torch.cos(phase) * coefficients + torch.sin(phase) * coefficients.flip(-1)


def _phase(
    freqs: Float[Tensor, "#image pixel 2"], shift: Float[Tensor, "image 2"]
) -> Float[Tensor, "image pixel"]:
    return 2 * math.pi * (freqs @ shift[:, :, None]).squeeze(-1)
