"""Searching images that each have a volume of their own, by its z."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.poses.small_world import BOX, PIXEL, body, contrast, make_view, random_poses, swinging_body
from tests.poses.test_branch_and_bound import SMALL, brute_force

from cryoatlas.geometry.rotations import about_axis, about_x, geodesic_angle
from cryoatlas.imaging.shift import phase_ramp
from cryoatlas.imaging.volume import voxels
from cryoatlas.models.basis import BasisVolume
from cryoatlas.portions import Portion
from cryoatlas.poses.bound import Steepness
from cryoatlas.poses.branch_and_bound import search
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.find import find_poses

ARMS = torch.tensor([[-0.8], [-0.1], [0.3], [0.9]])
"""Angles of the arm, so far apart that each image's volume is another."""


def two_bodies() -> BasisVolume:
    return BasisVolume.from_maps(torch.stack([voxels(body(0)), voxels(body(1))]), PIXEL)


def one_by_one(volume, view, z, turn) -> torch.Tensor:
    """Brute force for each image with its own volume."""
    rows = [brute_force(volume, [view[i : i + 1]], SMALL, turn, row) for i, row in enumerate(z)]
    return torch.cat(rows)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 10_000), sigma=st.sampled_from([0.0, 0.3, 2.0]), kind=st.sampled_from(["arm", "sum"])
)
def test_without_a_cap_nothing_on_the_finest_grid_is_better(seed, sigma, kind):
    volume = swinging_body(seed) if kind == "arm" else two_bodies()
    z = ARMS[:3] if kind == "arm" else torch.tensor([[1.0, 0.0], [0.5, 0.5], [-0.2, 1.1]])
    view = make_view(volume, random_poses(3, seed, 5.0), sigma=sigma, ctf=contrast(3, seed), seed=seed, z=z)
    turn = random_poses(1, seed + 1).rotation[0]
    found = search(volume, [view], SMALL, z=z, turn=turn)
    torch.testing.assert_close(found.loss, one_by_one(volume, view, z, turn), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 6])
