"""Normalisation, window and transform of images are what the module says they are."""

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError, ImageDataError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.transform import hartley
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.preprocess import Preprocessor

from .small_project import BOX, noise_images, write_stack

NO_WINDOW = PreprocessConfig(window=False)


def test_the_set_has_mean_zero_and_variance_one_whatever_the_units(project, tmp_path):
    path = project()
    write_stack(tmp_path / "stack.mrcs", 40 * noise_images() + 1000)
    particles = read_particles(path)
    preprocessor = Preprocessor.fit(particles, NO_WINDOW)
    pixels = preprocessor.normalize(particles.images(range(6)))
    # Pixels of 1000 ± 40 in float32 keep about five digits of their deviation.
    assert abs(float(pixels.mean())) < 1e-4
    assert float(pixels.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_one_scale_serves_all_images(project, tmp_path):
    path = project()
    pixels = noise_images()
    pixels[2] *= 10
    write_stack(tmp_path / "stack.mrcs", pixels)
    particles = read_particles(path)
    normalized = Preprocessor.fit(particles, NO_WINDOW).normalize(particles.images([1, 2]))
    ratio = normalized[1].std() / normalized[0].std()
    assert float(ratio) == pytest.approx(float(pixels[2].std() / pixels[1].std()), rel=1e-5)


def test_statistics_are_those_of_the_whole_frame(project):
    particles = read_particles(project())
    for config in (NO_WINDOW, PreprocessConfig()):
        preprocessor = Preprocessor.fit(particles, config)
        images = noise_images().astype(np.float64)
        assert preprocessor.mean == pytest.approx(images.mean(), abs=1e-12)
        assert preprocessor.std == pytest.approx(images.std(), rel=1e-12)


def test_statistics_may_use_evenly_spaced_images_only(project):
    particles = read_particles(project())
    preprocessor = Preprocessor.fit(particles, PreprocessConfig(statistics_images=3))
    # Of 0 … 5, three evenly spaced: 0, 2.5 rounded to the even 2, and 5.
    assert preprocessor.mean == pytest.approx(noise_images()[[0, 2, 5]].astype(np.float64).mean(), abs=1e-12)


def test_the_window_is_one_inside_and_zero_outside():
    for box in (32, 33):
        window = Preprocessor(PreprocessConfig(), box, 0.0, 1.0).window
        grid = torch.arange(box) - box // 2
        radius = torch.hypot(*torch.meshgrid(grid.double(), grid.double(), indexing="ij")) / (box / 2)
        assert (window[radius <= 0.85] == 1).all()
        # The cosine of π in floating point leaves a rounding error.
        assert window[radius >= 0.99].abs().max() < 1e-15
        between = window[(radius > 0.86) & (radius < 0.98)]
        assert ((between > 0) & (between < 1)).all()


def test_windowed_white_noise_has_the_variance_that_is_said():
    preprocessor = Preprocessor(PreprocessConfig(), 16, 0.0, 1.0)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 16, 16)))
    disc = Disc(16)
    variance = preprocessor.transform(noise, disc).square().mean()
    # 4,000 × 193 coefficients, half of them independent after the window: a spread of 0.2 %.
    assert float(variance) == pytest.approx(preprocessor.noise_factor, rel=0.01)
    assert 0.5 < preprocessor.noise_factor < 0.8


def test_the_transform_is_the_hartley_transform_inside_the_disc(project):
    particles = read_particles(project())
    preprocessor = Preprocessor.fit(particles)
    disc = Disc(BOX, 3.0)
    images = particles.images([4, 1])
    expected = disc.gather(hartley((images - preprocessor.mean) / preprocessor.std * preprocessor.window))
    torch.testing.assert_close(preprocessor.transform(images, disc), expected)


def test_inverted_particles_give_the_opposite_transform(project):
    path = project()
    coefficients = []
    for invert in (False, True):
        particles = read_particles(path, invert=invert)
        preprocessor = Preprocessor.fit(particles)
        coefficients.append(preprocessor.transform(particles.images(range(6)), Disc(BOX)))
    torch.testing.assert_close(coefficients[1], -coefficients[0])


def test_a_stack_without_contrast_is_refused(project, tmp_path):
    path = project()
    write_stack(tmp_path / "stack.mrcs", np.full((6, BOX, BOX), 7, np.float32))
    with pytest.raises(ImageDataError, match="hold the value 7 everywhere"):
        Preprocessor.fit(read_particles(path))


@pytest.mark.parametrize(
    "options", [{"window_inner": 1.0, "window_outer": 0.9}, {"window_inner": -0.1}, {"statistics_images": 0}]
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        PreprocessConfig(**options)
