"""The objective is the evidence lower bound: its terms, its signs, and that it is a bound."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.volume import GaussianBody
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.vae import VAE, Shape, build_vae
from cryoatlas.particles.batch import Batch
from cryoatlas.training.loop import infer
from cryoatlas.training.objective import centre_images, compare, elbo
from cryoatlas.training.schedule import draw_coefficients
from cryoatlas.training.statistics import ResidualStatistics

BOX, PIXEL_SIZE, COUNT = 16, 3.0, 6


def small_vae(latent: int = 1, views: int = 1) -> VAE:
    return build_vae(
        Shape(
            box_size=BOX,
            pixel_size=PIXEL_SIZE,
            latent=latent,
            encoder=EncoderConfig(layers=1, width=16),
            decoder=DecoderConfig(layers=1, width=16, consensus=False),
            seed=0,
            views=views,
        )
    )


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    disc = Disc(BOX)
    body = GaussianBody(torch.tensor([[6.0, -3, 2], [0, 9, -4]]), torch.ones(2) * 500, 5.0, BOX, PIXEL_SIZE)
    pose = Pose(
        random_rotations(COUNT, rng).float(), torch.from_numpy(rng.uniform(-6, 6, (COUNT, 2))).float()
    )
    ctf = torch.from_numpy(rng.uniform(-1, 1, (COUNT, len(disc) // 2 + 1))).float()
    ctf = torch.cat([ctf, ctf[:, :-1].flip(1)], 1)  # A CTF is even.
    plane = plane_frequencies(disc, torch.full((1,), PIXEL_SIZE))
    images = predict(body, plane, pose, ctf) + 0.3 * torch.randn(COUNT, len(disc))
    return Batch(torch.arange(COUNT), images, ctf, pose, torch.full((COUNT,), PIXEL_SIZE))


def misfit(vae: VAE, batch, z, draw) -> torch.Tensor:
    return compare(vae, batch, z, draw).misfit(vae)


def whole(vae: VAE):
    return draw_coefficients(vae.disc, BOX / 2, BOX / 2, torch.Generator())


def test_the_misfit_of_centred_images_is_the_likelihood_of_the_images_as_recorded(batch):
    """Undoing the shift before comparing, or shifting the prediction: the same number."""
    vae = small_vae()
    vae.noise_variance.copy_(torch.linspace(0.5, 2, BOX // 2 + 1))
    z = torch.randn(COUNT, 1)
    with torch.no_grad():
        found = misfit(vae, centre_images(batch, vae.disc), z, whole(vae))
        plane = plane_frequencies(vae.disc, batch.pixel_size)
        predicted = predict(vae.decoder, plane, batch.pose, batch.ctf, z)
        expected = vae.noise.negative_log_likelihood(batch.images, predicted, vae.disc)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_the_kl_term_is_that_of_two_normals_and_pulls_towards_the_prior(batch):
    vae = small_vae(latent=2)
    centred = centre_images(batch, vae.disc)
    loss = elbo(vae, centred, whole(vae), 1.0, torch.Generator().manual_seed(0))
    posterior = vae.encode(centred.images, centred.ctf, centred.plane, centred.rotation)
    mean, std = posterior.mean, posterior.stddev
    expected = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)
    torch.testing.assert_close(loss.kl, expected)
    assert (loss.kl >= 0).all()
    torch.testing.assert_close(loss.total, (loss.misfit + loss.kl).mean())

    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    before = loss.kl.mean().item()
    for step in range(60):
        heavy = elbo(vae, centred, whole(vae), 1e4, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        heavy.total.backward()
        optimizer.step()
    assert heavy.kl.mean().item() < 0.1 * before


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_objective_bounds_the_evidence_from_above(batch, spread):
    """−ELBO ≥ −log ∫ p(X|z) p(z) dz, the integral taken on a fine grid of z, noise coloured."""
    vae = small_vae()
    vae.noise_variance.copy_(torch.linspace(0.5, 2, BOX // 2 + 1))
    vae.contrast_variance.fill_(spread**2)
    centred = centre_images(batch, vae.disc)
    grid = torch.linspace(-6, 6, 241)
    with torch.no_grad():
        log_likelihood = torch.stack([-misfit(vae, centred, g.expand(COUNT, 1), whole(vae)) for g in grid])
        log_prior = -0.5 * grid**2 - 0.5 * math.log(2 * math.pi)
        evidence = torch.logsumexp(log_likelihood + log_prior[:, None], 0) + math.log(12 / 240)
        samples = [
            elbo(vae, centred, whole(vae), 1.0, torch.Generator().manual_seed(seed)) for seed in range(200)
        ]
        losses = torch.stack([s.misfit + s.kl for s in samples])
    standard_error = losses.std(0) / 200**0.5
    assert (losses.mean(0) + 4 * standard_error > -evidence).all()


def test_coefficients_drawn_at_random_estimate_the_whole_misfit(batch):
    vae = small_vae()
    centred, z = centre_images(batch, vae.disc), torch.zeros(COUNT, 1)
    generator = torch.Generator().manual_seed(0)
    vae.noise_variance.copy_(torch.linspace(0.5, 2, BOX // 2 + 1))
    with torch.no_grad():
        exact = misfit(vae, centred, z, whole(vae))
        draws = [draw_coefficients(vae.disc, BOX / 2, 2.0, generator) for _ in range(600)]
        estimates = torch.stack([misfit(vae, centred, z, draw) for draw in draws])
    standard_error = estimates.std(0) / 600**0.5
    assert ((estimates.mean(0) - exact).abs() < 5 * standard_error).all()


def test_a_single_volume_has_no_kl(batch):
    vae = small_vae(latent=0)
    loss = elbo(vae, centre_images(batch, vae.disc), whole(vae), 1.0, torch.Generator())
    assert (loss.kl == 0).all()
    loss.total.backward()


def test_the_misfit_with_contrasts_is_the_integral_over_them(batch):
    """log ∫ p(X|a, z) p(a) da on a fine grid of a: the constants are right too."""
    vae = small_vae()
    vae.noise_variance.copy_(torch.linspace(0.5, 2, BOX // 2 + 1))
    centred, z, spread = centre_images(batch, vae.disc), torch.zeros(COUNT, 1), 0.4
    grid = torch.linspace(-2, 4, 1201)
    with torch.no_grad():
        compared = compare(vae, centred, z, whole(vae))
        by_factor = torch.stack(
            [
                vae.noise.negative_log_likelihood(compared.observed, a * compared.predicted, vae.disc)
                for a in grid
            ]
        )
        log_prior = -0.5 * ((grid - 1) / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi))
        expected = -torch.logsumexp(log_prior[:, None] - by_factor, 0) - math.log(6 / 1200)
        vae.contrast_variance.fill_(spread**2)
        torch.testing.assert_close(misfit(vae, centred, z, whole(vae)), expected, rtol=1e-5, atol=1e-3)


@pytest.fixture
def pairs(batch) -> Batch:
    """The same images, as those of three particles."""
    return replace(batch, index=torch.arange(3).repeat_interleave(2), tilts=torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_misfit_of_a_pair_is_the_sum_of_both_images_at_one_z(batch, pairs, spread):
    vae = small_vae()
    vae.noise_variance.copy_(torch.linspace(0.5, 2, BOX // 2 + 1))
    vae.contrast_variance.fill_(spread**2)
    z = torch.tensor([[0.3], [-1.0], [2.0]])
    with torch.no_grad():
        alone = misfit(vae, centre_images(batch, vae.disc), z.repeat_interleave(2, 0), whole(vae))
        both = compare(vae, centre_images(pairs, vae.disc), z, whole(vae))
    assert both.contrast(vae).mean.shape == (6,)
    torch.testing.assert_close(both.misfit(vae), alone[::2] + alone[1::2])


@pytest.mark.parametrize("latent", [0, 2])
def test_the_objective_has_one_value_for_each_particle(pairs, latent):
    vae = small_vae(latent, views=2)
    loss = elbo(vae, centre_images(pairs, vae.disc), whole(vae), 1.0, torch.Generator().manual_seed(0))
    assert loss.misfit.shape == loss.kl.shape == (3,)
    assert len(loss.compared.observed) == 6
    torch.testing.assert_close(loss.total, (loss.misfit + loss.kl).mean())


def test_latents_misfits_and_contrasts_are_inferred_by_particle(pairs):
    vae = small_vae(2, views=2)
    vae.contrast_variance.fill_(0.04)
    centred = centre_images(pairs, vae.disc)
    with torch.no_grad():
        posterior = vae.encode(centred.images, centred.ctf, centred.plane, centred.rotation)
        compared = compare(vae, centred, posterior.mean, whole(vae))
        contrast, expected = compared.contrast(vae).mean, compared.misfit(vae)
    found = infer(vae, [pairs[2:], pairs[:2]], 3)
    torch.testing.assert_close(found["z"], posterior.mean, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found["misfit"], expected, atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(found["contrast"], (contrast[::2] + contrast[1::2]) / 2)


def test_updated_variances_lower_the_misfit_of_the_same_comparisons(batch):
    """They maximise the likelihood, and the loss knows it because its normalisation is kept."""
    vae = small_vae()
    centred, z = centre_images(batch, vae.disc), torch.zeros(COUNT, 1)
    with torch.no_grad():
        before = misfit(vae, centred, z, whole(vae)).mean()
        statistics = ResidualStatistics(vae.disc)
        statistics.add(compare(vae, centred, z, whole(vae)), vae)
        best = statistics.noise_variance(vae.noise_variance)
        for factor in (1.0, 0.9, 1.1):
            vae.noise_variance.copy_(factor * best)
            factor_misfit = misfit(vae, centred, z, whole(vae)).mean()
            if factor == 1.0:
                least = factor_misfit
            else:
                assert factor_misfit > least
    assert least < before


def test_statistics_over_draws_agree_with_those_of_all_coefficients(batch):
    vae = small_vae()
    centred, z = centre_images(batch, vae.disc), torch.zeros(COUNT, 1)
    generator = torch.Generator().manual_seed(0)
    drawn, every = ResidualStatistics(vae.disc), ResidualStatistics(vae.disc)
    with torch.no_grad():
        every.add(compare(vae, centred, z, whole(vae)), vae)
        for _ in range(400):
            drawn.add(compare(vae, centred, z, draw_coefficients(vae.disc, BOX / 2, 2.0, generator)), vae)
    one = torch.ones(BOX // 2 + 1)
    # Shell 7 has about 44 coefficients, of which 400 draws of 2 in 7 take each a hundred times.
    torch.testing.assert_close(drawn.noise_variance(one), every.noise_variance(one), rtol=0.1, atol=0)


def test_a_shell_that_was_not_compared_keeps_its_variance(batch):
    vae = small_vae()
    statistics = ResidualStatistics(vae.disc)
    low = draw_coefficients(vae.disc, 4.0, BOX / 2, torch.Generator())
    statistics.add(compare(vae, centre_images(batch, vae.disc), torch.zeros(COUNT, 1), low), vae)
    found = statistics.noise_variance(torch.full((BOX // 2 + 1,), 7.0))
    assert (found[5:] == 7).all()
    assert (found[:4] != 7).all()
