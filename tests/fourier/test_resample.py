"""Resampling: what a band-limited image is on another grid, and what clipping in Fourier space gives."""

import math

import pytest
import torch

from cryoatlas.fourier.resample import Grid, Resampler, clip, covered, resample, resampling_matrix

EXACT = 1e-12
"""Sums of a few hundred terms of order 1 in float64."""
EQUAL_EXTENTS = [(16, 8), (16, 10), (16, 7), (15, 8), (15, 9), (12, 12), (11, 11), (10, 16), (9, 14)]


def noise(count: int, box: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equal_extents(old: int, new: int) -> tuple[Grid, Grid]:
    return Grid(old, 1.3), Grid(new, 1.3 * old / new)


def waves(grid: Grid, period: float, orders: int, seed: int = 1) -> torch.Tensor:
    """Samples on a grid of a sum of waves of up to `orders` cycles per `period` (Å) along each axis."""
    random = torch.Generator().manual_seed(seed)
    place = (torch.arange(grid.box_size, dtype=torch.float64) - grid.box_size // 2) * grid.pixel_size
    x, y = place[None, :] / period, place[:, None] / period
    image = torch.zeros(grid.box_size, grid.box_size, dtype=torch.float64)
    for kx in range(-orders, orders + 1):
        for ky in range(orders + 1):
            amplitude, phase = torch.randn(2, generator=random, dtype=torch.float64)
            image += amplitude * torch.cos(2 * math.pi * (kx * x + ky * y + phase))
    return image[None]


@pytest.mark.parametrize(("old", "new"), EQUAL_EXTENTS)
def test_waves_below_both_nyquists_become_their_own_samples(old, new):
    before, after = equal_extents(old, new)
    orders = (min(old, new) - 1) // 2
    given, wanted = (waves(grid, before.extent, orders) for grid in (before, after))
    result = resample(given, resampling_matrix(before, after))
    torch.testing.assert_close(result, wanted, rtol=0, atol=100 * EXACT)  # some hundred waves of order 1


@pytest.mark.parametrize("pixel_size", [1.5, 1.77, 2.2])
@pytest.mark.parametrize("box", [6, 10, 30])
def test_on_other_extents_too_and_zero_beyond_the_old_image(box, pixel_size):
    before, after = Grid(20, 1.1), Grid(box, pixel_size)
    orders = math.ceil(before.extent / (2 * pixel_size)) - 1  # below the new Nyquist frequency
    given, wanted = (waves(grid, before.extent, orders) for grid in (before, after))
    inside = covered(before, after)
    mask = inside[:, None] & inside[None, :]
    assert bool(mask.all()) == (after.extent <= before.extent)
    result = resample(given, resampling_matrix(before, after))
    torch.testing.assert_close(result, wanted * mask, rtol=0, atol=100 * EXACT)


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in EQUAL_EXTENTS if new <= old])
def test_equal_extents_are_the_fourier_transform_clipped(old, new):
    """An independent calculation: the centred transform cut out, ±Nyquist shared where the box is even."""
    image = noise(1, old)[0]
    spectrum = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image)))
    first = old // 2 - new // 2
    padded = torch.nn.functional.pad(spectrum, (0, 1, 0, 1))  # room for +Nyquist when new = old
    kept = padded[first : first + new, first : first + new].clone()
    if new % 2 == 0 and new < old:
        wide = padded[first : first + new + 1, first : first + new + 1].clone()
        wide[0] = wide[-1] = (wide[0] + wide[-1]) / 2
        wide[:, 0] = wide[:, -1] = (wide[:, 0] + wide[:, -1]) / 2
        kept = wide[:-1, :-1]
    clipped = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kept))) * (new / old) ** 2
    assert clipped.imag.abs().max() < EXACT
    result = resample(image[None], resampling_matrix(*equal_extents(old, new)))[0]
    torch.testing.assert_close(result, clipped.real, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("old", "new"), [(16, 8), (16, 10), (16, 14), (12, 12), (64, 2)])
def test_two_ffts_give_what_the_matrices_give(old, new):
    images = noise(3, old)
    matrix = resampling_matrix(*equal_extents(old, new))
    torch.testing.assert_close(clip(images, new), resample(images, matrix), rtol=0, atol=EXACT)


@pytest.mark.parametrize(("old", "new"), [(16, 8), (16, 7), (15, 8), (16, 16)])
def test_the_mean_stays(old, new):
    images = noise(3, old)
    result = resample(images, resampling_matrix(*equal_extents(old, new)))
    torch.testing.assert_close(result.mean((1, 2)), images.mean((1, 2)), rtol=0, atol=EXACT)


def test_two_steps_are_one():
    first, second, third = Grid(24, 1.0), Grid(16, 1.5), Grid(10, 2.4)
    there = resampling_matrix(second, third) @ resampling_matrix(first, second)
    torch.testing.assert_close(there, resampling_matrix(first, third), rtol=0, atol=EXACT)


def test_a_grid_is_resampled_to_itself_by_the_identity():
    for box in (8, 9):
        matrix = resampling_matrix(Grid(box, 1.2), Grid(box, 1.2))
        torch.testing.assert_close(matrix, torch.eye(box, dtype=torch.float64), rtol=0, atol=EXACT)


def test_white_noise_shrinks_with_the_boxes():
    matrix = resampling_matrix(*equal_extents(32, 16))
    variance = matrix.square().sum(1).square()  # of pixels on the diagonal, from noise of variance 1
    # Orders −7 … 7 count in full; at ±8 half of each is kept, at even pixels in step.
    expected = ((15 + 0.5) / 32) ** 2
    assert variance.mean().item() == pytest.approx(expected, rel=0.01)
    images = noise(200, 32)
    result = resample(images, matrix)
    # 51,200 pixels: the standard deviation is known to 0.3 %; 3 times that.
    assert result.std().item() == pytest.approx(images.std().item() * 15.5 / 32, rel=0.01)


def test_grids_of_one_extent_are_recognised_in_spite_of_rounding():
    assert Grid(256, 1.0605).spans(Grid(128, 2.121))
    assert not Grid(256, 1.0605).spans(Grid(128, 2.1212))


@pytest.mark.parametrize(
    "new", [Grid(16, 2.0), Grid(12, 2.0), Grid(20, 2.0), Grid(15, 32 / 15)], ids=lambda grid: grid.box_size
)
def test_a_resampler_takes_the_way_that_fits(new):
    old = Grid(32, 1.0)
    images = noise(2, 32).float()
    resampler = Resampler(old, new)
    wanted = resample(images.double(), resampling_matrix(old, new))
    torch.testing.assert_close(resampler(images).double(), wanted, rtol=0, atol=1e-5)  # float32
    outside = ~resampler.covered
    assert bool(outside.any()) == (new.box_size == 20)
    assert bool((wanted[:, outside] == 0).all())
