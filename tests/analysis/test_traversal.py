"""Paths that follow the data: round a ring, along a bend, across a gap."""

from itertools import permutations

import numpy as np
import pytest

from cryoatlas.analysis.latent import nearest_images
from cryoatlas.analysis.traversal import data_path, shortest_order

RNG = np.random.default_rng


def way_length(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_as_short_as_the_shortest_of_all(seed):
    points = RNG(seed).standard_normal((7, 2))
    shortest = min(way_length(points[list(order)]) for order in permutations(range(7)))
    order = shortest_order(points)
    assert sorted(order) == list(range(7))
    # 2-opt from every start is not proven best; on seven points it is within a few per cent.
    assert way_length(points[order]) < 1.05 * shortest


def test_points_on_a_ring_are_passed_one_after_the_other():
    angles = np.radians([0, 200, 80, 320, 120, 40, 240, 280, 160])
    order = shortest_order(np.stack([np.cos(angles), np.sin(angles)], 1))
    steps = np.abs(np.diff(np.degrees(angles[order])))
    np.testing.assert_allclose(np.minimum(steps, 360 - steps), 40)


def test_the_order_does_not_depend_on_the_direction_it_was_found_in():
    points = np.array([[0.0], [3.0], [1.0], [2.0]])
    assert shortest_order(points).tolist() == [0, 2, 3, 1]
    assert shortest_order(points[::-1]).tolist() == [2, 0, 1, 3]  # from the end that is named first


def ring(count: int, seed: int = 0) -> np.ndarray:
    angle = RNG(seed).uniform(0, 2 * np.pi, count)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return (circle + 0.05 * RNG(seed + 1).standard_normal((count, 2))).astype(np.float32)


def test_a_path_goes_round_a_ring_not_through_its_empty_middle():
    latents = ring(3000)
    stations = nearest_images(np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), latents)
    path = data_path(latents, stations, 25)
    assert path.shape == (25, 2)
    radius = np.linalg.norm(path, axis=1)
    assert radius.min() > 0.93  # scatter 0.05, averaged over 30 images; a chord would pass 0.71
    assert radius.max() < 1.05
    np.testing.assert_allclose(path[[0, -1]], latents[stations[[0, -1]]], atol=0.15)
    angle = np.unwrap(np.arctan2(path[:, 1], path[:, 0]))
    assert np.all(np.diff(angle) > 0)  # always forward
    assert angle[-1] - angle[0] == pytest.approx(1.5 * np.pi, abs=0.2)


def test_points_are_evenly_spaced_along_the_path():
    latents = ring(3000)
    stations = nearest_images(np.array([[1.0, 0], [-1, 0.0]]), latents)
    steps = np.linalg.norm(np.diff(data_path(latents, stations, 12), axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.2)  # scatter of means over 30 images: 0.01 of 0.29


def test_a_path_jumps_over_a_gap_that_no_image_fills():
    latents = np.concatenate(
        [RNG(seed).normal(place, 0.2, (400, 1)) for seed, place in ((0, 0.0), (1, 20.0))]
    )
    path = data_path(latents, np.array([0, 400]), 6)[:, 0]
    np.testing.assert_allclose(path[[0, -1]], [0, 20], atol=0.5)
    assert np.all(np.minimum(np.abs(path), np.abs(path - 20)) < 1)
