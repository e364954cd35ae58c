"""Projections and maps by non-uniform FFT against closed forms, odd and even boxes."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import VOLUME_AXES, fourier, inverse_fourier
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_x, random_rotations
from cryoatlas.imaging.exact import TOLERANCE, project, sum_directly, voxel_map
from cryoatlas.imaging.volume import GaussianBody

PIXEL_SIZE = 2.5
NO_SHIFT = torch.zeros(1, 2, dtype=torch.float64)


def random_body(box: int, atoms: int = 40, seed: int = 0) -> GaussianBody:
    """Atoms within 0.3 of the box from its centre, σ of 0.6 px."""
    generator = np.random.default_rng(seed)
    centres = torch.from_numpy(generator.uniform(-0.17, 0.17, (atoms, 3)) * box * PIXEL_SIZE)
    weights = torch.from_numpy(generator.uniform(5, 30, atoms))
    return GaussianBody(centres, weights, 0.6 * PIXEL_SIZE, box, PIXEL_SIZE)


def random_poses(count: int, seed: int = 1) -> Pose:
    generator = np.random.default_rng(seed)
    return Pose(random_rotations(count, generator), torch.from_numpy(generator.uniform(-9, 9, (count, 2))))


def paired(box: int, dimensions: int) -> torch.Tensor:
    """Frequencies whose opposite is in the grid too."""
    return (2 * frequency_grid(box, dimensions).abs() < box).all(-1)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("atoms", [40, 3000])
def test_projections_are_the_closed_form_to_the_stated_tolerance(box, atoms):
    body, pose = random_body(box, atoms), random_poses(3)
    plane = frequency_grid(box, 2).flatten(0, 1) / (box * PIXEL_SIZE)
    closed = body.fourier(plane @ pose.rotation[:, :2])
    closed = closed * torch.exp(-2j * math.pi * (plane @ pose.shift[:, :, None]).squeeze(-1))
    closed = closed.unflatten(-1, (box, box)) * paired(box, 2)
    assert relative_error(project(body, pose), closed) < TOLERANCE


@pytest.mark.parametrize("box", [24, 25])
def test_sums_over_atoms_are_the_projections(box):
    body, pose = random_body(box), random_poses(3)
    summed = sum_directly(body.centres.expand(3, -1, -1), body.weights, pose, body.sigma, box, PIXEL_SIZE)
    assert relative_error(summed, project(body, pose)) < TOLERANCE


@pytest.mark.parametrize("box", [16, 17])
def test_maps_are_the_closed_form_to_the_stated_tolerance(box):
    body = random_body(box)
    grid = frequency_grid(box, 3).flatten(0, 2) / (box * PIXEL_SIZE)
    closed = body.fourier(grid[None]).reshape(box, box, box) * paired(box, 3)
    assert relative_error(fourier(voxel_map(body), VOLUME_AXES), closed) < TOLERANCE


@pytest.mark.parametrize("box", [16, 17])
def test_a_projection_is_the_sum_of_the_map_along_z(box):
    body = random_body(box)
    image = inverse_fourier(project(body, Pose(torch.eye(3, dtype=torch.float64)[None], NO_SHIFT))[0])
    # Both carry the transform's tolerance.
    assert relative_error(image.real, voxel_map(body).sum(0)) < 2 * TOLERANCE


@pytest.mark.parametrize("box", [16, 17])
def test_the_transform_of_an_image_is_the_central_slice_of_the_map(box):
    body = random_body(box)
    # A quarter turn about x lays the image's y axis along the volume's −z or +z: a slice on the grid.
    pose = Pose(about_x(math.pi / 2)[None], NO_SHIFT)
    plane = frequency_grid(box, 2)
    kx, ky, kz = (plane @ pose.rotation[0, :2]).round().long().unbind(-1)
    half = box // 2
    keep = paired(box, 2)
    spectrum = fourier(voxel_map(body), VOLUME_AXES)
    central = torch.zeros(box, box, dtype=spectrum.dtype)
    central[keep] = spectrum[(kz + half)[keep], (ky + half)[keep], (kx + half)[keep]]
    assert relative_error(project(body, pose)[0], central) < 2 * TOLERANCE


def test_images_and_maps_are_real():
    body = random_body(16)
    image = inverse_fourier(project(body, random_poses(1)))
    assert image.imag.abs().max() < 1e-12 * image.real.abs().max()
    spectrum = fourier(voxel_map(body), VOLUME_AXES)
    assert spectrum[~paired(16, 3)].abs().max() < 1e-12 * spectrum.abs().max()


def test_turning_the_body_is_turning_the_pose():
    body, pose = random_body(24), random_poses(4)
    turn = random_rotations(1, np.random.default_rng(5))[0]
    turned = GaussianBody(body.centres @ turn.T, body.weights, body.sigma, body.box_size, body.pixel_size)
    composed = Pose(pose.rotation @ turn, pose.shift)
    assert relative_error(project(turned, pose), project(body, composed)) < 2 * TOLERANCE


def test_a_shift_by_whole_pixels_rolls_the_image_towards_plus_x_and_y():
    body, rotation = random_body(24), random_rotations(1, np.random.default_rng(6))
    still = inverse_fourier(project(body, Pose(rotation, NO_SHIFT))).real
    moved = Pose(rotation, PIXEL_SIZE * torch.tensor([[2.0, -3.0]], dtype=torch.float64))
    rolled = inverse_fourier(project(body, moved)).real
    assert relative_error(rolled, still.roll((-3, 2), dims=(-2, -1))) < 2 * TOLERANCE


def test_a_mirrored_body_gives_other_images():
    body = random_body(24)
    mirror = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    mirrored = GaussianBody(body.centres * mirror, body.weights, body.sigma, 24, PIXEL_SIZE)
    along_z = Pose(torch.eye(3, dtype=torch.float64)[None], NO_SHIFT)
    assert relative_error(project(mirrored, along_z), project(body, along_z)) < 2 * TOLERANCE
    assert relative_error(project(mirrored, random_poses(1)), project(body, random_poses(1))) > 0.1
