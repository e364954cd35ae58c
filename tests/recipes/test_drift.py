"""What the end of a search does to poses: one frame for all states, and for both half sets."""

import json
import math

import roma
import torch
from tests.poses.moving_bodies import core_and_arm
from tests.poses.small_world import random_poses

from cryoatlas.geometry.rotations import about_axis, geodesic_angle
from cryoatlas.imaging.volume import GaussianBody, voxels
from cryoatlas.recipes.drift import turn_back
from cryoatlas.subspace.model import Subspace
from cryoatlas.training.pose_table import PoseTable

BOX, PIXEL, COUNT = 32, 4.0, 120
TURN = about_axis(torch.tensor([0.6, 0.0, 0.8]).double(), torch.tensor(math.radians(170)).double())


def test_images_of_turned_states_come_back_in_both_half_sets(tmp_path):
    """z = (∓1, 1) is an arm at two angles, (0, −1) the first of them turned by 170°, which a third of the
    images of each half are at. Of the others no image moves, and that third comes to where they are."""
    true = random_poses(COUNT, 3)
    turned = torch.arange(COUNT) % 6 < 2  # even and odd alike
    z = torch.ones(COUNT, 2)
    z[: COUNT // 2, 0], z[turned] = -1, torch.tensor([0.0, -1.0])
    bodies = [moved(-0.4, torch.eye(3).double()), moved(0.4, torch.eye(3).double()), moved(-0.4, TURN)]
    first, second, third = (voxels(body, like=torch.empty(0).double()) for body in bodies)
    # The volume is a sum of maps with weights (1, z_0, z_1); (−1, 1), (1, 1) and (0, −1) give the three.
    mean = (first + second + 2 * third) / 4
    half = Subspace(torch.stack([mean, (second - first) / 2, mean - third]).float(), PIXEL)
    weights = torch.cat([torch.ones(COUNT, 1), z], 1)
    seen = true.of_moved_body(TURN, torch.zeros(3).double())
    table = PoseTable.random(COUNT, 0)
    table.rotation[:] = torch.where(turned[:, None, None], seen.rotation, true.rotation)
    table.shift[:] = torch.where(turned[:, None], seen.shift, true.shift)
    members = [torch.arange(half, COUNT, 2) for half in range(2)]
    assert turn_back([half, half], weights, table, members, tmp_path, mirrors=False)
    torch.testing.assert_close(table.rotation[~turned], true.rotation[~turned], rtol=0, atol=0)
    left = torch.rad2deg(geodesic_angle(table.rotation, true.rotation))[turned]
    assert float(left.max()) < 15
    event = json.loads((tmp_path / "log.jsonl").read_text())
    assert event == {"event": "turns", "share": float(turned.double().mean())}
    # What is one frame now stays so.
    weights[turned] = torch.tensor([1.0, -1.0, 1.0])
    assert not turn_back([half, half], weights, table, members, tmp_path, mirrors=False)


def moved(angle: float, turn: torch.Tensor) -> GaussianBody:
    """The core, its arm at an angle in radians, all of it turned."""
    core, arm = core_and_arm()
    swing = roma.rotvec_to_rotmat(angle * torch.tensor([0.0, 0.0, 1.0]).double())
    centres = torch.cat([core, arm @ swing.T]) @ turn.T
    return GaussianBody(centres, torch.full((60,), 10.0).double(), 4.0, BOX, PIXEL)
