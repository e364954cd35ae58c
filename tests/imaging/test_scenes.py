"""The five scenes: their states, and how images are shared out among them."""

import numpy as np
import pytest

from cryoatlas.imaging.scenes import balanced_states, build_scene


def scene(name, states=None, angles=None):
    return build_scene(name, states, angles, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("homogeneous", (1, 0)),
        ("linear1d", (50, 1)),
        ("linear2d", (100, 2)),
        ("circular1d", (100, 1)),
        ("discrete10", (10, 2)),
    ],
)
def test_scenes_have_the_papers_numbers_of_states_and_bonds(name, shape):
    built = scene(name)
    assert built.angles_deg.shape == shape
    assert built.coordinate_names == ["angle_1_deg", "angle_2_deg"][: shape[1]]


def test_linear1d_runs_evenly_from_0_to_90_degrees():
    np.testing.assert_allclose(scene("linear1d", 4).angles_deg[:, 0], [0, 30, 60, 90])
    np.testing.assert_allclose(scene("linear1d", 3, (-20.0, 40.0)).angles_deg[:, 0], [-20, 10, 40])


def test_linear2d_turns_one_bond_after_the_other():
    expected = [[0, 0], [45, 0], [90, 0], [0, 0], [0, 45], [0, 90]]
    np.testing.assert_allclose(scene("linear2d", 6).angles_deg, expected)


def test_circular1d_goes_once_around_without_meeting_its_start():
    np.testing.assert_allclose(scene("circular1d", 4).angles_deg[:, 0], [0, 90, 180, 270])


def test_discrete10_draws_both_bonds_from_the_whole_circle_or_the_range_given():
    angles = scene("discrete10", 500).angles_deg
    assert angles.min() >= 0
    assert angles.max() <= 360
    # Uniform: mean 180 ± 104/√500 = 4.6; four standard errors.
    np.testing.assert_allclose(angles.mean(0), 180, atol=19)
    assert abs(np.corrcoef(angles.T)[0, 1]) < 0.2
    assert scene("discrete10", 500, (0.0, 90.0)).angles_deg.max() <= 90


@pytest.mark.parametrize(("images", "states"), [(1000, 50), (103, 10), (7, 3), (5, 50)])
def test_states_are_balanced_to_within_one_image_and_shuffled(images, states):
    state = balanced_states(images, states, np.random.default_rng(0))
    counts = np.bincount(state, minlength=states)
    assert counts.sum() == images
    assert counts.max() - counts.min() <= 1
    assert not np.array_equal(state, np.sort(state))
