"""Images of several grids on one, and phases flipped as an independent calculation flips them."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError, MetadataError
from cryoatlas.fourier.resample import Grid
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.prepare_config import PrepareConfig
from cryoatlas.particles.regrid import Regridder, choose_grid, grids_of

from .small_project import BOX, COUNT, PIXEL_SIZE, noise_images, optics_columns, particle_columns, write_stack

FLOAT32 = 1e-5
"""Transforms of a few hundred pixels of order 1 in float32."""


def ctf_formula(columns: dict, row: int, box: int, pixel_size: float, voltage: float, cs: float, w: float):
    """The CTF at the frequencies of ``np.fft.fft2``, from RELION's columns, with its own words."""
    k = np.fft.fftfreq(box, pixel_size)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    k2, alpha = kx**2 + ky**2, np.arctan2(ky, kx)
    volts = voltage * 1e3
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    u, v = columns["rlnDefocusU"][row], columns["rlnDefocusV"][row]
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (alpha - np.deg2rad(columns["rlnDefocusAngle"][row])))
    phase = np.pi * wavelength * defocus * k2 - np.pi / 2 * cs * 1e7 * wavelength**3 * k2**2
    return np.sin(phase + np.deg2rad(columns["rlnPhaseShift"][row]) + math.asin(w))


def flipped_by_numpy(row: int, image: np.ndarray) -> np.ndarray:
    """The transform of an image of the small project times the sign of its CTF."""
    optics, group = optics_columns(), row % 2
    names = ("rlnImagePixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    pixel_size, *microscope = (optics[name][group] for name in names)
    return np.fft.fft2(image) * np.sign(ctf_formula(particle_columns(), row, BOX, pixel_size, *microscope))


def without_nyquist(transform: np.ndarray) -> np.ndarray:
    keep = np.abs(np.fft.fftfreq(BOX)) < 0.5
    return transform[..., keep, :][..., keep]


@pytest.mark.parametrize("group", [0, 1])
def test_phases_are_flipped_in_a_stack_as_in_each_image_and_as_numpy_does(project, group):
    particles = read_particles(project())
    rows = np.arange(group, COUNT, 2)
    same = Grid(BOX, optics_columns()["rlnImagePixelSize"][group])
    regridder = Regridder(particles, same, phase_flip=True)
    stack = regridder.regrid(rows, regridder.read(rows)).numpy()
    for place, row in enumerate(rows):
        alone = regridder.regrid(rows[place : place + 1], regridder.read(rows[place : place + 1]))[0].numpy()
        np.testing.assert_allclose(stack[place], alone, atol=FLOAT32)
        expected = flipped_by_numpy(row, noise_images()[row].astype(np.float64))
        found = np.fft.fft2(stack[place].astype(np.float64))
        assert np.abs(np.fft.fft2(noise_images()[row]) - expected).max() > 1  # something is flipped
        # The sums run over 64 pixels.
        np.testing.assert_allclose(without_nyquist(found), without_nyquist(expected), atol=64 * FLOAT32)


def test_flipping_and_clipping_commute(project):
    """Clipping first is cheaper; the sign of a coefficient does not depend on the box."""
    particles = read_particles(project())
    rows = np.arange(0, COUNT, 2)
    small = Grid(BOX // 2, 2 * PIXEL_SIZE)
    clipped, whole = (Regridder(particles, grid, phase_flip=True) for grid in (small, Grid(BOX, PIXEL_SIZE)))
    found = torch.fft.fft2(clipped.regrid(rows, clipped.read(rows)))
    wanted = torch.fft.fft2(whole.regrid(rows, whole.read(rows))) / 4  # the mean is kept
    inside = [0, 1, -1]
    torch.testing.assert_close(
        found[:, inside][:, :, inside], wanted[:, inside][:, :, inside], rtol=0, atol=64 * FLOAT32
    )


def test_phases_are_flipped_before_images_are_cut(project):
    """What the CTF carries out of the smaller image is brought back first."""
    particles = read_particles(project())
    rows, cut = np.arange(0, COUNT, 2), Grid(BOX - 2, PIXEL_SIZE)
    smaller, whole = (Regridder(particles, grid, phase_flip=True) for grid in (cut, Grid(BOX, PIXEL_SIZE)))
    found = smaller.regrid(rows, smaller.read(rows))
    wanted = whole.regrid(rows, whole.read(rows))[:, 1:-1, 1:-1]
    torch.testing.assert_close(found, wanted, rtol=0, atol=FLOAT32)


def test_even_aberrations_enter_the_sign(project):
    coefficients = "[0,0,300,0,0,0,0,0,0]"
    plain = read_particles(project())
    particles = read_particles(project(optics=lambda c: c.update(rlnEvenZernike=[coefficients] * 2)))
    grid, rows = Grid(BOX, PIXEL_SIZE), np.array([0, 2])
    images = [
        Regridder(p, grid, phase_flip=True).regrid(rows, Regridder(p, grid).read(rows))
        for p in (plain, particles)
    ]
    assert not torch.allclose(*images)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.update(rlnCtfDataArePhaseFlipped=[1, 0]), "phase flipped already"),
        (lambda c: c.update(rlnCtfDataAreCtfPremultiplied=[0, 1]), "multiplied by their CTF already"),
    ],
)
def test_phases_that_are_right_are_not_flipped(project, spoil, message):
    particles = read_particles(project(optics=spoil))
    with pytest.raises(MetadataError, match=message):
        Regridder(particles, Grid(BOX, PIXEL_SIZE), phase_flip=True)


