r"""Centred Fourier and Hartley transforms of images and volumes, odd and even boxes.

The origin of real and of Fourier space is at index ``box // 2`` of every axis (convention C1).
Transforms are scaled by 1/box for images *and* for volumes (C6). An image of white noise of standard
deviation σ then has coefficients of standard deviation σ, and a central slice of a volume's
transform *is* the transform of its projection (the sum over voxels along z), with no factor between.
The Hartley transform is Re − Im of the Fourier transform (C5): real, and for images its own inverse.
"""

import torch

from cryoatlas.shapes import Complex, Float, Tensor

IMAGE_AXES = (-2, -1)
VOLUME_AXES = (-3, -2, -1)


def fourier(real: Tensor, axes: tuple[int, ...] = IMAGE_AXES) -> Tensor:
    """Centred discrete Fourier transform over `axes`, Σ x exp(−2πi k·x), divided by the box size."""
    box = real.shape[-1]
    spectrum = torch.fft.fftn(torch.fft.ifftshift(real, dim=axes), dim=axes)
    return torch.fft.fftshift(spectrum, dim=axes) / box


def inverse_fourier(spectrum: Tensor, axes: tuple[int, ...] = IMAGE_AXES) -> Tensor:
    """Inverse of `fourier`; complex."""
    box = spectrum.shape[-1]
    real = torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=axes), dim=axes)
    return torch.fft.fftshift(real, dim=axes) * box


def hartley(real: Float[Tensor, "*batch box box"]) -> Float[Tensor, "*batch box box"]:
    """Centred Hartley transform of images, orthonormal and an involution."""
    return _real_minus_imaginary(fourier(real, IMAGE_AXES))


def inverse_hartley(coefficients: Float[Tensor, "*batch box box"]) -> Float[Tensor, "*batch box box"]:
    """Images from their Hartley coefficients: the same map as `hartley`."""
    return hartley(coefficients)


def hartley_volume(real: Float[Tensor, "*batch box box box"]) -> Float[Tensor, "*batch box box box"]:
    """Centred Hartley transform of volumes, scaled so that a central slice needs no factor."""
    return _real_minus_imaginary(fourier(real, VOLUME_AXES))


def inverse_hartley_volume(
    coefficients: Float[Tensor, "*batch box box box"],
) -> Float[Tensor, "*batch box box box"]:
    """Volumes from their Hartley coefficients: `hartley_volume` divided by the box size."""
    return hartley_volume(coefficients) / coefficients.shape[-1]


def fourier_from_hartley(
    at_k: Float[Tensor, "*batch"], at_minus_k: Float[Tensor, "*batch"]
) -> Complex[Tensor, "*batch"]:
    """F(k) of a real body from H(k) and H(−k): the even part is Re F, minus the odd part is Im F."""
    return torch.complex((at_k + at_minus_k) / 2, (at_minus_k - at_k) / 2)


def _real_minus_imaginary(spectrum: Tensor) -> Tensor:
    return spectrum.real - spectrum.imag
