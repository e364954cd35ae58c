"""Aberrated, premultiplied and phase-flipped images say of a volume what the images without all that say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoatlas.fourier.correlation import fourier_shell_correlation
from cryoatlas.fourier.lattice import Disc, frequency_grid
from cryoatlas.fourier.transform import fourier, hartley, inverse_fourier, inverse_hartley
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.aberrations import odd_phase
from cryoatlas.imaging.ctf import contrast_transfer
from cryoatlas.imaging.projection import central_slices, plane_frequencies
from cryoatlas.imaging.shift import shift_hartley, turn_phase_hartley
from cryoatlas.imaging.volume import GaussianBody
from cryoatlas.io.mrc import StackWriter
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.particles.transfer import SMALLEST_SHARE
from cryoatlas.recipes.backprojection import backproject
from cryoatlas.training.objective import centre_images

BOX, PIXEL_SIZE, COUNT = 32, 3.0, 60
DISC = Disc(BOX)
MATRIX = [[1.02, 0.015], [-0.01, 0.97]]
ABERRATED = {
    "rlnBeamTiltX": [0.0, 0.8],
    "rlnBeamTiltY": [0.0, -0.5],
    "rlnOddZernike": ["[]", "[0.3,-0.2,90,40,-60,120]"],
    "rlnEvenZernike": ["[]", "[0.2,0,0,30,0,0,10,0,200]"],
    **{f"rlnMagMat{i}{j}": [float(i == j), MATRIX[i][j]] for i in (0, 1) for j in (0, 1)},
}
Write = Callable[..., ParticleSet]


def body() -> GaussianBody:
    centres = torch.from_numpy(np.random.default_rng(5).uniform(-14, 14, (8, 3)))
    return GaussianBody(centres, torch.full((8,), 1500.0, dtype=torch.float64), 4.5, BOX, PIXEL_SIZE)


def poses() -> Pose:
    rng = np.random.default_rng(6)
    return Pose(random_rotations(COUNT, rng), torch.from_numpy(rng.uniform(-6, 6, (COUNT, 2))))


def columns() -> dict:
    rng = np.random.default_rng(7)
    angles, origins = poses().to_relion()
    return {
        "rlnImageName": [f"{number}@stack.mrcs" for number in range(1, COUNT + 1)],
        "rlnOpticsGroup": [1 + number % 2 for number in range(COUNT)],
        "rlnDefocusU": rng.uniform(4000, 9000, COUNT),
        "rlnDefocusV": rng.uniform(4000, 9000, COUNT),
        "rlnDefocusAngle": rng.uniform(0, 180, COUNT),
        "rlnCtfBfactor": rng.uniform(0, 60, COUNT),
        "rlnCtfScalefactor": rng.uniform(0.7, 1, COUNT),
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T.numpy(), strict=True)),
        **dict(zip(("rlnOriginXAngst", "rlnOriginYAngst"), origins.T.numpy(), strict=True)),
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes images and a star file of two optics groups, with other columns in both tables."""

    def written(name: str, images: torch.Tensor, rows: dict | None = None, **extra: list) -> ParticleSet:
        folder = tmp_path / name
        folder.mkdir()
        with StackWriter(folder / "stack.mrcs", BOX, PIXEL_SIZE) as stack:
            stack.append(images.float().numpy())
        optics = {
            "rlnOpticsGroup": [1, 2],
            "rlnVoltage": [300.0, 300.0],
            "rlnSphericalAberration": [2.7, 2.7],
            "rlnAmplitudeContrast": [0.1, 0.1],
            "rlnImagePixelSize": [PIXEL_SIZE, PIXEL_SIZE],
            **extra,
        }
        tables = {
            "optics": StarTable.from_columns(optics),
            "particles": StarTable.from_columns({**columns(), **(rows or {})}),
        }
        write_star(folder / "particles.star", tables)
        return read_particles(folder / "particles.star")

    return written


def grid_ctf(particles: ParticleSet) -> torch.Tensor:
    """ĝ of every image on the whole grid, without even aberrations."""
    freqs = frequency_grid(BOX, 2).flatten(0, 1) / (BOX * PIXEL_SIZE)
    contrast = particles.ctf_scale[:, None] * contrast_transfer(freqs[None], particles.ctf)
    return contrast.reshape(-1, BOX, BOX)


def noisy_images(particles: ParticleSet, deviation: float) -> torch.Tensor:
    """Images of the body after CTF and shift, in real space."""
    plane = plane_frequencies(DISC, particles.pixel_size)
    slices = central_slices(body(), plane, particles.pose.rotation)
    shifted = shift_hartley(slices, plane, particles.pose.shift)
    images = inverse_hartley(DISC.scatter(DISC.gather(grid_ctf(particles)) * shifted))
    rng = np.random.default_rng(8)
    return images + deviation * torch.from_numpy(rng.standard_normal(images.shape))


def whole_batch(particles: ParticleSet, preprocessor: Preprocessor | None = None):
    preprocessor = preprocessor or Preprocessor.fit(particles, PreprocessConfig(window=False))
    return ParticleLoader(particles, preprocessor, DISC, COUNT).batch(torch.arange(COUNT))


