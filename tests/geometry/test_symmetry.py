"""Point groups: groups indeed, about RELION's axes, and one rotation in each orbit to look at."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError
from cryoatlas.geometry.grids import grid_rotations, rotation_count
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.geometry.symmetry import asymmetric_unit, point_group

ORDERS = {"C1": 1, "C4": 4, "C7": 7, "D2": 4, "D3": 6, "D7": 14, "T": 12, "O": 24, "I1": 60, "I2": 60}


def is_in(group: torch.Tensor, rotation: torch.Tensor) -> bool:
    return bool((group - rotation).abs().amax((1, 2)).min() < 1e-9)


def about(axis: tuple[float, float, float], fold: int) -> torch.Tensor:
    import roma

    unit = torch.nn.functional.normalize(torch.tensor(axis).double(), dim=0)
    return roma.rotvec_to_rotmat(2 * math.pi / fold * unit)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_the_elements_are_a_group_of_rotations(name, order):
    group = point_group(name)
    assert len(group) == order
    torch.testing.assert_close(group[0], torch.eye(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order).double())
    products = (group[:, None] @ group[None]).flatten(0, 1)
    assert all(is_in(group, product) for product in products)
    apart = torch.cdist(group.flatten(1), group.flatten(1)) + 9 * torch.eye(order)
    assert float(apart.min()) > 0.1 or order == 1


PHI = (1 + math.sqrt(5)) / 2


@pytest.mark.parametrize(
    ("name", "axis", "fold"),
    [
        ("C4", (0, 0, 1), 4),
        ("D3", (0, 0, 1), 3),
        ("D3", (1, 0, 0), 2),
        ("T", (0, 0, 1), 3),
        ("T", (0, 0.816496, 0.577350), 2),
        ("O", (0, 0, 1), 4),
        ("O", (1, 1, 1), 3),
        ("I1", (PHI, 0, -1), 5),
        ("I1", (0.934172, 0.356822, 0), 3),
        ("I1", (1, 0, 0), 2),
        ("I2", (1, 0, PHI), 5),
        ("I2", (0, 0.356822, 0.934172), 3),
        ("I2", (0, 0, 1), 2),
        ("I", (1, 0, PHI), 5),
    ],
)
def test_axes_are_those_of_relion(name, axis, fold):
    """As RELION's documentation of its symmetry files lists them; axes to the six digits given there."""
    group = point_group(name)
    assert float((group - about(axis, fold)).abs().amax((1, 2)).min()) < 1e-5


@pytest.mark.parametrize("name", ["C1", "C4", "D3", "T", "O", "I1"])
def test_one_rotation_of_each_orbit_is_looked_at(name):
    group, rotation = point_group(name), random_rotations(200, np.random.default_rng(0))
    orbits = rotation[:, None] @ group
    kept = asymmetric_unit(orbits.flatten(0, 1), group).unflatten(0, orbits.shape[:2])
    assert (kept.sum(1) == 1).all()


def test_a_grid_shrinks_by_the_order_of_the_group():
    grid = (
        grid_rotations(2, torch.arange(rotation_count(2))) @ random_rotations(1, np.random.default_rng(1))[0]
    )
    kept = asymmetric_unit(grid, point_group("O")).double().mean()
    assert float(kept) == pytest.approx(1 / 24, rel=0.05)


@pytest.mark.parametrize("name", ["", "C0", "X4", "D", "I3", "C-2", "4"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ConfigError, match="no point group"):
        point_group(name)


def test_names_are_read_in_either_case():
    torch.testing.assert_close(point_group(" d2 "), point_group("D2"))
