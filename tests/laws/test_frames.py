"""Where a point of the volume is seen in the image: the frames and signs of C2, C3 and C4 in one place.

Each test puts one blob into a volume, makes its image by the forward model, and looks in real space
where the blob has gone.
"""

import numpy as np
import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.transform import inverse_hartley
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.volume import GaussianBody

BOX, PIXEL_SIZE = 32, 2.0


def position_seen(point: torch.Tensor, pose: Pose) -> torch.Tensor:
    """Centre of mass x, y, in Å from the image centre, of the image of a blob at `point` (x, y, z, Å)."""
    # σ of 1.5 px: the blob has vanished both at the disc's edge and at the borders of the image.
    body = GaussianBody(point[None].double(), torch.ones(1).double(), 1.5 * PIXEL_SIZE, BOX, PIXEL_SIZE)
    disc = Disc(BOX)
    plane = plane_frequencies(disc, torch.tensor([PIXEL_SIZE]).double())
    image = inverse_hartley(disc.scatter(predict(body, plane, pose)))[0]
    axis = PIXEL_SIZE * (torch.arange(BOX, dtype=torch.float64) - BOX // 2)
    return torch.stack([(image * axis).sum(), (image * axis[:, None]).sum()]) / image.sum()


def pose_of(angles_deg: tuple[float, float, float], origin: tuple[float, float] = (0, 0)) -> Pose:
    """The pose with RELION's angles and origin."""
    return Pose.from_relion(torch.tensor([angles_deg]).double(), torch.tensor([origin]).double())


@pytest.mark.parametrize(
    ("angles_deg", "point", "seen"),
    [
        ((0, 0, 0), (6, 2, 9), (6, 2)),
        # Seen after rot = 90°, the body's y axis lies along the image's x, its x axis along −y.
        ((90, 0, 0), (6, 2, 9), (2, -6)),
        # After tilt = 90° we look along the body's x axis; its z axis lies along the image's −x.
        ((0, 90, 0), (6, 2, 9), (-9, 2)),
        # After tilt = 90° and psi = 90°: R = R_z(−90°) R_y(−90°).
        ((0, 90, 90), (6, 2, 9), (2, 9)),
    ],
)
def test_relions_angles_show_a_point_where_they_should(angles_deg, point, seen):
    found = position_seen(torch.tensor(point), pose_of(angles_deg))
    # The image is cut off at Nyquist, where the blob's transform has fallen to 1e-5.
    torch.testing.assert_close(found, torch.tensor(seen).double(), atol=1e-3, rtol=0.0)


def test_the_image_of_x_is_the_first_two_coordinates_of_r_x_plus_t():
    rng = np.random.default_rng(0)
    for rotation in random_rotations(5, rng):
        point, shift = torch.from_numpy(rng.uniform(-10, 10, 3)), torch.from_numpy(rng.uniform(-6, 6, 2))
        found = position_seen(point, Pose(rotation[None], shift[None]))
        torch.testing.assert_close(found, (rotation @ point)[:2] + shift, atol=1e-3, rtol=0.0)


def test_relions_origin_is_what_would_centre_the_particle():
    """A particle that sits 3 Å to the right and 5 Å up the rows has rlnOriginXAngst −3, Y −5."""
    found = position_seen(torch.zeros(3), pose_of((20, 30, 40), origin=(-3, -5)))
    torch.testing.assert_close(found, torch.tensor([3.0, 5.0]).double(), atol=1e-3, rtol=0.0)
