r"""Grids of rotations and shifts that subdivide exactly, for searching poses.

The rotations are the Hopf fibration's: a HEALPix point of the sphere, which is where the viewing
direction lies (rot and tilt of RELION), times an angle in the plane (psi). Level l has 12·4ˡ directions
and 6·2ˡ angles, 72·8ˡ rotations in all, about 60°/2ˡ apart. Every rotation has 8 children at the next
level: 4 HEALPix pixels in its own, and 2 halves of its interval of psi.

Near a pole of the sphere it is rot ± psi that tells rotations apart, and rot changes fast: psi alone
would set the children of a polar pixel up to 40° apart in the plane at any level. Intervals are
therefore counted from −rot in the pixels around the north pole and from +rot around the south pole.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from cryoatlas.geometry.rotations import from_relion_angles
from cryoatlas.shapes import Float, Int, Tensor

ROTATION_CHILDREN = 8
SHIFT_CHILDREN = 4
CHILD_DISTANCE = 0.73
"""No child is farther from its parent than this part of the parent's spacing; 0.72 measured, at level 5."""


def rotation_count(level: int) -> int:
    """Rotations of the grid at a level: 72, 576, 4,608, … 18,874,368 at level 6."""
    return 72 * 8**level


def rotation_spacing(level: int) -> float:
    """Nominal distance between neighbours, radians: 60°/2ˡ, that is 30° at level 1 and 0.94° at level 6."""
    return math.radians(60) / 2**level


def grid_rotations(level: int, index: Int[Tensor, "*some"]) -> Float[Tensor, "*some 3 3"]:
    """The rotations with these numbers, float64.

    Numbers run 0 … `rotation_count` − 1: HEALPix pixel (nested order) times 6·2ˡ plus the interval of psi.

    Raises:
        ValueError: a number lies outside the grid.
    """
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < rotation_count(level):
        raise ValueError(f"the grid at level {level} has rotations 0 … {rotation_count(level) - 1}")
    in_plane = 6 * 2**level
    pixel, interval = index.div(in_plane, rounding_mode="floor"), index % in_plane
    rot, tilt, start = _directions(level)[pixel.cpu()].to(index.device).unbind(-1)
    psi = start + (interval.double() + 0.5) * (360 / in_plane)
    angles = torch.stack([rot, tilt, psi], -1)
    return from_relion_angles(angles.reshape(-1, 3)).reshape(*index.shape, 3, 3)


def rotation_children(level: int, index: Int[Tensor, "*some"]) -> Int[Tensor, "*some 8"]:
    """Numbers at level + 1 of the rotations that subdivide these."""
    in_plane = 6 * 2**level
    pixel, interval = index.div(in_plane, rounding_mode="floor"), index % in_plane
    four = torch.arange(4, device=index.device)
    two = torch.arange(2, device=index.device)
    pixels = (4 * pixel[..., None] + four)[..., :, None]
    intervals = (2 * interval[..., None] + two)[..., None, :]
    return (2 * in_plane * pixels + intervals).flatten(-2)


def cell_radius(level: int, generations: int) -> float:
    """No descendant in so many generations is farther from its ancestor at `level`, radians."""
    return math.fsum(CHILD_DISTANCE * rotation_spacing(level + later) for later in range(generations))


@dataclass(frozen=True)
class ShiftGrid:
    """Squares that tile [−extent, extent]² and subdivide into four."""

    extent: float
    """Half the side of the covered square; any unit."""
    points: int = 7
    """Squares along each axis at the base; 1 with extent 0 for centred particles."""

    def __post_init__(self) -> None:
        if self.extent < 0 or self.points < 1:
            raise ValueError(f"a shift grid needs extent ≥ 0 and points ≥ 1: {self.extent}, {self.points}")

    def base(self) -> Float[Tensor, "shift 2"]:
        """Centres of the squares, float64, in the order (−,−), (+,−), …: x runs fastest."""
        axis = self.step(0) * (torch.arange(self.points, dtype=torch.float64) - (self.points - 1) / 2)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return torch.stack([x, y], -1).flatten(0, 1)

    def step(self, subdivision: int) -> float:
        """Side of the squares after so many subdivisions."""
        return 2 * self.extent / self.points / 2**subdivision

    def cell_radius(self, subdivision: int, generations: int) -> float:
        """No descendant in so many generations is farther from its ancestor of a subdivision."""
        return (self.step(subdivision) - self.step(subdivision + generations)) / math.sqrt(2)

    def offsets(self, subdivision: int) -> Float[Tensor, "4 2"]:
        """From the centre of a square of the subdivision before to those of its four parts."""
        quarter = self.step(subdivision) / 2
        signs = torch.tensor([[-1, -1], [1, -1], [-1, 1], [1, 1]], dtype=torch.float64)
        return quarter * signs


@lru_cache(maxsize=4)
def _directions(level: int) -> Float[Tensor, "pixel 3"]:
    """rot and tilt of every HEALPix pixel's centre, and the psi that its intervals start from; degrees."""
    import healpix
    import numpy as np

    side = 2**level
    pixels = np.arange(12 * side**2)
    tilt, rot = healpix.pix2ang(side, pixels, nest=True)
    # The 12 largest pixels: four around the north pole, four on the equator, four around the south pole.
    start = rot * np.array([-1, 0, 1])[pixels // (4 * side**2)]
    return torch.rad2deg(torch.from_numpy(np.stack([rot, tilt, start], -1)))
