"""Soft-edged discs and balls."""

import math

import pytest
import torch

from cryoatlas.fourier.mask import soft_ball

SIZES = pytest.mark.parametrize(("box", "dimensions"), [(32, 2), (31, 2), (20, 3), (21, 3)])


@SIZES
def test_one_inside_zero_beyond_the_edge_and_a_raised_cosine_between(box, dimensions):
    mask = soft_ball(box, dimensions, radius=4.0, edge=5.0)
    centre = (box // 2,) * (dimensions - 1)
    outwards = mask[centre][box // 2 :]
    assert outwards[:5].tolist() == [1] * 5
    expected = [0.5 + 0.5 * math.cos(math.pi * (r - 4) / 5) for r in range(4, 10)]
    assert outwards[4:10].tolist() == pytest.approx(expected)
    assert outwards[9:].tolist() == pytest.approx([0] * len(outwards[9:]))


@SIZES
def test_the_mask_is_the_same_in_all_directions_about_the_centre(box, dimensions):
    mask = soft_ball(box, dimensions, radius=3.0, edge=2.0)
    for axis in range(dimensions):
        mirrored = mask.flip(axis)
        if box % 2 == 0:
            mirrored = mirrored.roll(1, axis)
        assert torch.equal(mirrored, mask)
        assert torch.equal(mask.transpose(0, axis), mask)


def test_without_an_edge_the_mask_is_zero_or_one():
    mask = soft_ball(16, 3, radius=5.0, edge=0.0)
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    assert mask[8, 8, 13] == 1  # at the radius itself
    assert mask[8, 9, 13] == 0  # just beyond


def test_the_volume_of_a_ball_comes_out_right():
    # 4/3 π r³; a raised-cosine edge of width e adds half an edge to the radius, to first order in e/r.
    mask = soft_ball(64, 3, radius=24.0, edge=2.0)
    assert mask.sum().item() == pytest.approx(4 / 3 * math.pi * 25**3, rel=5e-3)
