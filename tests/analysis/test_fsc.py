"""FSC: laws of a correlation, known signal-to-noise, and what is read off the curve."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cryoatlas.analysis.fsc import (
    area_under_curve,
    cryobench_area,
    fourier_shell_correlation,
    resolution,
)
from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.shells import shell_grid, shell_sum
from cryoatlas.fourier.transform import VOLUME_AXES, fourier, inverse_fourier

BOXES = [12, 13, 32]


def noise(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box, box, box))


@pytest.mark.parametrize("box", BOXES)
def test_a_map_agrees_with_itself_at_every_shell(box):
    curve = fourier_shell_correlation(noise(box, 0), noise(box, 0))
    assert curve.shape == (box // 2 + 1,)
    np.testing.assert_allclose(curve, 1, atol=1e-12)


@pytest.mark.parametrize("box", BOXES)
def test_scale_does_not_matter_and_sign_does(box):
    a, b = noise(box, 0), noise(box, 1) + noise(box, 0)
    curve = fourier_shell_correlation(a, b)
    np.testing.assert_allclose(fourier_shell_correlation(3 * a, 0.1 * b), curve, atol=1e-12)
    np.testing.assert_allclose(fourier_shell_correlation(-a, b), -curve, atol=1e-12)
    np.testing.assert_allclose(fourier_shell_correlation(b, a), curve, atol=1e-12)


@pytest.mark.parametrize("box", BOXES)
def test_it_is_the_normalised_sum_over_the_full_transform(box):
    """Of all coefficients, Nyquist included, each in the shell nearest to its |k|."""
    a, b = (torch.from_numpy(noise(box, seed)) for seed in (2, 3))
    transform_a, transform_b = fourier(a, VOLUME_AXES), fourier(b, VOLUME_AXES)
    shells, count = shell_grid(box, 3), box // 2 + 1
    cross = shell_sum((transform_a * transform_b.conj()).real, shells, count)
    norms = [shell_sum(t.abs().square(), shells, count).sqrt() for t in (transform_a, transform_b)]
    expected = (cross / (norms[0] * norms[1])).numpy()
    np.testing.assert_allclose(fourier_shell_correlation(a, b), expected, atol=1e-12)


def test_independent_noise_does_not_correlate():
    """A shell of n coefficients has n/2 independent ones, so the FSC of noise scatters by √(2/n)."""
    box = 32
    curve = fourier_shell_correlation(noise(box, 4), noise(box, 5))
    population = shell_sum(torch.ones(box, box, box), shell_grid(box, 3), box // 2 + 1).numpy()
    scatter = np.sqrt(2 / population)
    assert np.all(np.abs(curve[1:]) < 4.5 * scatter[1:])  # 16 shells: beyond 4.5 σ is a chance of 1e-4


def test_known_signal_to_noise_per_shell_gives_the_expected_curve():
    """Two noisy copies of one map: FSC = SNR / (1 + SNR) where SNR is the ratio of powers in the shell."""
    box = 48
    shells = shell_grid(box, 3)
    falloff = torch.exp(-shells / 8.0)
    signal = inverse_fourier(
        fourier(torch.from_numpy(noise(box, 6)), VOLUME_AXES) * falloff, VOLUME_AXES
    ).real
    sigma = 0.3
    curve = fourier_shell_correlation(
        signal.numpy() + sigma * noise(box, 7), signal.numpy() + sigma * noise(box, 8)
    )
    snr = torch.exp(-2 * torch.arange(box // 2 + 1) / 8.0).numpy() / sigma**2
    # Shells 6 … 24 hold ≥ 400 coefficients: the scatter is below √(2/400) = 0.07, and 4 σ at most 0.28 for
    # the smallest; the mean over 19 shells is good to 0.01.
    difference = (curve - snr / (1 + snr))[6:]
    assert np.abs(difference).max() < 0.2
    assert abs(difference.mean()) < 0.02


def test_a_mask_multiplies_both_maps():
    box = 16
    a, b, mask = noise(box, 9), noise(box, 10), np.abs(noise(box, 11))
    np.testing.assert_allclose(
        fourier_shell_correlation(a, b, mask), fourier_shell_correlation(a * mask, b * mask), atol=1e-12
    )
    assert not np.allclose(fourier_shell_correlation(a, b, mask), fourier_shell_correlation(a, b))


def test_float32_tensors_are_accumulated_in_float64():
    a, b = noise(20, 12).astype(np.float32), noise(20, 13).astype(np.float32)
    exact = fourier_shell_correlation(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_array_equal(fourier_shell_correlation(torch.from_numpy(a), torch.from_numpy(b)), exact)


def test_an_empty_map_agrees_on_nothing():
    np.testing.assert_array_equal(fourier_shell_correlation(np.zeros((8, 8, 8)), noise(8, 0)), np.zeros(5))


def test_resolution_is_the_box_over_the_first_shell_under_the_threshold():
    curve = np.array([1, 0.9, 0.8, 0.49, 0.9, 0.1, 0.0])
    assert resolution(curve, 0.5, 12) == 12 / 3
    assert resolution(torch.from_numpy(curve), 0.143, 12) == 12 / 5


def test_resolution_between_shells_is_linear():
    curve = np.array([1, 0.9, 0.8, 0.4, 0.0, 0.0, 0.0])
    assert resolution(curve, 0.5, 12, interpolate=True) == pytest.approx(12 / 2.75)


def test_resolution_of_a_curve_that_never_falls_is_nyquist():
    for box in (12, 13):
        assert resolution(np.ones(box // 2 + 1), 0.5, box) == 2.0
        assert resolution(np.ones(box // 2 + 1), 0.5, box, interpolate=True) == 2.0


def test_resolution_ignores_the_mean_and_is_the_box_when_nothing_agrees():
    assert resolution(np.array([-1.0, 1, 1, 0]), 0.5, 6) == 2.0
    for interpolate in (False, True):
        assert resolution(np.array([1.0, 0.1, 0.9, 0.9]), 0.5, 6, interpolate=interpolate) == 6.0


def test_area_of_a_perfect_curve_is_the_band_and_negative_values_count_as_zero():
    assert area_under_curve(np.ones(65), 128) == pytest.approx(63 / 128)
    curve = np.ones(33)
    curve[8:] = -1
    # Ones up to shell 7, then one trapezoid down to zero.
    assert area_under_curve(curve, 64) == pytest.approx(7.5 / 64)
    assert math.isclose(area_under_curve(np.ones(7), 13), 6 / 13)  # odd: shells 0 … 6 all lie below Nyquist


def cryobench_in_loops(first: np.ndarray, second: np.ndarray) -> float:
    """Per-image area as CryoBench's code defines it: balls around the middle of the centred transform,
    shell i what ball i has beyond ball i − 1, in the first of which is the mean alone; 1 in front of all."""
    box = len(first)
    axis = np.arange(-(box // 2), box // 2)
    a, b = (np.fft.fftshift(np.fft.fftn(np.fft.fftshift(map_))) for map_ in (first, second))
    radius = np.zeros((box, box, box))
    for index in np.ndindex(radius.shape):
        radius[index] = math.sqrt(sum(int(axis[i]) ** 2 for i in index))
    curve, inside = [1.0], np.zeros(radius.shape, bool)
    for ball in range(1, box // 2):
        shell = (radius < ball) & ~inside
        inside |= shell
        norm = math.sqrt(np.vdot(a[shell], a[shell]).real * np.vdot(b[shell], b[shell]).real)
        curve.append(np.vdot(a[shell], b[shell]).real / norm)
    return sum((abs(p) + abs(q)) / 2 / box for p, q in pairwise(curve))


@pytest.mark.parametrize("box", [8, 16, 32])
@pytest.mark.parametrize("masked", [False, True])
def test_cryobenchs_area_is_its_definition_in_loops(box, masked):
    a, b = noise(box, 13), noise(box, 14) - 0.3 * noise(box, 13)  # an anticorrelation counts as a correlation
    mask = np.abs(noise(box, 15)) if masked else None
    weight = 1 if mask is None else mask
    assert cryobench_area(a, b, mask) == pytest.approx(cryobench_in_loops(a * weight, b * weight), abs=1e-12)


def test_cryobenchs_area_of_a_perfect_map_is_ours_and_of_nothing_is_not_its_own():
    a = noise(16, 16)
    assert cryobench_area(a, 3 * a) == pytest.approx(7 / 16)
    # One half trapezoid from the 1 in front; CryoBench gives a map of zeros the area of a perfect one.
    assert cryobench_area(a, np.zeros_like(a)) == pytest.approx(0.5 / 16)


def test_cryobenchs_shells_lie_half_a_shell_lower_so_a_falling_curve_has_more_area():
    """White noise; in the second map phases beyond |k| = 10 are a quarter turn off: FSC 1, and then 0."""
    box = 32
    grid = frequency_grid(box, 3)
    radius = torch.linalg.vector_norm(grid, dim=-1)
    first = torch.from_numpy(noise(box, 17))
    quarter = torch.where(radius < 10, 1, 1j * grid[..., 0].sign())
    second = inverse_fourier(fourier(first, VOLUME_AXES) * quarter, VOLUME_AXES).real
    # CryoBench has 1 at 0 … 10 and 0 from 11 on.
    assert cryobench_area(first, second) == pytest.approx(10.5 / box, abs=1e-10)
    # We have 1 at 0 … 9, and in shell 10 the share of its power that lies below |k| = 10, whose 1,200
    # coefficients (half of them independent) scatter by 4 %.
    shell = radius[radius.round() == 10]
    ours = area_under_curve(fourier_shell_correlation(first, second), box)
    assert ours == pytest.approx((9.5 + float((shell < 10).double().mean())) / box, abs=0.06 / box)
