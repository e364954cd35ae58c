"""Voxel volumes: slices near the closed form, back-projection their adjoint and, solved, their inverse."""

import numpy as np
import pytest
import torch

from cryoatlas.fourier.correlation import fourier_shell_correlation, signal_to_noise
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.projection import central_slices, correlation, plane_frequencies, slice_frequencies
from cryoatlas.imaging.volume import GaussianBody, Volume, voxels
from cryoatlas.models.voxel import Backprojector, VoxelVolume

PIXEL_SIZE = 3.0
ONE = torch.ones(1, 1, dtype=torch.float64)


def body_of(box: int) -> GaussianBody:
    rng = np.random.default_rng(5)
    centres = torch.from_numpy(rng.uniform(-0.22, 0.22, (20, 3)) * box * PIXEL_SIZE)
    return GaussianBody(centres, torch.ones(20, dtype=torch.float64), 4.0, box, PIXEL_SIZE)


def plane_of(box: int) -> torch.Tensor:
    return plane_frequencies(Disc(box), torch.tensor([PIXEL_SIZE], dtype=torch.float64))


@pytest.mark.parametrize("box", [32, 33])
def test_slices_of_the_map_are_close_to_those_of_the_body(box):
    body = body_of(box)
    volume = VoxelVolume.from_map(voxels(body, like=body.weights), PIXEL_SIZE)
    rotation = random_rotations(20, np.random.default_rng(0))
    exact, sliced = (central_slices(v, plane_of(box), rotation) for v in (body, volume))
    # Linear interpolation at twofold padding errs by about 2 % for bodies that fill half the box.
    assert (sliced - exact).norm() < 0.03 * exact.norm()
    assert correlation(sliced, exact).min() > 0.999
    assert isinstance(volume, Volume)


@pytest.mark.parametrize("box", [16, 17])
def test_backprojection_is_the_adjoint_of_slicing(box):
    rng = np.random.default_rng(2)
    side = 2 * box + 1
    grid = torch.from_numpy(rng.standard_normal((side, side, side)))
    rotation = random_rotations(3, rng)
    image = torch.from_numpy(rng.standard_normal((3, len(Disc(box)))))
    projector = Backprojector(box, PIXEL_SIZE, like=image)
    projector.add(image, slice_frequencies(plane_of(box), rotation), ONE, ONE)
    sliced = central_slices(VoxelVolume(grid, box, PIXEL_SIZE), plane_of(box), rotation)
    torch.testing.assert_close((sliced * image).sum(), (grid * projector.sums[0]).sum())


@pytest.mark.parametrize("box", [24, 25])
def test_many_clean_projections_give_back_the_map(box):
    body = body_of(box)
    truth = voxels(body, like=body.weights)
    rotation = random_rotations(1500, np.random.default_rng(1))
    projector = Backprojector(box, PIXEL_SIZE, like=truth)
    slices = central_slices(body, plane_of(box), rotation)
    projector.add(slices, slice_frequencies(plane_of(box), rotation), ONE, ONE)
    found = projector.solve()
    # Trilinear insertion lets a hundredth of the power of strong shells alias into others: an error of
    # a tenth in all, and shells of a hundredth of the amplitude (the outermost) are lost in it.
    assert (found - truth).norm() < 0.1 * truth.norm()
    assert fourier_shell_correlation(found, truth)[: box // 2 - 3].min() > 0.99


def test_the_ctf_is_divided_out_and_its_zeros_are_filled_by_other_images():
    box, rng = 24, np.random.default_rng(4)
    body = body_of(box)
    truth = voxels(body, like=body.weights)
    rotation = random_rotations(1500, rng)
    k = plane_of(box)[0].norm(dim=-1)
    ctf = torch.sin(torch.from_numpy(rng.uniform(100, 300, (1500, 1))) * k**2 + 0.1)
    projector = Backprojector(box, PIXEL_SIZE, like=truth)
    images = ctf * central_slices(body, plane_of(box), rotation)
    projector.add(images, slice_frequencies(plane_of(box), rotation), ctf, ONE)
    # Near k = 0 all CTFs are small at once and the floor of the solve shows; beyond, the map is back.
    assert fourier_shell_correlation(projector.solve(), truth)[2 : box // 2 - 3].min() > 0.99


def test_two_halves_add_up_to_the_whole():
    box, rng = 16, np.random.default_rng(0)
    rotation = random_rotations(40, rng)
    image = torch.from_numpy(rng.standard_normal((40, len(Disc(box)))))
    whole, first, second = (Backprojector(box, PIXEL_SIZE, like=image) for _ in range(3))
    freqs = slice_frequencies(plane_of(box), rotation)
    whole.add(image, freqs, ONE, ONE)
    first.add(image[:15], freqs[:15], ONE, ONE)
    second.add(image[15:], freqs[15:], ONE, ONE)
    torch.testing.assert_close((first + second).solve(), whole.solve())


def test_shells_without_signal_are_filtered_out():
    box, rng = 24, np.random.default_rng(0)
    rotation = random_rotations(200, rng)
    noise = torch.from_numpy(rng.standard_normal((200, len(Disc(box)))))
    projector = Backprojector(box, PIXEL_SIZE, like=noise)
    projector.add(noise, slice_frequencies(plane_of(box), rotation), ONE, ONE)
    raw, filtered = projector.solve(), projector.solve(torch.zeros(box // 2 + 1))
    assert filtered.norm() < 0.01 * raw.norm()


def test_signal_to_noise_of_the_full_map_follows_from_the_half_maps():
    """With noise of variance v in each half and signal 1, c = 1/(1+v) and the full map has 2/v."""
    v = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(signal_to_noise(1 / (1 + v)), 2 / v)
    assert signal_to_noise(torch.tensor([-0.3]))[0] == 0