def test_images_without_ctf_are_not_flipped(project):
    def spoil(columns: dict) -> None:
        for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
            del columns[name]

    particles = read_particles(project(particles=spoil))
    with pytest.raises(MetadataError, match="no defocus columns"):
        Regridder(particles, Grid(BOX, PIXEL_SIZE), phase_flip=True)


def bump(box: int, pixel_size: float, width: float) -> np.ndarray:
    """A Gaussian, so smooth and so small that no grid of the test cuts or aliases it."""
    axis = (np.arange(box) - box // 2) * pixel_size
    return np.exp(-((axis - 2) ** 2 + (axis[:, None] + 3) ** 2) / (2 * width**2)).astype(np.float32)


@pytest.mark.parametrize("new", [Grid(24, 2.0), Grid(30, 2.5), Grid(16, 2.2)])
def test_optics_groups_of_other_boxes_and_pixel_sizes_show_the_same_on_one_grid(tmp_path, new):
    kinds = [(40, 1.2), (32, 1.7), (33, 1.5)]
    for number, (box, size) in enumerate(kinds):
        write_stack(tmp_path / f"{number}.mrcs", bump(box, size, 4.0)[None])
    columns = {
        "rlnImageName": [f"1@{number}.mrcs" for number in (2, 0, 1, 0)],
        "rlnImagePixelSize": [kinds[number][1] for number in (2, 0, 1, 0)],
    }
    write_star(tmp_path / "mixed.star", {"particles": StarTable.from_columns(columns)})
    particles = read_particles(tmp_path / "mixed.star", one_box=False)
    assert len(grids_of(particles)[0]) == 3
    regridder = Regridder(particles, new)
    rows = np.arange(4)
    images = regridder.regrid(rows, regridder.read(rows))
    inside = regridder.covered(rows)
    expected = torch.from_numpy(bump(new.box_size, new.pixel_size, 4.0)).expand(4, -1, -1)
    # The Gaussian has 1e-6 of its height left at Nyquist of 2.5 Å and 1e-5 at the nearest edge.
    torch.testing.assert_close(images[inside], expected[inside], rtol=0, atol=1e-4)
    assert bool((images[~inside] == 0).all())
    assert regridder.pads == (new.box_size == 30)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"box": 32}, Grid(32, 1.5)),  # the smaller extent, 48 Å
        ({"pixel_size": 1.6}, Grid(30, 1.6)),
        ({"pixel_size": 1.9}, Grid(24, 1.9)),  # 25.3 pixels fit; even, and none padded
        ({}, Grid(28, 1.7)),
        ({"box": 60, "pixel_size": 2.0}, Grid(60, 2.0)),
    ],
)
def test_the_new_grid_covers_what_all_images_cover(options, expected):
    assert choose_grid([Grid(40, 1.2), Grid(32, 1.7)], PrepareConfig(**options)) == expected


def test_one_kind_of_images_keeps_its_extent():
    assert choose_grid([Grid(256, 1.06)], PrepareConfig(box=128)) == Grid(128, 2.12)
    assert choose_grid([Grid(256, 1.06)], PrepareConfig()) == Grid(256, 1.06)


@pytest.mark.parametrize("options", [{"box": 42}, {"pixel_size": 1.1}, {"pixel_size": 60.0}])
def test_pixels_are_not_made_smaller_nor_larger_than_the_image(options):
    with pytest.raises(ConfigError, match="pixels of"):
        choose_grid([Grid(40, 1.2)], PrepareConfig(**options))


@pytest.mark.parametrize("options", [{"box": 63}, {"box": 0}, {"pixel_size": 0.0}, {"diameter": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        PrepareConfig(**options)
