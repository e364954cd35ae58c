r"""Aberrations beyond defocus, astigmatism and C_s, and magnification that depends on direction.

A phase error φ(k) of the microscope splits in two. The odd part, φ(−k) = −φ(k): beam tilt, coma, trefoil,
multiplies an image's transform by :math:`e^{i\phi(k)}`: it displaces what it delocalises. The even part,
four-fold astigmatism and the like, is subtracted from the CTF's γ. RELION writes each as a sum of Zernike
polynomials,

.. math::
    \phi(k) &= \sum_i c_i Z_i(k), \qquad Z_n^m(k) = R_n^{|m|}(k)\,
        \begin{cases}\cos m\alpha & m \ge 0 \\ \sin |m|\alpha & m < 0\end{cases} \\
    R_n^m(k) &= \sum_{j=0}^{(n-m)/2} \frac{(-1)^j\,(n-j)!}
        {j!\,\bigl(\frac{n+m}{2}-j\bigr)!\,\bigl(\frac{n-m}{2}-j\bigr)!}\, k^{n-2j}

with k in Å⁻¹, α from x towards y, and the coefficients c, in radians, ordered by n and within it by m from
−n to n in steps of two. A beam tilt b (radians) is

.. math:: \phi(k) = -2\pi\, C_s \lambda^2\, k^2\, (k\cdot b),

added to the odd sum. Definitions, order and signs are those of RELION (``Zernike.cpp``, ``tilt_helper.cpp``,
``obs_model.cpp``, ``ctf.h`` of 3dem/relion). Convention C12.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from cryoatlas.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Aberrations:
    """Phase errors and magnification of each image; many images share one kind, float64."""

    kind: Int[Tensor, "image"]
    """Which row of the other fields is each image's."""
    odd: Float[Tensor, "kind odd"]
    """Coefficients of the odd Zernike polynomials, beam tilt included, radians; zero to the end."""
    even: Float[Tensor, "kind even"]
    """Coefficients of the even ones."""
    magnification: Float[Tensor, "kind 2 2"]
    """M: what an image holds at k lies at M k in the specimen's transform."""

    def __getitem__(self, index: Int[Tensor, "some"] | slice) -> "Aberrations":
        return replace(self, kind=self.kind[index])

    @property
    def is_anisotropic(self) -> bool:
        """Whether any magnification is not the identity."""
        return bool((self.magnification != torch.eye(2, dtype=torch.float64)).any())


def odd_phase(
    freqs: Float[Tensor, "kind pixel 2"], coefficients: Float[Tensor, "kind term"]
) -> Float[Tensor, "kind pixel"]:
    """The phase φ(k), radians, that multiplies a transform by exp(iφ).

    Args:
        freqs: (kx, ky) in the specimen, Å⁻¹.
        coefficients: in RELION's order.
    """
    return _zernike_sum(freqs, coefficients, first_order=1)


def even_phase(
    freqs: Float[Tensor, "kind pixel 2"], coefficients: Float[Tensor, "kind term"]
) -> Float[Tensor, "kind pixel"]:
    """What is subtracted from the CTF's γ, radians; arguments as `odd_phase`."""
    return _zernike_sum(freqs, coefficients, first_order=0)


def beam_tilt_coefficients(
    tilt_mrad: Float[Tensor, "kind 2"],
    wavelength: Float[Tensor, "kind"],
    spherical_aberration_mm: Float[Tensor, "kind"],
) -> Float[Tensor, "kind 6"]:
    """The first odd coefficients of a beam tilt (x, y): k² k_x is (Z₃¹ + 2 Z₁¹)/3, and so for y."""
    strength = -2 * math.pi * 1e7 * spherical_aberration_mm * wavelength.square()
    x, y = (strength[:, None] * 1e-3 * tilt_mrad / 3).unbind(-1)
    none = torch.zeros_like(x)
    return torch.stack([2 * y, 2 * x, none, y, x, none], -1)


def zernike_terms(first_order: int) -> Iterator[tuple[int, int]]:
    """(m, n) of the polynomials in RELION's order: the odd ones from order 1, the even ones from 0."""
    n = first_order
    while True:
        yield from ((m, n) for m in range(-n, n + 1, 2))
        n += 2


def zernike(m: int, n: int, freqs: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Z_n^m at frequencies in Å⁻¹: not scaled to any circle."""
    kx, ky = freqs.unbind(-1)
    # k^|m| cos mα and k^|m| sin |m|α without the angle, which k = 0 does not have.
    angular = torch.complex(kx, ky) ** abs(m)
    k2 = kx.square() + ky.square()
    radial = torch.zeros_like(k2)
    for weight in _radial_weights(abs(m), n):
        radial = radial * k2 + weight
    return radial * (angular.real if m >= 0 else angular.imag)


def _radial_weights(m: int, n: int) -> list[int]:
    """Coefficients of R_n^m / k^m as a polynomial in k², highest power first."""
    half_sum, half_difference = (n + m) // 2, (n - m) // 2
    return [
        (-1) ** j
        * math.factorial(n - j)
        // (math.factorial(j) * math.factorial(half_sum - j) * math.factorial(half_difference - j))
        for j in range(half_difference + 1)
    ]


def _zernike_sum(
    freqs: Float[Tensor, "kind pixel 2"], coefficients: Float[Tensor, "kind term"], first_order: int
) -> Float[Tensor, "kind pixel"]:
    total = torch.zeros_like(freqs[..., 0])
    for (m, n), weight in zip(zernike_terms(first_order), coefficients.T, strict=False):
        if weight.any():
            total = total + weight[:, None] * zernike(m, n, freqs)
    return total
