"""Pose errors with known answers, under both hands and with drifting states."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.analysis.alignment import Alignment
from cryoatlas.analysis.pose_error import PoseErrors, compare_poses
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_axis, random_rotations

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
PIXEL_SIZE = 2.0


def true_poses(count: int, seed: int = 0) -> Pose:
    generator = np.random.default_rng(seed)
    return Pose(random_rotations(count, generator), torch.from_numpy(generator.uniform(-9, 9, (count, 2))))


def turned(pose: Pose, angle_deg: float, seed: int = 1) -> Pose:
    """Each pose turned by exactly `angle_deg` about its own random axis."""
    axes = torch.from_numpy(np.random.default_rng(seed).standard_normal((len(pose), 3)))
    angle = torch.tensor(math.radians(angle_deg), dtype=torch.float64)
    return Pose(torch.stack([about_axis(axis, angle) for axis in axes]) @ pose.rotation, pose.shift)


def in_another_frame(pose: Pose, mirrored: bool, seed: int = 2) -> Pose:
    """The same poses told for a map that is turned, moved and perhaps mirrored."""
    frame = random_rotations(1, np.random.default_rng(seed))[0]
    moved = Alignment(frame, torch.tensor([4.0, 1.0, -3.0], dtype=torch.float64), mirrored=False).apply(pose)
    return Pose(MIRROR @ moved.rotation @ MIRROR, moved.shift) if mirrored else moved


def test_true_poses_have_no_error():
    errors = compare_poses(true_poses(20), true_poses(20), PIXEL_SIZE).run
    assert max(vars(errors).values()) < 1e-6  # rounding: 1e-8 rad is 6e-7°


def test_errors_of_known_size_in_every_unit():
    """A turn by θ is 4 − 4 cos θ; a shift by (3, 4) Å is 5 Å, 2.5 px of 2 Å."""
    true = true_poses(30)
    estimated = Pose(turned(true, 1.9).rotation, true.shift + torch.tensor([3.0, 4.0], dtype=torch.float64))
    errors = PoseErrors.between(estimated, true, PIXEL_SIZE)
    expected = 4 - 4 * math.cos(math.radians(1.9))
    assert errors.median_squared_frobenius == pytest.approx(expected)
    assert errors.mean_squared_frobenius == pytest.approx(expected)
    assert errors.median_rotation_deg == pytest.approx(1.9)
    assert errors.mean_rotation_deg == pytest.approx(1.9)
    assert (errors.median_shift, errors.mean_shift) == pytest.approx((5, 5))
    assert (errors.median_shift_px, errors.mean_shift_px) == pytest.approx((2.5, 2.5))


@pytest.mark.parametrize("mirrored", [False, True])
def test_noise_of_1_9_degrees_is_found_behind_a_frame_and_a_hand(mirrored):
    true = true_poses(800)
    estimated = in_another_frame(turned(true, 1.9), mirrored)
    result = compare_poses(estimated, true, PIXEL_SIZE)
    assert result.alignment.mirrored == mirrored
    # The frame itself is found to about 1.9° / √800 = 0.07°.
    assert result.run.median_rotation_deg == pytest.approx(1.9, abs=0.1)
    assert result.run.median_squared_frobenius == pytest.approx(0.0022, abs=0.0003)


def drifting(true: Pose, states: torch.Tensor, hands: tuple[bool, ...]) -> Pose:
    """Each state in a frame of its own."""
    rotation, shift = true.rotation.clone(), true.shift.clone()
    for state, mirrored in enumerate(hands):
        members = (states == state).nonzero().squeeze(-1)
        own = in_another_frame(true[members], mirrored, seed=10 + state)
        rotation[members], shift[members] = own.rotation, own.shift
    return Pose(rotation, shift)


def test_drift_from_state_to_state_counts_for_the_run_and_not_per_state():
    true, states = true_poses(90), torch.arange(90) // 30
    result = compare_poses(drifting(true, states, (False,) * 3), true, PIXEL_SIZE, states)
    assert result.run.mean_rotation_deg > 20
    assert result.states is not None
    assert result.states.mean_rotation_deg < 1e-5
    assert result.states.mean_shift < 1e-5
    assert sorted(result.state_alignments) == [0, 1, 2]
    assert result.opposite_hand == 0


def test_mixed_hands_are_counted():
    true, states = true_poses(90), torch.arange(90) // 30
    result = compare_poses(drifting(true, states, (False, False, True)), true, PIXEL_SIZE, states)
    assert result.opposite_hand in (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_a_small_state_keeps_the_alignment_of_the_run():
    true, states = true_poses(45), torch.tensor([0] * 40 + [1] * 5)
    result = compare_poses(drifting(true, states, (False, True)), true, PIXEL_SIZE, states)
    assert result.state_alignments[1] is result.alignment
    assert result.state_alignments[0] is not result.alignment
