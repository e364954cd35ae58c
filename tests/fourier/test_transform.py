"""Centred transforms: origin, sign, scale, on odd and even boxes (conventions C1, C5, C6)."""

import math

import pytest
import torch

from cryoatlas.fourier.transform import (
    VOLUME_AXES,
    fourier,
    fourier_from_hartley,
    hartley,
    hartley_volume,
    inverse_fourier,
    inverse_hartley,
    inverse_hartley_volume,
)

BOXES = pytest.mark.parametrize("box", [8, 9])
# Sums of some hundred terms in float64.
EXACT = {"atol": 1e-13, "rtol": 0.0}


def random_array(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reflected(array: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """The array mirrored through the centre, index box // 2 of every axis: x(−r), or X(−k)."""
    flipped = array.flip(axes)
    return flipped if array.shape[-1] % 2 else flipped.roll([1] * len(axes), axes)


@BOXES
def test_fourier_is_the_sum_over_pixels_about_the_centre(box):
    image = random_array(box, box)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    wave = torch.exp(-2j * math.pi * axis[:, None] * axis / box)  # frequency, position
    expected = torch.einsum("vy,ux,yx->vu", wave, wave, image.to(wave.dtype)) / box
    torch.testing.assert_close(fourier(image), expected, **EXACT)


@BOXES
def test_the_zero_frequency_sits_at_half_the_box(box):
    spectrum = fourier(torch.ones(box, box, dtype=torch.float64))
    centre = box // 2
    assert spectrum[centre, centre].real.item() == pytest.approx(box)  # box² pixels, divided by box
    spectrum[centre, centre] = 0
    torch.testing.assert_close(spectrum, torch.zeros_like(spectrum), **EXACT)


@BOXES
def test_a_point_at_the_centre_has_a_flat_real_transform(box):
    image = torch.zeros(box, box, dtype=torch.float64)
    image[box // 2, box // 2] = 1
    flat = torch.full((box, box), 1 / box, dtype=torch.float64)
    torch.testing.assert_close(hartley(image), flat, **EXACT)


@BOXES
def test_hartley_is_real_minus_imaginary_with_x_on_the_last_axis(box):
    """A point at x = 1, y = 2 pixels from the centre transforms to cas 2π(kx + 2 ky)/box over box."""
    image = torch.zeros(box, box, dtype=torch.float64)
    image[box // 2 + 2, box // 2 + 1] = 1
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    phase = 2 * math.pi * (axis[None, :] + 2 * axis[:, None]) / box
    torch.testing.assert_close(hartley(image), (phase.cos() + phase.sin()) / box, **EXACT)


@BOXES
def test_hartley_is_its_own_inverse(box):
    image = random_array(3, box, box)
    torch.testing.assert_close(hartley(hartley(image)), image, **EXACT)
    torch.testing.assert_close(inverse_hartley(hartley(image)), image, **EXACT)


@BOXES
def test_hartley_keeps_inner_products_so_white_noise_stays_white(box):
    first, second = random_array(2, box, box)
    torch.testing.assert_close((hartley(first) * hartley(second)).sum(), (first * second).sum(), **EXACT)


@BOXES
def test_fourier_keeps_the_power_of_an_image(box):
    image = random_array(box, box)
    torch.testing.assert_close(fourier(image).abs().square().sum(), image.square().sum(), **EXACT)


@BOXES
def test_inverse_fourier_undoes_fourier_for_images_and_volumes(box):
    image, volume = random_array(box, box), random_array(box, box, box)
    torch.testing.assert_close(inverse_fourier(fourier(image)), image.to(torch.complex128), **EXACT)
    back = inverse_fourier(fourier(volume, VOLUME_AXES), VOLUME_AXES)
    torch.testing.assert_close(back, volume.to(torch.complex128), **EXACT)


@BOXES
def test_inverse_hartley_volume_undoes_hartley_volume(box):
    volume = random_array(2, box, box, box)
    torch.testing.assert_close(inverse_hartley_volume(hartley_volume(volume)), volume, **EXACT)


@BOXES
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_central_plane_of_a_volume_is_the_transform_of_its_projection(box, axis):
    """The slice theorem along z, y and x, exact and with no factor between (C6)."""
    volume = random_array(box, box, box)
    plane = hartley_volume(volume).select(axis, box // 2)
    torch.testing.assert_close(plane, hartley(volume.sum(axis)), **EXACT)
    plane = fourier(volume, VOLUME_AXES).select(axis, box // 2)
    torch.testing.assert_close(plane, fourier(volume.sum(axis)), **EXACT)


@BOXES
def test_hartley_of_the_mirrored_image_is_hartley_at_minus_k(box):
    image = random_array(box, box)
    axes = (-2, -1)
    torch.testing.assert_close(hartley(reflected(image, axes)), reflected(hartley(image), axes), **EXACT)


@BOXES
def test_fourier_follows_from_hartley_at_k_and_minus_k(box):
    volume = random_array(box, box, box)
    h = hartley_volume(volume)
    spectrum = fourier_from_hartley(h, reflected(h, VOLUME_AXES))
    torch.testing.assert_close(spectrum, fourier(volume, VOLUME_AXES), **EXACT)


@BOXES
def test_each_image_of_a_batch_is_transformed_alone(box):
    images = random_array(2, 3, box, box)
    torch.testing.assert_close(hartley(images)[1, 2], hartley(images[1, 2]), **EXACT)
