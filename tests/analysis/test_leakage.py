"""What z knows of how images were taken: closed forms, independence, and what the measure must not see."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.analysis.leakage import (
    FEWEST_IMAGES,
    Imaging,
    Leak,
    leakage,
    mutual_information,
    normal_scores,
)
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.ctf import CTFParameters

RNG = np.random.default_rng
IMAGES = 600


def imaging(seed: int = 0, images: int = IMAGES) -> Imaging:
    """Views from all sides, and all else drawn on its own."""
    generator = RNG(seed)
    ctf = CTFParameters.build(
        images,
        defocus_u=torch.from_numpy(generator.uniform(9000, 20000, images)),
        defocus_v=torch.from_numpy(generator.uniform(9000, 20000, images)),
        defocus_angle=0.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    pose = Pose(random_rotations(images, generator), torch.from_numpy(generator.normal(0, 3, (images, 2))))
    return Imaging(pose, ctf, generator.normal(1, 0.1, images))


def told(latents: np.ndarray, about: Imaging) -> set[str]:
    return {leak.quantity for leak in leakage(latents, about) if leak.telling}


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_gaussians_share_what_the_closed_form_says(correlation):
    """−½ log(1 − ρ²) in nats; the estimate of 2,000 has a standard deviation of 0.005 to 0.025."""
    generator = RNG(1)
    first, noise = generator.standard_normal((2, 2000, 1))
    second = correlation * first + math.sqrt(1 - correlation**2) * noise
    expected = -0.5 * math.log(1 - correlation**2)
    assert mutual_information(first, second) == pytest.approx(expected, abs=0.06)


def test_of_several_columns_each_adds_what_it_shares():
    generator = RNG(2)
    first, noise = generator.standard_normal((2, 2000, 2))
    second = np.array([0.8, 0.5]) * first + np.sqrt(1 - np.array([0.8, 0.5]) ** 2) * noise
    expected = -0.5 * math.log(1 - 0.64) - 0.5 * math.log(1 - 0.25)
    # Of four dimensions the estimate is a few per cent low.
    assert mutual_information(first, second) == pytest.approx(expected, abs=0.1)


def test_the_estimate_is_its_definition_written_out():
    from scipy.special import digamma

    first, second = RNG(3).standard_normal((2, 40, 2))
    near = [np.abs(part[:, None] - part[None]).max(-1) for part in (first, second)]
    both = np.maximum(*near)
    expected = digamma(3) + digamma(40)
    for i in range(40):
        limit = np.sort(both[i])[3]  # the image itself comes first
        expected -= sum(digamma(np.sum(part[i] < limit)) for part in near) / 40
    assert mutual_information(first, second, 3) == pytest.approx(expected)


def test_scores_keep_the_order_and_nothing_of_the_scale():
    columns = RNG(4).standard_normal((101, 2))
    scores = normal_scores(columns, RNG(0))
    np.testing.assert_array_equal(scores.argsort(0), columns.argsort(0))
    np.testing.assert_allclose(normal_scores(np.exp(3 * columns) - 7, RNG(1)), scores)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-12)
    assert len(np.unique(normal_scores(np.zeros((50, 1)), RNG(0)))) == 50


def test_no_monotone_change_of_a_column_changes_the_result():
    about = imaging()
    z = np.stack([about.pose.rotation[:, 2, 0].numpy(), RNG(5).standard_normal(IMAGES)], 1)
    changed = np.stack([5 * z[:, 0] ** 3, np.exp(z[:, 1])], 1)
    for before, after in zip(leakage(z, about), leakage(changed, about), strict=True):
        assert after == before


@pytest.mark.parametrize("size", [1, 3])
def test_a_latent_that_is_the_state_tells_nothing_else(size):
    """Five numbers of chance alone, within five of their spreads."""
    leaks = leakage(RNG(6).standard_normal((IMAGES, size)), imaging())
    names = ["viewing direction", "in-plane angle", "shift", "defocus", "contrast"]
    assert [leak.quantity for leak in leaks] == names
    for leak in leaks:
        assert not leak.significant
        assert abs(leak.excess) < 5 * leak.spread < 0.2


def test_each_quantity_is_told_by_its_own_name():
    about = imaging()
    pose, noise = about.pose, 0.2 * RNG(7).standard_normal((IMAGES, 1))
    psi = np.radians(pose.to_relion()[0][:, 2].numpy())
    defocus = (about.ctf.defocus_u + about.ctf.defocus_v).numpy()
    for name, column in (
        ("viewing direction", pose.rotation[:, 2, 1].numpy()),
        ("in-plane angle", np.sin(psi)),
        ("shift", pose.shift[:, 1].numpy()),
        ("defocus", defocus),
        ("contrast", about.contrast),
    ):
        scaled = (column - column.mean())[:, None] / column.std()
        z = np.concatenate([scaled + noise, RNG(8).standard_normal((IMAGES, 1))], 1)
        assert told(z, about) == {name}


def test_an_in_plane_angle_that_only_shows_at_each_direction_is_seen():
    """Counted from a start that differs with the direction, so that the angle by itself says nothing."""
    about = imaging(images=2000)
    direction = about.pose.rotation[:, 2].numpy()
    psi = np.radians(about.pose.to_relion()[0][:, 2].numpy())
    own_start = 3 * direction[:, 0]
    z = np.cos(psi + own_start)[:, None]
    assert mutual_information(z, np.stack([np.cos(psi), np.sin(psi)], 1)) < 0.1
    assert told(z, about) == {"in-plane angle"}


def test_states_with_views_of_their_own_are_not_accused():
    """Two states, seen three times as often from their own half of the sphere: 0.13 nats, significant."""
    about = imaging(images=2000)
    north = about.pose.rotation[:, 2, 2].numpy() > 0
    state = np.where(RNG(9).random(2000) < 0.75, north, ~north)
    found = leakage(state[:, None].astype(float), about)[0]
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert found.excess == pytest.approx(expected, abs=0.05)
    assert found.significant
    assert not found.telling


def test_only_what_is_known_and_differs_is_listed():
    z = RNG(10).standard_normal((IMAGES, 1))
    assert leakage(z, Imaging()) == []
    centred = Pose(imaging().pose.rotation, torch.zeros(IMAGES, 2, dtype=torch.float64))
    names = [leak.quantity for leak in leakage(z, Imaging(centred, contrast=np.ones(IMAGES)))]
    assert names == ["viewing direction", "in-plane angle"]


def test_nothing_is_said_of_a_collapsed_latent_or_a_handful_of_images():
    assert leakage(np.zeros((IMAGES, 2)), imaging()) == []
    few = FEWEST_IMAGES - 1
    assert leakage(RNG(0).standard_normal((few, 2)), imaging(images=few)) == []


def test_columns_that_no_volume_hears_of_are_left_out():
    about = imaging()
    whisper = 0.01 * about.pose.rotation[:, 2, :1].numpy()
    z = np.concatenate([RNG(11).standard_normal((IMAGES, 1)), whisper], 1)
    assert told(z, about) == set()
    assert told(100 * whisper, about) == {"viewing direction"}


def test_images_of_one_particle_count_once():
    """Three images of each particle share its z; without knowing that, chance would look significant."""
    about = imaging()
    particle = np.repeat(np.arange(IMAGES // 3), 3)
    z = RNG(12).standard_normal((IMAGES // 3, 2))[particle]
    grouped = Imaging(about.pose, about.ctf, about.contrast, particle)
    first = np.arange(0, IMAGES, 3)
    chosen = Imaging(about.pose[torch.from_numpy(first)], about.ctf[torch.from_numpy(first)],
                     about.contrast[first])  # fmt: skip
    assert leakage(z, grouped) == leakage(z[first], chosen)


def test_the_result_is_the_same_every_time():
    z = RNG(13).standard_normal((IMAGES, 2))
    assert leakage(z, imaging()) == leakage(z, imaging())


def test_much_within_chance_is_not_telling():
    assert Leak("shift", 0.3, 0.01).telling
    assert not Leak("shift", 0.3, 0.1).telling
    assert not Leak("shift", 0.1, 0.01).telling