def test_own_z_that_are_all_equal_give_what_one_z_gives(keep):
    volume, config = (
        swinging_body(),
        SearchConfig(
            base_level=0, subdivisions=2, band_start=4.0, shift_extent_px=2.0, shift_points=2, keep=keep
        ),
    )
    view = make_view(volume, random_poses(4, 3), sigma=1.0, ctf=contrast(4, 3), z=ARMS[:1].expand(4, 1))
    shared, row, own = (
        find_poses(volume, [view], config, z=z) for z in (ARMS[0], ARMS[:1], ARMS[:1].repeat(4, 1))
    )
    assert torch.equal(shared.loss, row.loss)
    torch.testing.assert_close(own.loss, shared.loss, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(own.pose.rotation, shared.pose.rotation, rtol=0, atol=1e-3)
    assert own.evaluations > shared.evaluations


@pytest.mark.parametrize("at_once", [1, 400_000])
def test_results_do_not_depend_on_how_images_are_grouped(monkeypatch, at_once):
    """Neither images nor frequencies: memory is bounded at both places."""
    volume, config = swinging_body(), SearchConfig(keep=6, shift_extent_px=2.0, subdivisions=2)
    view = make_view(volume, random_poses(4, 9), sigma=1.0, ctf=contrast(4, 9), z=ARMS)
    together = search(volume, [view], config, z=ARMS)
    monkeypatch.setattr("cryoatlas.poses.branch_and_bound.WORKING_SET", Portion(at_once, 1))
    monkeypatch.setattr("cryoatlas.poses.view.POINTS_AT_ONCE", Portion(3000, 1))
    apart = search(volume, [view], config, z=ARMS)
    torch.testing.assert_close(apart.loss, together.loss, rtol=1e-4, atol=1e-3)
    assert torch.equal(apart.tried, together.tried)
    assert apart.evaluations == together.evaluations


@pytest.mark.parametrize("tilted", [False, True], ids=["single", "tilt pair"])
def test_noiseless_images_of_different_volumes_are_found(tilted):
    config = SearchConfig(band_start=5.0, shift_extent_px=2.0)
    volume, pose = swinging_body(), random_poses(4, 5, largest_shift=5.0)
    tilts = [None, about_x(math.radians(45)).float()] if tilted else [None]
    views = [make_view(volume, pose, ctf=contrast(4, 6), tilt=tilt, z=ARMS) for tilt in tilts]
    found = find_poses(volume, views, config, z=ARMS)
    assert math.degrees(float(geodesic_angle(found.pose.rotation, pose.rotation).max())) < 0.05
    # With one arm for all, the others' misfit stays.
    wrong = find_poses(volume, views, config, z=ARMS[0])
    assert float(wrong.loss[1:].min()) > 100 * float(found.loss.max())


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), angle=st.floats(0.01, 0.6), distance=st.floats(0.0, 6.0))
def test_no_prediction_changes_by_more_than_its_own_bound_says(seed, angle, distance):
    volume, pose = swinging_body(seed), random_poses(4, seed)
    view = make_view(volume, pose, ctf=contrast(4, seed), z=ARMS)
    axis = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    turned = about_axis(axis, torch.tensor(angle).double()) @ pose.rotation
    moved = pose.shift + distance * torch.tensor([0.8, -0.6])
    before, after = (
        view.transfer * phase_ramp(view.half.plane[None], shift.float()) * view.slices(volume, rotation, ARMS)
        for rotation, shift in ((pose.rotation, pose.shift), (turned, moved))
    )
    change = (after - before).abs().square().sum(1).sqrt()
    steepness = Steepness.of(volume, view.half, ARMS)
    assert bool((change <= 1.001 * steepness.change([view], BOX / 2, angle, distance)).all())
    # A narrower ball says the same inside its band.
    narrow = Steepness.of(volume, view.half, ARMS, 7.5)
    torch.testing.assert_close(narrow.change([view], 7.5, 0.1, 1.0), steepness.change([view], 7.5, 0.1, 1.0))


def test_the_search_tells_what_it_did():
    """Four images, a grid of 72 rotations × 1 shift, at most five poses going on to each of two more."""
    volume = CountingVolume()
    config = SearchConfig(
        base_level=0, subdivisions=2, band_start=4.0, shift_extent_px=2.0, shift_points=1, keep=5, refine=3
    )
    view = make_view(volume, random_poses(4, 8), sigma=2.0, z=ARMS)
    for z in (ARMS, ARMS[0]):
        volume.asked = 0
        found = find_poses(volume, [view], config, z=z)
        assert found.evaluations == volume.asked
        assert torch.equal(found.tried, torch.tensor([[72], [160], [160]]).expand(3, 4))
        assert torch.equal(found.cut[:2], (found.allowed[:2] - 5).clamp(min=0))
        assert int(found.cut[2].sum()) == 0
        effort = found.effort()
        assert effort.poses == 72 + 160 + 160
        assert effort.evaluations == volume.asked / 4
        assert effort.capped == 1
        assert effort.let_through == pytest.approx(float((found.allowed[:2] / found.tried[:2]).mean()))


class CountingVolume:
    """The swinging body, and how often it was asked."""

    def __init__(self):
        self.body, self.asked = swinging_body(), 0
        self.box_size, self.pixel_size, self.latent_size = BOX, PIXEL, 1

    def hartley_pair(self, freqs, z):
        self.asked += freqs.shape[1] * max(len(freqs), len(z))
        return self.body.hartley_pair(freqs, z)

    def hartley(self, freqs, z):
        return self.hartley_pair(freqs, z)[0]


def test_latents_of_another_number_of_images_are_refused():
    view = make_view(swinging_body(), random_poses(4, 1), z=ARMS)
    with pytest.raises(ValueError, match="z has 3 rows for 4 images"):
        search(swinging_body(), [view], SMALL, z=ARMS[:3])
