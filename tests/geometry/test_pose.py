"""Poses: the sign of RELION's origins and the frame of its angles."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_x, from_relion_angles, random_rotations


def random_pose(count: int) -> Pose:
    rng = np.random.default_rng(1)
    return Pose(random_rotations(count, rng), torch.from_numpy(rng.normal(0, 10, (count, 2))))


def test_the_shift_is_minus_relions_origin():
    origin = torch.tensor([[3.5, -2.0]], dtype=torch.float64)
    pose = Pose.from_relion(torch.zeros(1, 3, dtype=torch.float64), origin)
    assert pose.shift.tolist() == [[-3.5, 2.0]]


def test_the_rotation_is_that_of_relions_angles():
    triplets = torch.tensor([[30.0, 60.0, -100.0]], dtype=torch.float64)
    pose = Pose.from_relion(triplets, torch.zeros(1, 2, dtype=torch.float64))
    assert torch.equal(pose.rotation, from_relion_angles(triplets))


def test_a_pose_survives_the_way_through_relions_columns():
    pose = random_pose(100)
    again = Pose.from_relion(*pose.to_relion())
    torch.testing.assert_close(again.rotation, pose.rotation, atol=1e-14, rtol=0.0)  # float64 rounding
    assert torch.equal(again.shift, pose.shift)


def test_indexing_and_moving_keep_rotation_and_shift_together():
    pose = random_pose(10)
    chosen = pose[torch.tensor([7, 2])].to(torch.float32)
    assert len(chosen) == 2
    assert chosen.rotation.dtype == chosen.shift.dtype == torch.float32
    assert torch.equal(chosen.rotation[0], pose.rotation[7].float())
    assert torch.equal(chosen.shift[0], pose.shift[7].float())
    assert len(pose[2:5]) == 3


def test_a_tilted_specimen_shows_each_point_where_the_tilt_takes_it():
    """y and z of the untilted image's frame turn about x; the shift comes after, and stays."""
    pose, angle = random_pose(5), 0.7
    views = pose.of_views(torch.stack([torch.eye(3, dtype=torch.float64), about_x(angle)]))
    assert len(views) == 10
    points = torch.from_numpy(np.random.default_rng(2).normal(size=(5, 3)))
    x, y, z = (pose.rotation @ points[..., None])[..., 0].T
    seen = (views.rotation @ points.repeat_interleave(2, 0)[..., None])[:, :2, 0] + views.shift
    torch.testing.assert_close(seen[::2], torch.stack([x, y], 1) + pose.shift)
    tilted = torch.stack([x, math.cos(angle) * y - math.sin(angle) * z], 1)
    torch.testing.assert_close(seen[1::2], tilted + pose.shift)
    assert torch.equal(views.shift[1::2], pose.shift)


def test_a_mirrored_body_explains_pairs_of_the_opposite_tilt():
    """Mirrored points in the poses M R M are seen alike in both images: the hand is that of the angle."""
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    pose, one = random_pose(5), torch.eye(3, dtype=torch.float64)
    views = pose.of_views(torch.stack([one, about_x(0.7)]))
    turned = Pose(mirror @ pose.rotation @ mirror, pose.shift).of_views(torch.stack([one, about_x(-0.7)]))
    torch.testing.assert_close((turned.rotation @ mirror)[:, :2], views.rotation[:, :2])


def test_single_images_have_their_particles_poses():
    pose = random_pose(3)
    assert pose.of_views(None) is pose


@pytest.mark.parametrize(("rotation_shape", "shift_shape"), [((4, 3, 2), (4, 2)), ((4, 3, 3), (4, 3))])
def test_wrong_shapes_are_refused(rotation_shape, shift_shape):
    # In the tests the shape checker speaks first; without it Pose itself does.
    with pytest.raises((ValueError, TypeCheckError)):
        Pose(torch.zeros(rotation_shape), torch.zeros(shift_shape))


def test_poses_of_a_moved_body_show_its_points_where_they_were():
    generator = np.random.default_rng(5)
    pose = Pose(random_rotations(6, generator), torch.from_numpy(generator.normal(size=(6, 2))))
    points = torch.from_numpy(generator.normal(size=(6, 3)))
    for motions in ((), (6,)):
        rotation = random_rotations(6, generator) if motions else random_rotations(1, generator)[0]
        offset = torch.from_numpy(generator.normal(size=(*motions, 3)))
        moved = pose.of_moved_body(rotation, offset)
        where = (rotation @ points[..., None])[..., 0] + offset
        seen = (moved.rotation @ where[..., None])[:, :2, 0] + moved.shift
        expected = (pose.rotation @ points[..., None])[:, :2, 0] + pose.shift
        torch.testing.assert_close(seen, expected)
