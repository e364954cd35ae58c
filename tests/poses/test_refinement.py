"""Steps beyond the grid reach the pose that the images have, and never make one worse."""

import math

import pytest
import roma
import torch
from tests.poses.small_world import PIXEL, body, contrast, make_view, random_poses, swinging_body

from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_axis, about_x, geodesic_angle
from cryoatlas.poses.branch_and_bound import misfit, search
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.find import find_poses
from cryoatlas.poses.refinement import drawn_poses, pose_covariance, refine, spread_of


@pytest.fixture(scope="module")
def volume():
    return body()


def near(pose: Pose, angle_deg: float, distance: float, seed: int = 3) -> Pose:
    """Every pose turned and shifted by this much in its own direction."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(len(pose), 3, generator=generator, dtype=torch.float64)
    angle = torch.tensor(math.radians(angle_deg)).double()
    turns = torch.stack([about_axis(axis, angle) for axis in axes])
    direction = torch.nn.functional.normalize(
        torch.randn(len(pose), 2, generator=generator, dtype=torch.float64), dim=1
    )
    return Pose(turns @ pose.rotation, pose.shift + distance * direction)


@pytest.mark.parametrize("with_ctf", [False, True])
@pytest.mark.parametrize("tilted", [False, True], ids=["single", "tilt pair"])
def test_from_nearby_it_reaches_the_true_pose(volume, with_ctf, tilted):
    pose = random_poses(10, 1)
    ctf = contrast(10, 1) if with_ctf else None
    tilts = [None, about_x(math.radians(45)).float()] if tilted else [None]
    views = [make_view(volume, pose, ctf=ctf, tilt=tilt) for tilt in tilts]
    refined, loss = refine(volume, views, near(pose, 3.0, 1.0), 8)
    # What is left is the rounding of float32 slices: 10⁻⁴ of the images' amplitude.
    assert math.degrees(float(geodesic_angle(refined.rotation, pose.rotation).max())) < 0.02
    assert float((refined.shift - pose.shift).norm(dim=1).max()) < 2e-3 * PIXEL
    torch.testing.assert_close(loss, misfit(volume, views, refined), rtol=1e-4, atol=1e-4)


def test_no_step_makes_a_pose_worse(volume):
    pose = random_poses(12, 4)
    view = make_view(volume, pose, sigma=3.0, ctf=contrast(12, 4))
    start = random_poses(12, 5)
    losses = [misfit(volume, [view], start)]
    for steps in (1, 2, 4):
        losses.append(refine(volume, [view], start, steps)[1])
    assert bool((torch.stack(losses).diff(dim=0) <= 1e-3).all())


def test_a_step_is_that_of_newton_on_the_misfit(volume):
    """At the optimum of noisy images the misfit's gradient, by finite differences, is nothing."""
    pose = random_poses(5, 6)
    view = make_view(volume, pose, sigma=0.05)
    refined, _ = refine(volume, [view], pose, 10)
    lowest = misfit(volume, [view], refined)
    for shift in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])):
        step = 0.05 * shift.double()
        ahead = misfit(volume, [view], Pose(refined.rotation, refined.shift + step))
        behind = misfit(volume, [view], Pose(refined.rotation, refined.shift - step))
        # Either way is uphill, by as much: the slope is small beside the curvature.
        assert bool(((ahead - behind).abs() < 0.1 * (ahead + behind - 2 * lowest)).all())


def test_the_search_ends_on_the_grid_or_beyond_it(volume):
    pose = random_poses(6, 7)
    view = make_view(volume, pose)
    on_grid = SearchConfig(band_start=5.0, shift_extent_px=3.0, refine=0)
    beyond = SearchConfig(band_start=5.0, shift_extent_px=3.0, refine=6)
    coarse, fine = (find_poses(volume, [view], config) for config in (on_grid, beyond))
    torch.testing.assert_close(coarse.loss, search(volume, [view], on_grid).loss)
    errors = [geodesic_angle(found.pose.rotation, pose.rotation).median() for found in (coarse, fine)]
    assert float(errors[1]) < 0.05 * float(errors[0])


