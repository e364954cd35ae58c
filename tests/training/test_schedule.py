"""Schedules end where they should, and a draw of coefficients estimates sums without bias."""

import pytest
import torch

from cryoatlas.errors import ConfigError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.schedule import band_radius, draw_coefficients, kl_weight, learning_rate


def test_the_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig(learning_rate=2.0, warm_up=0.1)
    rates = [learning_rate(config, p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0, 1, 2, 1, 0], abs=1e-12)


def test_a_negative_warm_up_keeps_the_learning_rate():
    config = TrainConfig(learning_rate=1e-4, warm_up=-1.0)
    assert {learning_rate(config, p) for p in (0.0, 0.5, 1.0)} == {1e-4}


def test_the_band_grows_to_all_frequencies_and_stays():
    config = TrainConfig(marching=0.5, marching_start=0.25)
    assert [band_radius(config, p, 32.0) for p in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([8, 20, 32, 32])
    assert band_radius(TrainConfig(marching=0.0), 0.0, 32.0) == 32


def test_beta_rises_over_its_warm_up():
    config = TrainConfig(kl_weight=2.0, kl_warm_up=0.5)
    assert [kl_weight(config, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 1, 2, 2])
    assert kl_weight(TrainConfig(kl_weight=0.5, kl_warm_up=0.0), 0.0) == 0.5


def test_a_draw_is_closed_under_negation_with_k_0_in_its_middle():
    disc = Disc(24)
    for seed in range(5):
        keep = draw_coefficients(disc, 12.0, 3.0, torch.Generator().manual_seed(seed)).keep
        assert torch.equal(keep, len(disc) - 1 - keep.flip(0))
        assert keep[len(keep) // 2] == len(disc) // 2
        assert (keep.diff() > 0).all()


def test_a_dense_draw_is_the_whole_band_with_weight_one():
    disc = Disc(24)
    draw = draw_coefficients(disc, 9.5, 12.0, torch.Generator().manual_seed(0))
    assert torch.equal(draw.keep, disc.within(9.5))
    assert (draw.weight == 1).all()


def test_weighted_sums_over_draws_have_the_sum_over_the_band_as_their_mean():
    disc = Disc(24)
    values = torch.randn(len(disc), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    draws = [draw_coefficients(disc, 11.0, 3.0, generator) for _ in range(4000)]
    estimates = torch.stack([(values[d.keep] * d.weight).sum() for d in draws])
    exact = values[disc.within(11.0)].sum()
    standard_error = estimates.std() / 4000**0.5
    assert (estimates.mean() - exact).abs() < 4 * standard_error
    assert standard_error < 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent", -1),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("warm_up", 1.0),
        ("kl_weight", -0.1),
        ("kl_warm_up", 2.0),
        ("marching", 1.5),
        ("marching_start", 0.0),
        ("dense_radius", 0.0),
        ("seed", -1),
    ],
)
def test_options_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"{name} .* got {value}"):
        TrainConfig(**{name: value})
