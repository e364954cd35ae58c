"""A coloured spectrum that was put on simulated images is found: in corners, in residuals, in training."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import StackWriter, read_volume
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.pairs import make_loader, pair
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.recipes.noise import corner_noise, residual_noise, spectra
from cryoatlas.recipes.train import train
from cryoatlas.subspace.model import mean_square
from cryoatlas.training.config import TrainConfig

BOX, COUNT, SPREAD = 24, 800, 0.3
PAIR = ("particles.star", "particles_tilt.star")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> tuple[ParticleSet, torch.Tensor]:
    """One structure with CTF and contrasts of spread 0.3, and the noise's variance by shell in the units of
    the file: four times as much at the centre as far out."""
    folder = tmp_path_factory.mktemp("coloured") / "set"
    config = SimulationConfig(
        "homogeneous", images=COUNT, box=BOX, snr=float("inf"), seed=2, ctf=True, contrast_spread=SPREAD
    )
    simulate(config, folder)
    clean = read_particles(folder / "particles.star").images(slice(None)).numpy()
    radius = BOX * np.hypot(np.fft.fftfreq(BOX)[:, None], np.fft.fftfreq(BOX)[None])
    level = 2 * clean.var()
    variance = level * (1 + 3 * np.exp(-((radius / 6) ** 2)))
    white = np.random.default_rng(7).standard_normal(clean.shape)
    noise = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(variance)).real
    with StackWriter(folder / "particles.mrcs", BOX, 8.0) as stack:
        stack.append((clean + noise).astype(np.float32))
    shells = torch.arange(BOX // 2 + 1)
    truth = level * (1 + 3 * torch.exp(-((shells / 6.0) ** 2)))
    return read_particles(folder / "truth" / "particles.star"), truth


@pytest.fixture(scope="module")
def loader(coloured) -> ParticleLoader:
    particles, _ = coloured
    return ParticleLoader(particles, Preprocessor.fit(particles), Disc(BOX), 100)


def expected(loader: ParticleLoader, truth: torch.Tensor) -> torch.Tensor:
    """The variance of coefficients of prepared images, without the last, partly empty shell."""
    return (truth / loader.preprocessor.std**2 * loader.preprocessor.noise_factor)[:-1].float()


def test_corners_show_the_spectrum(coloured, loader):
    found = corner_noise(loader).variance[:-1]
    # Corners are narrow: they smear over two shells a spectrum that falls by a tenth per shell, and the CTF
    # brings some signal into them.
    torch.testing.assert_close(found[2:], expected(loader, coloured[1])[2:], rtol=0.15, atol=0)
    assert found[1] > 2.5 * found[-1]


def masked_set(particles: ParticleSet, folder: Path) -> ParticleSet:
    """The images with the window already applied, as some programs write them."""
    fitted = Preprocessor.fit(particles)
    images = (particles.images(slice(None)) - fitted.mean) * fitted.window
    with StackWriter(folder / "masked.mrcs", BOX, 8.0) as stack:
        stack.append(images)
    star = (particles.path.parent.parent / "particles.star").read_text()
    (folder / "masked.star").write_text(star.replace("particles.mrcs", "masked.mrcs"))
    return read_particles(folder / "masked.star")


def test_masked_corners_are_said_to_hold_no_noise(coloured, tmp_path):
    masked = masked_set(coloured[0], tmp_path)
    assert corner_noise(ParticleLoader(masked, Preprocessor.fit(masked), Disc(BOX), 100)) is None


def true_signal(particles: ParticleSet, loader: ParticleLoader) -> torch.Tensor:
    """Mean square of the particles' coefficients by shell: of the map, since slices go in all directions."""
    map_ = read_volume(particles.path.parent / "volumes" / "state_000000.mrc").array
    contrast = 1 + SPREAD**2
    return contrast * mean_square(torch.from_numpy(map_) / loader.preprocessor.std)


def test_noise_and_signal_are_told_apart_before_there_is_a_map(coloured, loader):
    """Signal before the CTF, where it is at least a tenth of the noise after it; a quarter of the error is
    allowed for corners and CTF, and what shells of so small a box share."""
    found, true = spectra(loader), true_signal(coloured[0], loader)
    torch.testing.assert_close(
        found.noise.variance[2:-1], expected(loader, coloured[1])[2:], rtol=0.2, atol=0
    )
    measured = (0.3 * true / found.noise.variance > 0.1).nonzero().squeeze(-1)
    measured = measured[measured > 1]
    assert len(measured) >= 3
    ratio = found.signal[measured] / true[measured]
    assert float(ratio.max()) < 1.5
    assert float(ratio.min()) > 1 / 1.5
    assert bool((found.signal > 0).all())


