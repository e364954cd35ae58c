"""Poses, shifts, CTF and sign of a real file are read rightly: its images are projections of its maps.

The clean images were projected and shifted by another program, so correlations stay below 1: exact
projections of the map reach 0.981, those interpolated on a padded grid 0.971.
"""

from pathlib import Path

import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.projection import correlation, plane_frequencies, predict
from cryoatlas.io.mrc import read_volume
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import Batch, ParticleLoader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.preprocess import Preprocessor

PIXEL_SIZE = 13.1


def first_images(folder: Path, name: str, *, invert: bool = False) -> tuple[VoxelVolume, Batch]:
    particles = read_particles(folder / name, datadir=folder, invert=invert)
    density = read_volume(folder / "10076_classD_32.mrc", pixel_size=PIXEL_SIZE).array
    preprocessor = Preprocessor.fit(particles, PreprocessConfig(window=False))
    loader = ParticleLoader(particles, preprocessor, Disc(32), 64)
    return VoxelVolume.from_map(torch.from_numpy(density), PIXEL_SIZE), loader.batch(torch.arange(64))


def agreement(volume: VoxelVolume, batch: Batch, pose: Pose) -> float:
    predicted = predict(volume, plane_frequencies(Disc(32), batch.pixel_size), pose, batch.ctf)
    return float(correlation(predicted, batch.images).mean())


@pytest.mark.data
def test_clean_images_are_the_projections_that_their_star_file_says(shared_data):
    folder = shared_data / "stacks" / "tomodrgn_10076_classDE"
    volume, batch = first_images(folder, "10076_classD_32_clean.star")
    assert batch.pose is not None
    rotation, shift = batch.pose.rotation, batch.pose.shift
    assert agreement(volume, batch, batch.pose) > 0.96
    for wrong in (
        Pose(rotation, -shift),
        Pose(rotation, 0 * shift),
        Pose(rotation.mT, shift),
        Pose(rotation, shift.flip(-1)),
    ):
        assert agreement(volume, batch, wrong) < 0.85


@pytest.mark.data
def test_noisy_images_are_dark_and_follow_the_ctf(shared_data):
    folder = shared_data / "stacks" / "tomodrgn_10076_classDE"
    volume, dark = first_images(folder, "10076_classD_32_sim.star")
    _, bright = first_images(folder, "10076_classD_32_sim.star", invert=True)
    assert bright.pose is not None
    # At a signal-to-noise ratio of 0.056 over the whole frame, 0.3 is what the noise leaves in the disc.
    assert agreement(volume, bright, bright.pose) > 0.29
    assert agreement(volume, dark, bright.pose) < -0.29
