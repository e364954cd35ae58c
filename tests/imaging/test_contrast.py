"""The contrast factor in closed form: against brute force, and with its integral done numerically."""

import math

import pytest
import torch

from cryoatlas.imaging.contrast import Contrast, contrast_moments, fit_contrast, misfit_over_contrasts

COUNT, PIXELS, TAU2 = 5, 40, torch.tensor(0.3**2, dtype=torch.float64)


@pytest.fixture
def compared():
    """Images of contrasts 0.4 … 1.6, their predictions and precisions, float64."""
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(COUNT, PIXELS, generator=generator, dtype=torch.float64)
    precision = torch.rand(PIXELS, generator=generator, dtype=torch.float64) + 0.2
    factor = torch.linspace(0.4, 1.6, COUNT, dtype=torch.float64)[:, None]
    noise = torch.randn(COUNT, PIXELS, generator=generator, dtype=torch.float64)
    return factor * predicted + noise / precision.sqrt(), predicted, precision


def energies(observed, predicted, precision, factors):
    """−log p(X|a) p(a) without the constants of the noise and the prior, for every factor of a grid."""
    residual = observed[:, None] - factors[:, None] * predicted[:, None]
    return 0.5 * (residual.square() * precision).sum(-1) + 0.5 * (factors - 1) ** 2 / TAU2


def test_the_closed_form_is_the_minimiser_found_by_brute_force(compared):
    grid = torch.linspace(-1, 3, 40_001, dtype=torch.float64)
    best = grid[energies(*compared, grid).argmin(1)]
    # The grid's step is 1e-4.
    torch.testing.assert_close(fit_contrast(*compared, TAU2).mean, best, atol=6e-5, rtol=0)


def test_the_misfit_is_the_integral_over_all_contrasts(compared):
    grid = torch.linspace(-2, 4, 6001, dtype=torch.float64)
    integral = torch.logsumexp(-energies(*compared, grid), 1) + math.log(6 / 6000)
    integral -= 0.5 * torch.log(2 * math.pi * TAU2)
    found = misfit_over_contrasts(*compared, fit_contrast(*compared, TAU2), TAU2)
    torch.testing.assert_close(found, -integral, rtol=1e-10, atol=1e-10)


def test_any_other_posterior_gives_a_larger_misfit(compared):
    best = fit_contrast(*compared, TAU2)
    least = misfit_over_contrasts(*compared, best, TAU2)
    for other in (Contrast(best.mean + 0.1, best.variance), Contrast(best.mean, 2 * best.variance)):
        assert (misfit_over_contrasts(*compared, other, TAU2) > least + 1e-3).all()


def test_the_variance_is_the_curvature_of_the_minimum(compared):
    posterior = fit_contrast(*compared, TAU2)
    step = 1e-3
    below, middle, above = (
        energies(*compared, posterior.mean + shift).diagonal() for shift in (-step, 0.0, step)
    )
    curvature = (below + above - 2 * middle) / step**2
    # Second differences of numbers near 20 lose ten digits of sixteen.
    torch.testing.assert_close(posterior.variance, 1 / curvature, rtol=1e-5, atol=0)


def test_without_spread_the_factor_is_one_and_the_misfit_that_of_normal_noise(compared):
    none = torch.zeros((), dtype=torch.float64)
    observed, predicted, precision = compared
    posterior = fit_contrast(*compared, none)
    assert (posterior.mean == 1).all()
    assert (posterior.variance == 0).all()
    expected = 0.5 * ((observed - predicted).square() * precision).sum(-1)
    torch.testing.assert_close(misfit_over_contrasts(*compared, posterior, none), expected)


def test_known_factors_are_found_within_their_stated_error():
    """Over 400 images, errors divided by their posterior deviation have a mean square of 1."""
    generator = torch.Generator().manual_seed(3)
    factor = 1 + 0.3 * torch.randn(400, generator=generator, dtype=torch.float64)
    predicted = torch.randn(400, PIXELS, generator=generator, dtype=torch.float64)
    observed = factor[:, None] * predicted + torch.randn(
        400, PIXELS, generator=generator, dtype=torch.float64
    )
    posterior = fit_contrast(observed, predicted, torch.ones(PIXELS, dtype=torch.float64), TAU2)
    scaled = (posterior.mean - factor).square() / posterior.variance
    # The mean of 400 χ² of one degree of freedom: 1 ± √(2/400) = 0.07; three of these.
    assert scaled.mean().item() == pytest.approx(1, abs=0.21)


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.4])
def test_the_spread_follows_from_moments(spread):
    generator = torch.Generator().manual_seed(4)
    factor = 1 + spread * torch.randn(4000, generator=generator, dtype=torch.float64)
    predicted = torch.randn(4000, PIXELS, generator=generator, dtype=torch.float64)
    precision = torch.linspace(0.5, 2, PIXELS, dtype=torch.float64)
    noise = torch.randn(4000, PIXELS, generator=generator, dtype=torch.float64) / precision.sqrt()
    excess, information = contrast_moments(factor[:, None] * predicted + noise, predicted, precision)
    # One image of information 50 tells τ² to √2·(τ² + 1/50), 4,000 to a sixty-third of that; five of these.
    error = 5 * math.sqrt(2 / 4000) * (spread**2 + 1 / 50)
    assert (excess / information).item() == pytest.approx(spread**2, abs=error)