def test_of_masked_images_the_outermost_shells_tell_the_noise(coloured, tmp_path):
    masked = masked_set(coloured[0], tmp_path)
    found = spectra(ParticleLoader(masked, Preprocessor.fit(masked), Disc(BOX), 100)).noise.variance
    fitted = Preprocessor.fit(masked)
    level = coloured[1][-3] / fitted.std**2 * fitted.noise_factor
    assert torch.equal(found, found[:1].expand_as(found))
    # Windowed twice, white noise has less than once.
    assert 0.7 * level < found[0] < 1.1 * level


def test_spectra_of_pairs_are_means_over_images_and_not_sums_over_particles(tmp_path):
    """Both images of a pair count, and as much as each other: pairs have the power of their images' mean."""
    config = SimulationConfig("homogeneous", images=300, box=BOX, snr=3.0, seed=4, tilt_pairs=True)
    simulate(config, tmp_path / "set")
    first, second = (read_particles(tmp_path / "set" / name) for name in PAIR)
    scale, disc = Preprocessor.fit(first), Disc(BOX)
    tilted = pair(first, second, 45.0)
    both, one, other = (
        spectra(each)
        for each in (
            make_loader(first, scale, disc, 100, tilted=tilted),
            make_loader(first, scale, disc, 100),
            make_loader(second, scale, disc, 100),
        )
    )
    assert torch.equal(both.noise.variance, one.noise.variance)
    powers = [each.signal + each.noise.variance for each in (both, one, other)]
    strong = both.signal > 0.2 * both.noise.variance
    assert int(strong.sum()) >= 4
    mean = (powers[1] + powers[2]) / 2
    torch.testing.assert_close(powers[0][strong], mean[strong], rtol=1e-3, atol=0)


def test_residuals_of_the_true_map_show_the_spectrum(coloured, loader):
    particles, truth = coloured
    map_ = read_volume(particles.path.parent / "volumes" / "state_000000.mrc").array
    volume = VoxelVolume.from_map(
        torch.from_numpy(map_) / loader.preprocessor.std, particles.pixel_size[0].item()
    )
    found = residual_noise(loader, volume).variance[:-1]
    # The contrasts, which a map does not know, and the window add a tenth where the signal is strong.
    torch.testing.assert_close(found[2:], expected(loader, truth)[2:], rtol=0.12, atol=0)


def test_training_finds_the_spectrum_and_the_contrasts(coloured, loader, tmp_path):
    particles, truth = coloured
    sizes = {"encoder": EncoderConfig(layers=1, width=32), "decoder": DecoderConfig(layers=1, width=32)}
    config = TrainConfig(latent=0, epochs=3, batch_size=32, noise="updated", contrast=True, **sizes)
    run = train(particles, config, tmp_path / "run")
    # 800 images give shell s to √(2/(800·2πs)), 2 % at 1; the map, itself of these images, explains a part of
    # their noise.
    found = run.vae.noise_variance[2:-1]
    torch.testing.assert_close(found, expected(loader, truth)[2:], rtol=0.1, atol=0)
    true_factor = particles.tables.particles.number("cryoatlasContrast")
    assert np.corrcoef(run.contrasts(), true_factor)[0, 1] > 0.9
    assert float(run.vae.contrast_variance) ** 0.5 == pytest.approx(SPREAD, rel=0.25)
    written = run.particles.tables.particles.number("cryoatlasContrast")
    np.testing.assert_allclose(written, run.contrasts(), rtol=1e-5)


def test_losses_of_fixed_and_updated_noise_are_of_one_scale(coloured, tmp_path):
    """Noise taken to be white costs likelihood; what is logged shows it although both are in their own σ."""
    particles, _ = coloured
    sizes = {"encoder": EncoderConfig(layers=1, width=16), "decoder": DecoderConfig(layers=1, width=16)}
    config = TrainConfig(latent=0, epochs=2, contrast=False, marching=0.0, noise="updated", **sizes)
    updated = train(particles, config, tmp_path / "updated").log()[-2]["loss"]
    white = train(particles, dataclasses.replace(config, noise="white"), tmp_path / "white").log()[-2]["loss"]
    # ½ Σ log over a few hundred coefficients: tens of nats.
    assert updated < white - 10


def test_contrasts_that_do_not_vary_are_found_near_one_though_the_molecule_moves(particles, tmp_path):
    """240 images at SNR 1 of an arm that swings, all of contrast 1."""
    sizes = {"encoder": EncoderConfig(layers=1, width=32), "decoder": DecoderConfig(layers=1, width=32)}
    config = TrainConfig(latent=1, epochs=4, noise="updated", contrast=True, **sizes)
    run = train(particles, config, tmp_path / "run")
    spreads = [entry["contrast_spread"] for entry in run.log() if entry["event"] == "epoch"]
    # What the map of the moment does not explain looks like contrast at first, and less with every epoch.
    assert spreads[-1] < min(0.1, spreads[0])
    assert run.contrasts().std() < 0.06
    assert run.contrasts().mean() == pytest.approx(1, abs=0.03)
