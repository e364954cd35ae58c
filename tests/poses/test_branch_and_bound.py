"""The search finds what trying everything finds, and its bounds are bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.poses.small_world import BOX, DISC, PIXEL, body, contrast, make_view, random_poses

from cryoatlas.geometry.grids import grid_rotations, rotation_count, rotation_spacing
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_axis, about_x, geodesic_angle
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.shift import phase_ramp
from cryoatlas.portions import Portion
from cryoatlas.poses.bound import Steepness
from cryoatlas.poses.branch_and_bound import Candidates, misfit, search
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.find import find_poses
from cryoatlas.poses.view import View, as_real

SMALL = SearchConfig(
    base_level=0, subdivisions=2, band_start=4.0, shift_extent_px=2.0, shift_points=1, keep=0, refine=0
)


@pytest.fixture(scope="module")
def volume():
    return body()


def brute_force(
    volume, views: list[View], config: SearchConfig, turn: torch.Tensor, z: torch.Tensor | None = None
) -> torch.Tensor:
    """Least misfit of each image over every pose of the last grid, written out pose by pose."""
    level = config.base_level + config.subdivisions
    rotations = grid_rotations(level, torch.arange(rotation_count(level))) @ turn
    steps = config.shift_points * 2**config.subdivisions
    side = 2 * config.shift_extent_px * PIXEL / steps
    axis = side * (torch.arange(steps) - (steps - 1) / 2)
    shifts = torch.cartesian_prod(axis, axis)
    lowest = torch.full((len(views[0]),), torch.inf)
    slices = [view.slices(volume, rotations, z) for view in views]
    for shift in shifts:
        total = torch.zeros(len(views[0]), len(rotations))
        for view, own in zip(views, slices, strict=True):
            moved = view.moved_back(shift.expand(len(view), 2))
            norm = view.transfer.square() @ own.abs().square().T
            total += 0.5 * view.power()[:, None] + 0.5 * norm - as_real(moved) @ as_real(own).T
        lowest = torch.minimum(lowest, total.amin(1))
    return lowest


def test_the_misfit_is_half_the_squared_distance_on_the_disc(volume):
    pose, other = random_poses(5, 1), random_poses(5, 2)
    ctf = contrast(5, 3)
    view = make_view(volume, pose, sigma=0.7, ctf=ctf)
    plane = plane_frequencies(DISC, torch.full((1,), PIXEL))
    images = predict(volume, plane, pose.to(torch.float32), ctf)
    generator = torch.Generator().manual_seed(0)
    images = images + 0.7 * torch.randn(images.shape, generator=generator)
    difference = images - predict(volume, plane, other.to(torch.float32), ctf)
    difference[:, len(DISC) // 2] = 0  # no pose changes k = 0
    expected = 0.5 * difference.square().sum(1) / 0.7**2
    torch.testing.assert_close(misfit(volume, [view], other), expected, rtol=1e-4, atol=1e-2)


def test_the_misfit_inside_a_band_grows_with_the_band(volume):
    """Why it is a lower bound: whatever frequencies are added, no term is negative."""
    view = make_view(volume, random_poses(6, 1), sigma=1.0, ctf=contrast(6, 1))
    pose = random_poses(6, 2)
    by_band = torch.stack([misfit(volume, [view], pose, band=band) for band in (3.0, 5.0, 8.0, 12.0)])
    assert bool((by_band.diff(dim=0) >= 0).all())
    torch.testing.assert_close(by_band[-1], misfit(volume, [view], pose), rtol=1e-5, atol=0)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), sigma=st.sampled_from([0.0, 0.3, 2.0]), with_ctf=st.booleans())
def test_without_a_cap_nothing_on_the_finest_grid_is_better(seed, sigma, with_ctf):
    volume = body(seed)
    pose = random_poses(3, seed, largest_shift=5.0)
    view = make_view(volume, pose, sigma=sigma, ctf=contrast(3, seed) if with_ctf else None, seed=seed)
    turn = random_poses(1, seed + 1).rotation[0]
    found = search(volume, [view], SMALL, turn=turn)
    best = brute_force(volume, [view], SMALL, turn)
    torch.testing.assert_close(found.loss, best, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tilted", [False, True], ids=["single", "tilt pair"])
def test_noiseless_images_are_found_within_the_grid(volume, tilted):
    """From 576 rotations × 7² shifts, five times subdivided, as in the paper."""
    config = SearchConfig(band_start=5.0, shift_extent_px=3.0, refine=0)
    pose = random_poses(8, 5, largest_shift=7.0)
    tilts = [None, about_x(math.radians(45)).float()] if tilted else [None]
    views = [make_view(volume, pose, ctf=contrast(8, 6), tilt=tilt) for tilt in tilts]
    found = search(volume, views, config)
    angle = geodesic_angle(found.pose.rotation, pose.rotation)
    assert float(angle.max()) < 1.5 * rotation_spacing(6)
    # The last step of the shift grid is 6/7/32 px; its worst corner is 0.02 px away.
    assert float((found.pose.shift - pose.shift).norm(dim=1).max()) < 0.1 * PIXEL


def test_a_tilt_pair_tells_the_hand_that_one_image_cannot(volume):
    """A mirrored volume explains single images as well as the true one, pairs it does not."""
    mirrored = body()
    mirrored = type(mirrored)(
        mirrored.centres * torch.tensor([1.0, 1.0, -1.0]), mirrored.weights, mirrored.sigma, BOX, PIXEL
    )
    config = SearchConfig(band_start=5.0, shift_extent_px=2.0)
    pose = random_poses(6, 5, largest_shift=5.0)
    untilted = make_view(volume, pose)
    tilted = make_view(volume, pose, tilt=about_x(math.radians(45)).float())
    power = untilted.power().mean()
    alone, pair = [untilted], [untilted, tilted]
    assert float(find_poses(mirrored, alone, config).loss.mean() / power) < 1e-4
    assert float(find_poses(mirrored, pair, config).loss.mean() / power) > 0.05
    assert float(find_poses(volume, pair, config).loss.mean() / power) < 1e-4


def test_the_printed_bound_prunes_noiseless_images_and_hardly_noisy_ones(volume):
    pose = random_poses(6, 7)
    config = SearchConfig(band_start=5.0, shift_extent_px=3.0, slack=0.0)
    shares = []
    for sigma in (0.0, 3.0):
        found = search(volume, [make_view(volume, pose, sigma=sigma)], config)
        shares.append(float((found.allowed[1:] / found.tried[1:]).mean()))
    assert shares[0] < 0.1
    assert shares[1] > 0.5


def test_the_printed_bound_can_throw_the_best_pose_away(volume):
    """Why there is `slack`: the centre of the cell that holds the pose may fit worse than a rival's."""
    view = make_view(volume, random_poses(8, 5, largest_shift=7.0), ctf=contrast(8, 6))
    printed, safe = (
        search(volume, [view], SearchConfig(band_start=5.0, shift_extent_px=3.0, slack=slack))
        for slack in (0.0, 1.0)
    )
    assert float((printed.loss - safe.loss).max() / view.power().mean()) > 1e-3


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), angle=st.floats(0.01, 0.6), distance=st.floats(0.0, 6.0))
def test_no_prediction_changes_by_more_than_the_bound_says(seed, angle, distance):
    volume, pose = body(seed), random_poses(4, seed)
    view = make_view(volume, pose, ctf=contrast(4, seed))
    generator = torch.Generator().manual_seed(seed)
    axes = torch.nn.functional.normalize(torch.randn(4, 3, generator=generator, dtype=torch.float64), dim=1)
    turned = torch.stack([about_axis(axis, torch.tensor(angle).double()) for axis in axes]) @ pose.rotation
    direction = torch.nn.functional.normalize(torch.randn(4, 2, generator=generator), dim=1)
    moved = pose.shift + distance * direction
    before, after = (
        view.transfer * phase_ramp(view.half.plane[None], shift.float()) * view.slices(volume, rotation)
        for rotation, shift in ((pose.rotation, pose.shift), (turned, moved))
    )
    change = (after - before).abs().square().sum(1).sqrt()
    most = Steepness.of(volume, view.half).change([view], BOX / 2, angle, distance)
    assert bool((change <= 1.001 * most).all())


