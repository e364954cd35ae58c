"""Grids of poses: how many, how evenly, and that children stay with their parents."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.geometry.grids import (
    ShiftGrid,
    cell_radius,
    grid_rotations,
    rotation_children,
    rotation_count,
    rotation_spacing,
)
from cryoatlas.geometry.rotations import geodesic_angle, random_rotations

RADIUS_DEG = {0: 56, 1: 27.5, 2: 13.0}
"""Measured covering radii of the Hopf grid with 20,000 probes (55.4°, 26.7°, 12.3°), with room for more."""


def whole_grid(level: int) -> torch.Tensor:
    return grid_rotations(level, torch.arange(rotation_count(level)))


def nearest_angle(probes: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Distance of each probe to the nearest rotation of a grid, through the trace: tr = 1 + 2 cos θ."""
    cosine = (probes.flatten(1) @ grid.flatten(1).T).amax(1)
    return torch.acos(((cosine - 1) / 2).clamp(-1, 1))


@pytest.mark.parametrize(("level", "count"), [(0, 72), (1, 576), (2, 4608), (6, 18_874_368)])
def test_the_grid_has_the_counts_of_the_hopf_fibration(level, count):
    assert rotation_count(level) == count
    assert grid_rotations(level, torch.tensor([count - 1])).shape == (1, 3, 3)
    with pytest.raises(ValueError, match="level"):
        grid_rotations(level, torch.tensor([count]))


def test_the_finest_level_of_the_paper_is_spaced_by_less_than_a_degree():
    assert math.degrees(rotation_spacing(6)) == pytest.approx(0.9375)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_rotation_lies_within_the_covering_radius(level):
    probes = random_rotations(4000, np.random.default_rng(1))
    reached = torch.rad2deg(nearest_angle(probes, whole_grid(level)))
    assert float(reached.max()) < RADIUS_DEG[level]
    # It covers no better than its spacing allows either: half of it is the least possible.
    assert float(reached.max()) > math.degrees(rotation_spacing(level)) / 2


@pytest.mark.parametrize("level", [0, 1, 2])
def test_rotations_are_spread_evenly(level):
    """Matrix entries average to 0 and their squares to ⅓, as over all of SO(3)."""
    grid = whole_grid(level)
    assert float(grid.mean(0).abs().max()) < 1e-12
    assert float((grid.square().mean(0) - 1 / 3).abs().max()) < (0.02 if level else 0.12)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_children_are_all_rotations_of_the_next_level_each_once(level):
    children = rotation_children(level, torch.arange(rotation_count(level)))
    assert children.shape == (rotation_count(level), 8)
    assert torch.equal(children.flatten().sort().values, torch.arange(rotation_count(level + 1)))


@pytest.mark.parametrize("level", [0, 1, 4])
def test_children_surround_their_parent(level):
    index = torch.arange(0, rotation_count(level), max(1, rotation_count(level) // 500))
    parents, children = (
        grid_rotations(level, index),
        grid_rotations(level + 1, rotation_children(level, index)),
    )
    angle = geodesic_angle(parents[:, None].expand_as(children), children)
    assert float(angle.max()) < cell_radius(level, 1)
    # Eight cells around the parent's own place: their mean rotation is nearly the parent's.
    mean = children.mean(1)
    u, _, vh = torch.linalg.svd(mean)
    assert float(geodesic_angle(u @ vh, parents).max()) < 0.25 * rotation_spacing(level)


@pytest.mark.parametrize("level", [1, 5])
def test_descendants_stay_inside_the_cell(level):
    index = torch.arange(0, rotation_count(level), rotation_count(level) // 300)
    kids = index[:, None]
    for generation in (1, 2, 3):
        kids = rotation_children(level + generation - 1, kids).flatten(1)
        rotations = grid_rotations(level + generation, kids)
        angle = geodesic_angle(grid_rotations(level, index)[:, None].expand_as(rotations), rotations)
        assert float(angle.max()) < cell_radius(level, generation)


def test_the_nearest_of_all_grandchildren_descends_from_a_near_parent():
    """What a search relies on: cells hold what is near them, so the way down never has to leave them far."""
    probes = random_rotations(300, np.random.default_rng(2))
    fine = whole_grid(2)
    best = (probes.flatten(1) @ fine.flatten(1).T).argmax(1)
    # Parent of (pixel, interval) at level 2 is (pixel // 4, interval // 2) at level 1.
    parent = best.div(24, rounding_mode="floor").div(4, rounding_mode="floor") * 12 + (best % 24) // 2
    angle = torch.rad2deg(geodesic_angle(grid_rotations(1, parent), probes))
    assert float(angle.max()) < 2 * 27.5


def test_turning_the_grid_keeps_its_distances():
    grid, turn = whole_grid(1), random_rotations(1, np.random.default_rng(3))[0]
    first, second = grid[:50], grid[50:100]
    before, after = geodesic_angle(first, second), geodesic_angle(first @ turn, second @ turn)
    torch.testing.assert_close(before, after, atol=1e-7, rtol=0)


def test_shift_squares_tile_the_extent():
    grid = ShiftGrid(extent=10.0, points=7)
    assert len(grid.base()) == 49
    assert grid.step(0) == pytest.approx(20 / 7)
    # 20 px in 7 steps, halved five times: the paper's 0.08 px.
    assert grid.step(5) == pytest.approx(0.0893, abs=1e-4)
    edges = grid.base().abs().max() + grid.step(0) / 2
    assert float(edges) == pytest.approx(10.0)


def test_subdivided_squares_are_again_a_regular_grid():
    grid = ShiftGrid(extent=3.0, points=3)
    fine = (grid.base()[:, None] + grid.offsets(1)).reshape(-1, 2)
    same = ShiftGrid(extent=3.0, points=6).base()
    order = lambda points: sorted(map(tuple, points.round(decimals=9).tolist()))  # noqa: E731
    assert order(fine) == order(same)


def test_shifts_stay_inside_their_square():
    grid = ShiftGrid(extent=3.0, points=3)
    fine = grid.offsets(2)[:, None] + grid.offsets(3)
    assert float(fine.norm(dim=-1).max()) == pytest.approx(grid.cell_radius(1, 2))


def test_a_grid_without_extent_is_the_origin_alone():
    centred = ShiftGrid(extent=0.0, points=1)
    assert centred.base().tolist() == [[0.0, 0.0]]
    assert centred.offsets(1).abs().max() == 0
