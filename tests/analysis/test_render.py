"""Pictures of isosurfaces: size, place, hand, light, and the level that is chosen when none is given."""

import numpy as np
import pytest
import torch

from cryoatlas.analysis.render import Camera, Surface, automatic_level
from cryoatlas.fourier.lattice import frequency_grid


def balls(box: int, *centres_and_radii: tuple[tuple[float, float, float], float]) -> np.ndarray:
    """Soft balls: density 1/2 on each sphere, falling smoothly over about three voxels."""
    grid = frequency_grid(box, 3)
    density = torch.zeros(box, box, box, dtype=torch.float64)
    for centre, radius in centres_and_radii:
        distance = torch.linalg.vector_norm(grid - torch.tensor(centre, dtype=torch.float64), dim=-1)
        density = torch.maximum(density, torch.sigmoid((radius - distance) / 0.8))
    return density.numpy().astype(np.float32)


def straight(radius: float) -> Camera:
    """Looking down the map's own z axis."""
    return Camera(np.eye(3), np.zeros(3), radius)


def weight_centre(image: np.ndarray) -> tuple[float, float]:
    """Where the picture is covered, on average: right and up, −1 … 1."""
    cover = image[..., 3].astype(float)
    axis = (np.arange(len(cover)) + 0.5) / len(cover) * 2 - 1
    return float((cover.sum(0) @ axis) / cover.sum()), float(-(cover.sum(1) @ axis) / cover.sum())


@pytest.mark.parametrize("box", [24, 31, 64, 128])
def test_a_ball_covers_the_area_of_its_great_circle_in_the_middle(box):
    radius = box / 5
    image = Surface(balls(box, ((0, 0, 0), radius))).render(0.5, straight(box / 3), size=120)
    assert image.shape == (120, 120, 4)
    assert image.dtype == np.uint8
    area = image[..., 3].sum() / 255 * (2 * box / 3 / 120) ** 2
    # 240 supersampled pixels across: the silhouette is good to a quarter pixel of 36 in radius, 1.5 %.
    assert area == pytest.approx(np.pi * radius**2, rel=0.015)
    assert weight_centre(image) == pytest.approx((0, 0), abs=0.01)


@pytest.mark.parametrize("box", [40, 41])
def test_x_points_right_y_up_and_what_lies_in_front_turns_to_the_right(box):
    """With the viewer at +z this is a right-handed frame: the picture shows the map's own hand."""
    for centre, direction in (((9, 0, 0), (1, 0)), ((0, 9, 0), (0, 1)), ((0, 0, 9), (0, 0))):
        surface = Surface(balls(box, (centre, 4)))
        assert weight_centre(surface.render(0.5, straight(18.0), size=60)) == pytest.approx(
            (direction[0] / 2, direction[1] / 2), abs=0.02
        )
    assert weight_centre(surface.render(0.5, straight(18.0).turned(90.0), size=60)) == pytest.approx(
        (0.5, 0), abs=0.02
    )


def test_the_front_hides_the_back():
    """A small ball in front of a large one is seen as a disc of other light; behind, it is not seen."""
    large, small = ((0, 0, -3), 8.0), ((0, 0, 8), 2.5)
    alone = Surface(balls(40, large)).render(0.5, straight(15.0), size=80).astype(int)
    both = Surface(balls(40, large, small))
    assert np.abs(both.render(0.5, straight(15.0), size=80).astype(int) - alone).max() > 30
    from_behind = both.render(0.5, straight(15.0).turned(180.0), size=80).astype(int)
    large_behind = Surface(balls(40, large)).render(0.5, straight(15.0).turned(180.0), size=80).astype(int)
    np.testing.assert_array_equal(from_behind[..., 3], large_behind[..., 3])
    assert np.abs(from_behind - large_behind).max() < 12  # the depth cue and the lattice shift nothing more


def test_light_comes_from_the_upper_left_and_crevices_are_dark():
    image = Surface(balls(40, ((0, 0, 0), 10.0))).render(0.5, straight(14.0), size=80).astype(int)
    row, column = np.unravel_index(np.where(image[..., 3] == 255, image[..., 1], 0).argmax(), (80, 80))
    assert row < 38
    assert column < 38
    pair = Surface(balls(40, ((-7, 0, 0), 7.5), ((7, 0, 0), 7.5)))
    middle_row = pair.render(0.5, straight(16.0), size=200).astype(int)[100]
    assert middle_row[100, 1] < 0.75 * middle_row[55, 1]


def test_a_level_above_the_map_leaves_the_picture_empty():
    assert not Surface(balls(24, ((0, 0, 0), 5))).render(2.0, straight(10.0), size=30).any()


def test_the_camera_shows_the_long_axis_upright_and_all_of_the_body():
    rod = balls(48, *[((0.9 * t, 0.3 * t, 0.1 * t), 3.0) for t in range(-14, 15)])
    image = Surface(rod).render(0.5, Camera.around([rod], 0.5), size=100)
    rows, columns = np.nonzero(image[..., 3])
    assert np.ptp(rows) > 2.5 * np.ptp(columns)
    assert 0 < rows.min() < 12
    assert 88 < rows.max() < 99


def test_the_camera_keeps_the_hand():
    camera = Camera.around([balls(32, ((5, 1, 2), 5), ((-6, 3, 0), 3), ((0, -6, 4), 4))], 0.5)
    for view in (camera, camera.turned(50.0)):
        np.testing.assert_allclose(view.rotation @ view.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(view.rotation) == pytest.approx(1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_camera_looks_across_the_motion(axis):
    """A small ball on a large one moves along x, y or z: it must be seen to move, not to come nearer."""
    volumes = []
    for place in (-5.0, 0.0, 5.0):
        centre = [9.0, 9.0, 9.0]
        centre[axis] = place
        volumes.append(balls(40, ((0, 0, 0), 7), (tuple(centre), 3)))
    towards = Camera.around(volumes, 0.5).rotation[2]
    assert abs(towards[axis]) < 0.6


def test_the_automatic_level_follows_scale_and_offset_and_lies_between_noise_and_body():
    noise = 0.05 * np.random.default_rng(0).standard_normal((48, 48, 48))
    density = balls(48, ((0, 0, 0), 9)) + noise
    level = automatic_level(density)
    assert 0.2 < level < 0.95  # above 4 σ of the noise, inside the soft edge of a body of density 1
    assert automatic_level(3 * density + 7) == pytest.approx(3 * level + 7, abs=1e-6)


def test_the_automatic_level_encloses_four_fifths_of_the_body():
    density = balls(48, ((0, 0, 0), 9))
    body = density[density > 0.02 * density.max()].astype(float)
    level = automatic_level(density)
    assert body[body >= level].sum() / body.sum() == pytest.approx(0.8, abs=0.01)


def test_a_flat_map_has_a_level_and_an_empty_picture():
    flat = np.zeros((16, 16, 16), dtype=np.float32)
    level = automatic_level(flat)
    assert not Surface(flat).render(level, Camera.around([flat], level), size=20).any()