def test_the_cap_limits_what_goes_on(volume):
    sizes: list[int] = []

    def watch(images: slice, candidates: Candidates, turn: torch.Tensor) -> None:
        sizes.append(candidates.alive.sum(1).max().item())

    view = make_view(volume, random_poses(4, 8), sigma=2.0)
    search(volume, [view], SearchConfig(keep=5, shift_extent_px=2.0), watch=watch)
    assert sizes == [5] * 5


def test_results_do_not_depend_on_how_images_are_grouped(volume, monkeypatch):
    view = make_view(volume, random_poses(7, 9), sigma=1.0, ctf=contrast(7, 9))
    config = SearchConfig(keep=6, shift_extent_px=2.0, subdivisions=3)
    together = search(volume, [view], config)
    monkeypatch.setattr("cryoatlas.poses.branch_and_bound.WORKING_SET", Portion(1, 1))
    alone = search(volume, [view], config)
    torch.testing.assert_close(alone.loss, together.loss, rtol=1e-4, atol=1e-3)
    assert torch.equal(alone.tried, together.tried)


def test_views_of_different_length_are_refused(volume):
    first, second = make_view(volume, random_poses(2, 1)), make_view(volume, random_poses(3, 1))
    with pytest.raises(ValueError, match="view"):
        search(volume, [first, second], SMALL)


def test_a_true_pose_on_the_grid_has_no_misfit(volume):
    rotation = grid_rotations(2, torch.tensor([17, 2000]))
    pose = Pose(rotation, torch.zeros(2, 2, dtype=torch.float64))
    view = make_view(volume, pose)
    config = SearchConfig(base_level=0, subdivisions=2, band_start=4.0, shift_extent_px=0.0, refine=0)
    found = search(volume, [view], config)
    assert float((found.loss / view.power()).max()) < 1e-5
    assert float(geodesic_angle(found.pose.rotation, rotation).max()) < 1e-6
