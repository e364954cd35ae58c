"""Background: what groups share, what small groups borrow, and what is left between their images."""

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError, FormatError, ImageDataError
from cryoatlas.fourier.resample import Grid
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.background import (
    FEWEST,
    SAMPLED,
    Groups,
    background_groups,
    background_pixels,
    measure_background,
    read_background,
    write_background,
)
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.regrid import Regridder

from .small_project import write_stack

BOX = 16
GRID = Grid(BOX, 2.0)
MICROGRAPHS = {"a": 40, "b": 12, "c": 3}
LEVEL = {"a": 100.0, "b": -5.0, "c": 7.0}
NOISE = {"a": 3.0, "b": 0.2, "c": 50.0}
SIGNAL = 4.0
"""Height of the particle above the background, in units of the noise."""


def particle_set(tmp_path, spoil=lambda images: images) -> ParticleSet:
    """Images of three micrographs, mixed, each with its own level and noise and a particle in the middle."""
    random = np.random.default_rng(3)
    names = random.permutation([name for name, count in MICROGRAPHS.items() for _ in range(count)])
    inside = ~background_pixels(GRID, None).numpy()
    images = random.standard_normal((len(names), BOX, BOX)) + SIGNAL * inside
    for image, name in zip(images, names, strict=True):
        image[:] = image * NOISE[str(name)] + LEVEL[str(name)]
    write_stack(tmp_path / "stack.mrcs", spoil(images.astype(np.float32)))
    columns = {
        "rlnImageName": [f"{number}@stack.mrcs" for number in range(1, len(names) + 1)],
        "rlnMicrographName": names,
        "rlnImagePixelSize": np.full(len(names), GRID.pixel_size),
    }
    write_star(tmp_path / "particles.star", {"particles": StarTable.from_columns(columns)})
    return read_particles(tmp_path / "particles.star")


def normalized(particles: ParticleSet, by) -> tuple[Groups, torch.Tensor]:
    groups = background_groups(particles.tables, by)
    regridder = Regridder(particles, GRID)
    background = measure_background(regridder, groups, background_pixels(GRID, None), chunk=7)
    rows = np.arange(len(particles))
    return groups, background.normalize(rows, regridder.regrid(rows, regridder.read(rows)))


def test_each_micrograph_has_a_background_of_mean_0_and_deviation_1(tmp_path):
    particles = particle_set(tmp_path)
    groups, images = normalized(particles, "micrograph")
    outside = background_pixels(GRID, None)
    for group, name in enumerate(groups.names):
        pixels = images[torch.from_numpy(groups.of_image == group)][:, outside]
        if MICROGRAPHS[name] < FEWEST:
            assert abs(pixels.mean()) > 0.01  # it has the values of its optics group
            continue
        # From at least 12 × 124 pixels: the mean is known to 0.026, the deviation to 0.018; 4 times that.
        assert pixels.mean().item() == pytest.approx(0, abs=0.1)
        assert pixels.std().item() == pytest.approx(1, abs=0.08)
        signal = images[torch.from_numpy(groups.of_image == group)][:, ~outside].mean()
        assert signal.item() == pytest.approx(SIGNAL, rel=0.1)


def test_a_whole_set_shares_one_scale(tmp_path):
    _, images = normalized(particle_set(tmp_path), "set")
    pixels = images[:, background_pixels(GRID, None)]
    assert pixels.mean().item() == pytest.approx(0, abs=1e-5)  # all images were measured; float32
    assert pixels.std().item() == pytest.approx(1, rel=1e-3)


def test_small_micrographs_have_the_values_of_their_optics_group(tmp_path):
    particles = particle_set(tmp_path)
    groups = background_groups(particles.tables, "micrograph")
    regridder, outside = Regridder(particles, GRID), background_pixels(GRID, None)
    found = measure_background(regridder, groups, outside, chunk=50)
    sample = groups.sample()
    pixels = particles.images(sample)[:, outside].double()
    small = groups.names.index("c")
    assert found.mean[small] == pytest.approx(pixels.mean().item(), rel=1e-9)
    assert found.std[small] == pytest.approx(pixels.std(correction=0).item(), rel=1e-9)


def test_samples_are_evenly_spaced_and_never_more_than_there_are():
    groups = Groups(("x", "y"), np.array([0] * 100 + [1] * 5), None, SAMPLED)
    sample = groups.sample()
    assert (sample[:-5] < 100).all()
    assert len(sample) == SAMPLED + 5
    steps = np.diff(sample[:SAMPLED])
    assert steps.min() >= 100 // SAMPLED
    assert steps.max() <= 100 // SAMPLED + 1


def test_files_without_micrographs_are_normalised_per_optics_group(tmp_path, caplog):
    particles = particle_set(tmp_path)
    tables = particles.tables
    bare = tables.with_particles(tables.particles.without_columns("rlnMicrographName"))
    with caplog.at_level("INFO"):
        assert background_groups(bare, "micrograph").names == ("optics group 1",)
    assert "rlnMicrographName" in caplog.text


def test_images_of_one_value_are_refused(tmp_path):
    particles = particle_set(tmp_path, lambda images: np.zeros_like(images))
    with pytest.raises(ImageDataError, match="the value 0 everywhere"):
        normalized(particles, "micrograph")


def test_a_particle_as_large_as_the_box_leaves_no_background():
    assert background_pixels(GRID, 16.0).sum() > background_pixels(GRID, 24.0).sum()
    with pytest.raises(ConfigError, match="too little background"):
        background_pixels(GRID, 36.0)


def test_what_was_measured_reads_back_exactly(tmp_path):
    particles = particle_set(tmp_path)
    groups = background_groups(particles.tables, "micrograph")
    found = measure_background(Regridder(particles, GRID), groups, background_pixels(GRID, None), 20)
    write_background(tmp_path / "background.csv", found)
    back = read_background(tmp_path / "background.csv", groups)
    np.testing.assert_array_equal(back.mean, found.mean)
    np.testing.assert_array_equal(back.std, found.std)
    other = Groups(("x",), groups.of_image, None, SAMPLED)
    with pytest.raises(FormatError, match="other images"):
        read_background(tmp_path / "background.csv", other)
