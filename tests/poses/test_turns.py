"""States shown turned or mirrored as a whole: which they are is found, and no image changes."""

import math

import pytest
import roma
import torch
from tests.poses.moving_bodies import core_and_arm
from tests.poses.small_world import random_poses

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.volume import GaussianBody, voxels
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.poses.registration import Motion
from cryoatlas.poses.turns import find_turns, turned_back

BOX, PIXEL, STATES = 32, 4.0, 5
SHARE = torch.full((STATES,), 1 / STATES, dtype=torch.float64)
STILL = Motion.none(STATES, torch.device("cpu"))
STEP_DEG = 90 / (STATES - 1)
"""Of the arm from state to state: two maps do not tell whether it moved or the rest."""
LATENTS = torch.linspace(-1, 1, STATES, dtype=torch.float64)[:, None]


def shown(motion: Motion) -> list[VoxelVolume]:
    """The bodies' maps, which are cut sooner."""
    return [VoxelVolume.from_map(voxels(each, like=SHARE), PIXEL) for each in bodies_of(motion)]


def bodies_of(motion: Motion) -> list[GaussianBody]:
    """An arm that swings through 90° from state to state, each state after a motion of its own."""
    core, arm = core_and_arm()
    bodies = []
    for z, rotation, offset in zip(LATENTS[:, 0], motion.rotation, motion.offset, strict=True):
        swing = roma.rotvec_to_rotmat(math.radians(45) * z * torch.tensor([0.0, 0.0, 1.0]).double())
        centres = torch.cat([core, arm @ swing.T]) @ rotation.T + offset
        bodies.append(GaussianBody(centres, torch.full((60,), 10.0).double(), 4.0, BOX, PIXEL))
    return bodies


def far_motion(states: list[int], *, mirrored: bool) -> Motion:
    """Those states turned by 100° to 180° about axes of their own and moved by 4 Å, and mirrored or not."""
    motion = Motion.none(STATES, torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    for state in states:
        axis = torch.nn.functional.normalize(torch.randn(3, generator=generator).double(), dim=0)
        turn = roma.rotvec_to_rotmat(math.radians(100 + 80 * state / STATES) * axis)
        motion.rotation[state] = -turn if mirrored else turn
        motion.offset[state] = 4 * axis
    return motion


def left_over_deg(motion: Motion, found: Motion) -> torch.Tensor:
    """What is left of each state's motion, degrees; 180 if a mirror is."""
    total = found.rotation @ motion.rotation
    angle = torch.rad2deg(roma.rotmat_geodesic_distance(total, torch.eye(3).expand_as(total).double()))
    return torch.where(torch.linalg.det(total) > 0, angle, torch.full_like(angle, 180.0))


@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_states_are_turned_back(mirrored):
    """States 1 and 3 stand alone; the three others are most images."""
    motion = far_motion([1, 3], mirrored=mirrored)
    found = find_turns(shown(motion), SHARE, mirrors=mirrored)
    assert float(left_over_deg(motion, found).max()) < STEP_DEG
    still = [state for state in range(STATES) if state not in (1, 3)]
    torch.testing.assert_close(found.rotation[still], motion.rotation[still], rtol=0, atol=0)
    torch.testing.assert_close(found.offset[still], motion.offset[still], rtol=0, atol=0)
    assert float(motion.then(found).offset[[1, 3]].norm(dim=1).max()) < 4  # Å, of 4 that were put in


def test_the_frame_is_that_of_most_images():
    """Two states of nine tenths of the images are turned alike: the others come to them."""
    motion = far_motion([1, 2], mirrored=False)
    motion.rotation[2], motion.offset[2] = motion.rotation[1], motion.offset[1]
    share = torch.full((STATES,), 0.02, dtype=torch.float64)
    share[1:3] = 0.45
    found = find_turns(shown(motion), share, mirrors=False)
    torch.testing.assert_close(found.rotation[1:3], torch.eye(3).double().expand(2, 3, 3), rtol=0, atol=0)
    frames = found.rotation @ motion.rotation
    apart = roma.rotmat_geodesic_distance(frames, frames[1].expand_as(frames))
    assert math.degrees(float(apart.max())) < STEP_DEG


def test_nothing_is_turned_where_only_an_arm_swings():
    found = find_turns(shown(STILL), SHARE, mirrors=True)
    torch.testing.assert_close(found.rotation, torch.eye(3).double().expand(STATES, 3, 3), rtol=0, atol=0)
    assert not found.offset.any()


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_moved_states_show_the_same_images_at_the_new_poses(mirrored):
    """To rounding of float64, mirrors too; the poses stay rotations."""
    motion, pose = far_motion([0, 2, 3], mirrored=mirrored), random_poses(STATES, 1)
    new, moved = turned_back(pose, LATENTS, LATENTS, motion)
    assert moved.tolist() == [True, False, True, True, False]
    torch.testing.assert_close(torch.linalg.det(new.rotation), torch.ones(STATES).double())
    plane = plane_frequencies(Disc(BOX), torch.full((1,), PIXEL, dtype=torch.float64))

    def images(motion: Motion, at: Pose) -> torch.Tensor:
        each = [predict(body, plane, at[torch.tensor([n])]) for n, body in enumerate(bodies_of(motion))]
        return torch.cat(each)

    before, after = images(STILL, pose), images(motion, new)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10 * float(before.abs().max()))
    assert float((images(motion, pose) - before).norm() / before.norm()) > 0.1