def test_images_with_volumes_of_their_own_reach_their_true_poses():
    volume, pose = swinging_body(), random_poses(6, 1)
    z = torch.linspace(-0.7, 0.7, 6)[:, None]
    view = make_view(volume, pose, ctf=contrast(6, 1), z=z)
    refined, loss = refine(volume, [view], near(pose, 3.0, 1.0), 8, z=z)
    assert math.degrees(float(geodesic_angle(refined.rotation, pose.rotation).max())) < 0.02
    torch.testing.assert_close(loss, misfit(volume, [view], refined, z), rtol=1e-4, atol=1e-4)
    # The same images against one volume for all keep most of their misfit.
    _, shared = refine(volume, [view], pose, 8, z=z[0])
    assert float(shared[1:].min()) > 100 * float(loss.max())


def test_images_are_refined_each_as_if_alone():
    volume, pose = swinging_body(), random_poses(4, 4)
    z = torch.linspace(-0.7, 0.7, 4)[:, None]
    view = make_view(volume, pose, sigma=1.0, z=z)
    together, _ = refine(volume, [view], near(pose, 5.0, 1.0), 3, z=z)
    for i in range(4):
        start = near(pose, 5.0, 1.0)
        alone, _ = refine(volume, [view[i : i + 1]], start[i : i + 1], 3, z=z[i])
        torch.testing.assert_close(together.rotation[i], alone.rotation[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("tilted", [False, True], ids=["single", "tilt pair"])
def test_the_spread_of_a_pose_is_how_far_noise_moves_it(volume, tilted):
    """Over 200 images the mean of the squared errors, each in units of its spread, is 3 and 2.

    Spreads are about a degree: where they are ten the misfit is no parabola any more, and it is 3.8 and 2.4.
    """
    count = 200
    pose = random_poses(count, 8)
    tilts = [None, about_x(math.radians(45)).float()] if tilted else [None]
    views = [
        make_view(volume, pose, sigma=0.03, ctf=contrast(count, 8), tilt=tilt, seed=number)
        for number, tilt in enumerate(tilts)
    ]
    refined, _ = refine(volume, views, pose, 8)
    rotation, shift = spread_of(pose_covariance(volume, views, refined)).T
    turned = geodesic_angle(refined.rotation, pose.rotation) / rotation
    moved = (refined.shift - pose.shift).norm(dim=1) / shift
    # Of 200 sums of three and two squares: ± 0.17 and ± 0.14 if axes are equally well known, more else.
    assert float(turned.square().mean()) == pytest.approx(3, abs=0.6)
    assert float(moved.square().mean()) == pytest.approx(2, abs=0.5)


def test_a_map_that_says_nothing_leaves_every_turn_open(volume):
    pose = random_poses(3, 2)
    views = [make_view(volume, pose, sigma=1e6)]
    rotation, shift = spread_of(pose_covariance(volume, views, pose)).T
    torch.testing.assert_close(rotation, torch.full((3,), math.pi, dtype=torch.float64), rtol=1e-3, atol=0)
    torch.testing.assert_close(shift, torch.full_like(shift, volume.box_size * PIXEL), rtol=1e-3, atol=0)


def test_drawn_poses_have_the_covariance_asked_for_and_come_in_opposite_pairs():
    pose = random_poses(1, 5)
    scale = torch.tensor([0.02, 0.03, 0.01, 0.5, 0.2], dtype=torch.float64)
    mixed = torch.eye(5, dtype=torch.float64) + 0.4
    covariance = (mixed @ mixed.T) * torch.outer(scale, scale)
    drawn = list(drawn_poses(pose, covariance[None], 4000, torch.Generator().manual_seed(1)))
    turns = torch.cat([roma.rotmat_to_rotvec(each.rotation @ pose.rotation.mT) for each in drawn])
    steps = torch.cat([turns, torch.cat([each.shift - pose.shift for each in drawn])], 1)
    torch.testing.assert_close(steps[::2], -steps[1::2])
    found = steps.T @ steps / len(steps)
    assert float((found - covariance).norm() / covariance.norm()) < 0.05