def aberrated_images(particles: ParticleSet) -> torch.Tensor:
    """What the microscope of `ABERRATED` records of the body, written out image by image."""
    settings = particles.aberrations
    images = []
    for number in range(COUNT):
        kind = settings.kind[number]
        in_image = plane_frequencies(DISC, particles.pixel_size[:1])
        in_specimen = in_image @ settings.magnification[kind].T
        slices = central_slices(body(), in_specimen, particles.pose.rotation[number : number + 1])
        moved = shift_hartley(slices, in_image, particles.pose.shift[number : number + 1])
        x, y = in_specimen[0].T
        even = 0.0
        if number % 2:
            even = 0.2 + 30 * (x**2 - y**2) + 10 * (6 * (x**2 + y**2) ** 2 - 6 * (x**2 + y**2) + 1)
            even = even + 200 * (x**4 - 6 * x**2 * y**2 + y**4)
            even = even.expand(1, -1)
        contrast = contrast_transfer(
            in_specimen, particles.ctf[number : number + 1], even if number % 2 else None
        )
        contrast = particles.ctf_scale[number] * contrast
        phase = odd_phase(in_specimen, settings.odd[kind][None])
        images.append(turn_phase_hartley(contrast * moved, phase)[0])
    return inverse_hartley(DISC.scatter(torch.stack(images)))


def residual(particles: ParticleSet, batch) -> torch.Tensor:
    """Norm of image − ĝ A V over that of the image, for each image of clean data."""
    preprocessor = Preprocessor.fit(particles, PreprocessConfig(window=False))
    centred = centre_images(batch, DISC)
    slices = central_slices(body(), centred.plane.double(), centred.rotation.double()) / preprocessor.std
    keep = DISC.shells > 0  # Normalising takes the mean.
    return ((centred.images - centred.ctf * slices)[:, keep]).norm(dim=1) / centred.images.norm(dim=1)


def test_aberrated_images_are_explained_by_the_volume(write):
    """Odd phases, even phases and magnification at once, in one of two groups; the other is untouched."""
    empty = torch.zeros(COUNT, BOX, BOX)
    empty[0, 0, 0] = 1
    images = aberrated_images(write("draft", empty, **ABERRATED))
    particles = write("aberrated", images, **ABERRATED)
    # Pixels are stored, and coefficients kept, in float32.
    assert residual(particles, whole_batch(particles)).max() < 1e-5
    for name in ABERRATED:
        spoiled = {**ABERRATED, name: [value if value != "[]" else "[0]" for value in ABERRATED[name]]}
        spoiled[name][1] = spoiled[name][0]
        wrong = write(f"without_{name}", images, **spoiled)
        error = residual(wrong, whole_batch(wrong))
        assert error[0::2].max() < 1e-5
        assert error[1::2].min() > 1e-3, name


def test_images_without_aberrations_in_a_mixed_set_keep_every_bit(write):
    images = noisy_images(write("draft", torch.rand(COUNT, BOX, BOX)), 1.0)
    plain, mixed = write("plain", images), write("mixed", images, **ABERRATED)
    one, other = whole_batch(plain), whole_batch(mixed)
    assert torch.equal(one.images[0::2], other.images[0::2])
    torch.testing.assert_close(one.ctf[0::2], other.ctf[0::2], atol=1e-6, rtol=0)
    assert one.magnification is None
    assert other.to("cpu").magnification.shape == (COUNT, 2, 2)
    assert torch.equal(
        other[:0].images if hasattr(other, "__getitem__") else other.images[:0], other.images[:0]
    )


def test_phase_flipped_images_are_modelled_with_the_size_of_the_ctf(write):
    draft = write("draft", torch.rand(COUNT, BOX, BOX))
    images, ctf = noisy_images(draft, 0.0), grid_ctf(draft)
    flipped = inverse_hartley(hartley(images) * torch.where(ctf < 0, -1.0, 1.0))
    particles = write("flipped", flipped, rlnCtfDataArePhaseFlipped=[1, 1])
    batch = whole_batch(particles)
    assert batch.ctf.min() >= 0
    torch.testing.assert_close(batch.ctf, DISC.gather(ctf.abs()).float(), atol=1e-6, rtol=0)
    assert residual(particles, batch).max() < 1e-5
    assert residual(particles, whole_batch(write("unflagged", flipped))).min() > 0.01


def premultiplied(images: torch.Tensor, ctf: torch.Tensor) -> torch.Tensor:
    return inverse_fourier(fourier(images) * ctf).real


