"""Turning a map by 90° moves its voxels to other voxels: what turns maps keeps their scale and place."""

import numpy as np
import pytest
import torch

from cryoatlas.analysis.alignment import Alignment, align_volume
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.projection import central_slices, plane_frequencies
from cryoatlas.models.voxel import VoxelVolume

PIXEL_SIZE = 2.0
TURN = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
"""By 90° about z: a point (x, y, z) moves to (−y, x, z)."""


def smooth_map(box: int) -> np.ndarray:
    """Blobs as far out as the box allows, none where another is turned to; z, y, x."""
    rng = np.random.default_rng(1)
    z, y, x = np.indices((box,) * 3) - box // 2
    density = np.zeros((box,) * 3)
    for cx, cy, cz in rng.uniform(-0.3, 0.3, (6, 3)) * box:
        density += np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * 1.5**2))
    return density


def turned(density: np.ndarray) -> np.ndarray:
    """The value at (x, y, z) goes to (−y, x, z), about the middle of an odd box."""
    return density.transpose(0, 2, 1)[:, :, ::-1]


@pytest.mark.parametrize("box", [17, 21])
def test_an_aligned_map_is_the_map_with_its_voxels_permuted(box):
    density = smooth_map(box)
    aligned = align_volume(density, Alignment(TURN, torch.zeros(3, dtype=torch.float64), False), PIXEL_SIZE)
    np.testing.assert_allclose(aligned, turned(density), atol=1e-5)  # the non-uniform FFT's 1e-7 of a sum


@pytest.mark.parametrize("box", [17, 21])
def test_slices_of_the_turned_map_are_slices_at_the_turned_pose(box):
    """x_image = R x: the map turned by Q shows at R what the map shows at R Q, to the last digit."""
    first, second = (
        VoxelVolume.from_map(torch.from_numpy(density.copy()), PIXEL_SIZE)
        for density in (smooth_map(box), turned(smooth_map(box)))
    )
    plane = plane_frequencies(Disc(box), torch.tensor([PIXEL_SIZE], dtype=torch.float64))
    rotation = random_rotations(5, np.random.default_rng(2))
    expected = central_slices(first, plane, rotation @ TURN)
    torch.testing.assert_close(central_slices(second, plane, rotation), expected, rtol=0, atol=1e-9)
