"""Rotations: the frame and signs of RELION's angles, distances that keep their digits, fair draws."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.geometry.rotations import (
    about_axis,
    about_x,
    from_relion_angles,
    geodesic_angle,
    random_rotations,
    squared_frobenius,
    to_relion_angles,
)

# Products of a few cosines in float64: a handful of units in the last place.
EXACT = {"atol": 1e-14, "rtol": 0.0}
IDENTITY = torch.eye(3, dtype=torch.float64)


def angles(*triplets: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(triplets, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rot_tilt_psi", "matrix"),
    [
        # rot 90: the body's y axis comes to lie along the image's x, its x axis along −y.
        ((90, 0, 0), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        # psi does the same where there is no tilt.
        ((0, 0, 90), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        # tilt 90: we look along the body's x axis; its z axis lies along the image's −x.
        ((0, 90, 0), [[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
        # tilt 90 after rot 90: we look along the body's y axis.
        ((90, 90, 0), [[0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
        ((0, 90, 90), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        ((0, 180, 0), [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]),
    ],
)
def test_matrices_of_right_angles_written_by_hand(rot_tilt_psi, matrix):
    rotation = from_relion_angles(angles(rot_tilt_psi))[0]
    torch.testing.assert_close(rotation, torch.tensor(matrix, dtype=torch.float64), **EXACT)


def test_rotations_are_the_transpose_of_scipys_intrinsic_zyz_angles():
    rng = np.random.default_rng(1)
    triplets = rng.uniform((-180, 0, -180), (180, 180, 180), (200, 3))
    expected = Rotation.from_euler("ZYZ", triplets, degrees=True).as_matrix().transpose(0, 2, 1)
    torch.testing.assert_close(
        from_relion_angles(torch.from_numpy(triplets)), torch.from_numpy(expected), **EXACT
    )


def test_rot_and_tilt_say_where_the_viewing_direction_lies_on_the_body():
    rot, tilt = math.radians(25), math.radians(70)
    rotation = from_relion_angles(angles((25, 70, -130)))[0]
    viewed_along = rotation.T @ torch.tensor([0, 0, 1], dtype=torch.float64)
    expected = [math.sin(tilt) * math.cos(rot), math.sin(tilt) * math.sin(rot), math.cos(tilt)]
    torch.testing.assert_close(viewed_along, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_angles_survive_the_way_through_a_matrix():
    rng = np.random.default_rng(2)
    triplets = torch.from_numpy(rng.uniform((-180, 0.5, -180), (180, 179.5, 180), (500, 3)))
    # An angle is the arctangent of entries as small as sin(0.5°): 1e-16 / 0.009 rad, some 1e-12 degrees.
    torch.testing.assert_close(to_relion_angles(from_relion_angles(triplets)), triplets, atol=1e-11, rtol=0.0)


@pytest.mark.parametrize("tilt", [0.0, 1e-14, 1e-10, 1e-5, 179.99999, 180.0])
def test_the_matrix_survives_the_way_through_angles_at_and_near_the_poles(tilt):
    rng = np.random.default_rng(3)
    triplets = torch.from_numpy(rng.uniform(-180, 180, (50, 3)))
    triplets[:, 1] = tilt
    rotation = from_relion_angles(triplets)
    # Where sin(tilt) drops below 16 eps = 3.6e-15 it is taken for zero, which moves an entry by as much.
    torch.testing.assert_close(from_relion_angles(to_relion_angles(rotation)), rotation, atol=1e-14, rtol=0.0)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_at_the_poles_psi_is_zero(tilt):
    found = to_relion_angles(from_relion_angles(angles((40, tilt, 25))))[0]
    expected = (65.0, 0.0, 0.0) if tilt == 0 else (15.0, 180.0, 0.0)
    # sin(180°) is 1.2e-16 in float64, so tilt comes back to that, in degrees.
    torch.testing.assert_close(found, angles(expected)[0], atol=1e-13, rtol=0.0)


def test_single_precision_rotations_survive_too():
    rotation = random_rotations(200, np.random.default_rng(4)).float()
    # Four or five operations at 6e-8 each.
    torch.testing.assert_close(from_relion_angles(to_relion_angles(rotation)), rotation, atol=1e-6, rtol=0.0)


def test_rotation_about_x_is_right_handed():
    y, z = IDENTITY[1:]
    torch.testing.assert_close(about_x(math.pi / 2) @ y, z, **EXACT)


def test_rotation_about_an_axis_agrees_with_scipy_and_ignores_the_axis_length():
    axis = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    turns = torch.linspace(-3, 3, 7, dtype=torch.float64)
    unit = (axis / axis.norm()).numpy()
    expected = Rotation.from_rotvec(turns.numpy()[:, None] * unit).as_matrix()
    torch.testing.assert_close(about_axis(10 * axis, turns), torch.from_numpy(expected), **EXACT)


def test_turns_about_one_axis_add_up():
    axis = torch.tensor([0.3, 0.4, -1.2], dtype=torch.float64)
    a, b = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.9, dtype=torch.float64)
    torch.testing.assert_close(about_axis(axis, a) @ about_axis(axis, b), about_axis(axis, a + b), **EXACT)


def test_random_rotations_are_rotations():
    rotation = random_rotations(100, np.random.default_rng(5))
    assert rotation.dtype == torch.float64
    torch.testing.assert_close(rotation @ rotation.mT, IDENTITY.expand(100, 3, 3), **EXACT)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(100, dtype=torch.float64), **EXACT)


def test_random_rotations_have_the_moments_of_the_uniform_distribution():
    """E R_ij = 0 and E R_ij R_kl = δ_ik δ_jl / 3."""
    count = 20_000
    entries = random_rotations(count, np.random.default_rng(6)).flatten(1)
    # An entry has variance 1/3 and a product of two entries at most 1/5 (E R_ij⁴): five standard errors.
    torch.testing.assert_close(
        entries.mean(0), torch.zeros(9, dtype=torch.float64), atol=5 / math.sqrt(3 * count), rtol=0.0
    )
    second = entries.T @ entries / count
    torch.testing.assert_close(second, torch.eye(9).double() / 3, atol=5 / math.sqrt(5 * count), rtol=0.0)


def test_angles_between_random_rotations_follow_their_known_distribution():
    """The angle of a uniform rotation has the distribution function (θ − sin θ) / π."""
    count = 10_000
    rotation = random_rotations(count, np.random.default_rng(7))
    angle = geodesic_angle(rotation, IDENTITY.expand(count, 3, 3)).sort().values
    steps = torch.arange(1, count + 1, dtype=torch.float64) / count
    distance = (steps - (angle - angle.sin()) / math.pi).abs().max()
    # Kolmogorov's 0.1 % point; the draw is fixed by its seed.
    assert distance < 1.95 / math.sqrt(count)


def test_the_same_seed_draws_the_same_rotations():
    first, second = (random_rotations(5, np.random.default_rng(8)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("angle", [1e-8, 1e-5, 1e-2, 1.0, 2.0])
def test_geodesic_angle_keeps_its_digits_at_small_angles(angle):
    base = random_rotations(20, np.random.default_rng(9))
    axis = torch.tensor([0.2, -0.7, 0.4], dtype=torch.float64)
    turned = base @ about_axis(axis, torch.tensor(angle, dtype=torch.float64))
    # Entries are off by 1e-16 or so, hence the angle by about as much: a relative 1e-8 at 1e-8 rad,
    # where the arccosine of the trace would give 0 or 2e-8.
    expected = torch.full((20,), angle, dtype=torch.float64)
    torch.testing.assert_close(geodesic_angle(base, turned), expected, atol=2e-15, rtol=0.0)


def test_geodesic_angle_of_opposite_rotations_is_pi():
    # The arcsine is flat there: errors of 1e-16 in the chord become 1e-8 in the angle.
    assert geodesic_angle(IDENTITY, about_x(math.pi)).item() == pytest.approx(math.pi, abs=1e-7)


def test_geodesic_angle_is_the_same_seen_from_either_side():
    first, second, third = random_rotations(3, np.random.default_rng(10))
    expected = geodesic_angle(first, second)
    torch.testing.assert_close(geodesic_angle(second, first), expected, **EXACT)
    torch.testing.assert_close(geodesic_angle(third @ first, third @ second), expected, **EXACT)
    torch.testing.assert_close(geodesic_angle(first @ third, second @ third), expected, **EXACT)


def test_squared_frobenius_is_four_minus_four_cosines():
    first, second = random_rotations(400, np.random.default_rng(11)).chunk(2)
    expected = 4 - 4 * geodesic_angle(first, second).cos()
    torch.testing.assert_close(squared_frobenius(first, second), expected, atol=1e-13, rtol=0.0)


def test_one_degree_is_six_ten_thousandths_of_squared_frobenius():
    """The number that translates Table 1 of the paper into degrees."""
    error = squared_frobenius(IDENTITY, about_x(math.radians(1)))
    assert error.item() == pytest.approx(6.092e-4, rel=1e-3)