def test_premultiplied_images_become_flipped_ones_where_the_ctf_is_not_small(write):
    draft = write("draft", torch.rand(COUNT, BOX, BOX))
    images, ctf = noisy_images(draft, 1.0), grid_ctf(draft)
    stored = premultiplied(images, ctf)
    particles = write("premultiplied", stored, rlnCtfDataAreCtfPremultiplied=[1, 1])
    scale = Preprocessor.fit(particles, PreprocessConfig(window=False))
    batch, own = whole_batch(particles, scale), DISC.gather(ctf)
    recorded = DISC.gather(hartley(images)) / scale.std
    envelope = draft.ctf_scale[:, None] * torch.exp(
        -draft.ctf.b_factor[:, None] * (DISC.frequencies.norm(dim=1) / (BOX * PIXEL_SIZE)) ** 2 / 4
    )
    inside = (own.abs() > SMALLEST_SHARE * envelope) & (DISC.shells > 0)
    assert 0.6 < inside.double().mean() < 0.8
    # Where |ĝ| > εE: y sign(ĝ) beside |ĝ|; float32 pixels.
    torch.testing.assert_close(
        batch.images[inside], (recorded * own.sign()).float()[inside], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(batch.ctf[inside], own.abs().float()[inside], atol=1e-5, rtol=0)
    # Elsewhere: y' and ĝ², both divided by εE.
    torch.testing.assert_close(
        batch.ctf[~inside & (DISC.shells > 0)],
        (own.square() / (SMALLEST_SHARE * envelope)).float()[~inside & (DISC.shells > 0)],
        atol=1e-5,
        rtol=0,
    )


def half_premultiplied(images: torch.Tensor, ctf: torch.Tensor) -> torch.Tensor:
    """Those of optics group 2 multiplied by their CTF."""
    second = (torch.arange(COUNT) % 2 == 1)[:, None, None]
    return torch.where(second, premultiplied(images, ctf), images)


def map_and_misfit(particles: ParticleSet, config: PreprocessConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The map, and each image's misfit to the body per coefficient, 1 for noise of σ = 1."""
    preprocessor = Preprocessor.fit(particles, config)
    batch = whole_batch(particles, preprocessor)
    map_ = backproject([batch], DISC, PIXEL_SIZE, COUNT).map * preprocessor.std
    centred = centre_images(batch, DISC)
    slices = central_slices(body(), centred.plane.double(), centred.rotation.double()) / preprocessor.std
    power = (centred.images - centred.ctf * slices)[:, DISC.shells > 0].square().mean(1)
    return map_, power * preprocessor.std**2 / preprocessor.noise_factor


def test_map_and_misfit_of_premultiplied_images_are_those_of_the_recorded_where_no_zero_is_near(write):
    """Phase-plate images near focus: |ĝ| > εE everywhere, so all is equal to rounding."""
    rng = np.random.default_rng(9)
    near_focus = {"rlnPhaseShift": [90.0] * COUNT}
    near_focus |= {name: rng.uniform(120, 500, COUNT) for name in ("rlnDefocusU", "rlnDefocusV")}
    draft = write("draft", torch.rand(COUNT, BOX, BOX), near_focus)
    images, ctf = noisy_images(draft, 1.0), grid_ctf(draft)
    no_window = PreprocessConfig(window=False)
    expected, misfit = map_and_misfit(write("recorded", images, near_focus), no_window)
    for name, stored, flags in (
        ("all", premultiplied(images, ctf), [1, 1]),
        ("half", half_premultiplied(images, ctf), [0, 1]),
    ):
        particles = write(name, stored, near_focus, rlnCtfDataAreCtfPremultiplied=flags)
        map_, found = map_and_misfit(particles, no_window)
        # Single precision, once more divided by 0.4 or more; the mean, which normalising takes, is not equal.
        shells = fourier_shell_correlation(map_, expected)[1:]
        assert shells.min() > 1 - 1e-6
        torch.testing.assert_close(found, misfit, rtol=1e-4, atol=0)


def test_premultiplied_images_with_zeros_and_a_window_agree_in_the_map_and_on_average(write):
    draft = write("draft", torch.rand(COUNT, BOX, BOX))
    images, ctf = noisy_images(draft, 1.0), grid_ctf(draft)
    expected, misfit = map_and_misfit(write("recorded", images), PreprocessConfig())
    # 60 images of 800 coefficients: within some √(2/48000) = 0.006, the body's own part being small.
    assert misfit.mean() == pytest.approx(1, abs=0.03)
    for name, stored, flags in (
        ("all", premultiplied(images, ctf), [1, 1]),
        ("half", half_premultiplied(images, ctf), [0, 1]),
    ):
        map_, found = map_and_misfit(
            write(name, stored, rlnCtfDataAreCtfPremultiplied=flags), PreprocessConfig()
        )
        # Up to 16 Å; beyond, the maps are noise, which the two weigh differently.
        assert fourier_shell_correlation(map_, expected)[1:7].min() > 0.98, name
        # Less noise at the zeros, more from what the window mixes in.
        assert found.mean() == pytest.approx(1, abs=0.25), name
        # An image that fits badly does so either way.
        assert torch.corrcoef(torch.stack([misfit, found]))[0, 1] > 0.7, name


def test_the_flag_matters(write):
    """Premultiplied images taken for recorded ones make another map."""
    draft = write("draft", torch.rand(COUNT, BOX, BOX))
    stored = premultiplied(noisy_images(draft, 0.0), grid_ctf(draft))
    right = write("right", stored, rlnCtfDataAreCtfPremultiplied=[1, 1])
    assert residual(right, whole_batch(right)).max() < 1e-4
    wrong = write("wrong", stored)
    assert residual(wrong, whole_batch(wrong)).min() > 0.3
