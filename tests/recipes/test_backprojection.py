"""Back-projection from a star file: the map is the molecule, half maps are independent halves."""

import numpy as np
import pytest
import torch

from cryoatlas.errors import MetadataError
from cryoatlas.fourier.correlation import fourier_shell_correlation
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.backprojection import backproject_particles


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """600 clean images of one structure, with CTF and shifts."""
    folder = tmp_path_factory.mktemp("clean") / "set"
    config = SimulationConfig("homogeneous", images=600, box=24, snr=float("inf"), seed=1, ctf=True)
    simulate(config, folder)
    truth = read_volume(folder / "truth" / "volumes" / "state_000000.mrc").array
    return read_particles(folder / "truth" / "particles.star"), torch.from_numpy(truth)


def test_poses_shifts_and_ctf_read_from_a_star_give_back_the_molecule(clean):
    particles, truth = clean
    result = backproject_particles(particles)
    fsc = fourier_shell_correlation(result.map, truth)
    # Shell 0 is the mean, which normalising the images removes.
    assert fsc[1:10].min() > 0.97
    # The scale is that of the files; the window of the images takes a little.
    slope = (result.map * truth).sum() / truth.square().sum()
    assert 0.9 < slope < 1.1


def test_wrong_signs_are_seen(clean):
    """The check that the command is for: a flipped shift, or transposed rotations, spoil the map."""
    particles, truth = clean
    pose = particles.pose
    good = fourier_shell_correlation(backproject_particles(particles).map, truth)[3:9].mean()
    for wrong in (type(pose)(pose.rotation, -pose.shift), type(pose)(pose.rotation.mT, pose.shift)):
        map_ = backproject_particles(particles.with_pose(wrong)).map
        assert fourier_shell_correlation(map_, truth)[3:9].mean() < good - 0.2


def test_half_maps_are_of_even_and_of_odd_images(clean):
    particles, _ = clean
    whole = backproject_particles(particles)
    odd = torch.arange(len(particles)) % 2
    for parity in (0, 1):
        chosen = (odd == parity).float()
        alone = backproject_particles(particles, weights=chosen)
        torch.testing.assert_close(alone.half_maps[parity], whole.half_maps[parity])
        assert alone.half_maps[1 - parity].abs().max() == 0


def test_the_half_map_fsc_of_noise_is_near_zero(particles):
    rng = np.random.default_rng(0)
    shuffled = particles.pose[torch.from_numpy(rng.permutation(len(particles)))]
    fsc = backproject_particles(particles.with_pose(shuffled)).fsc
    right = backproject_particles(particles).fsc
    assert fsc[3:7].mean() < right[3:7].mean() - 0.2


def test_the_map_is_empty_where_images_are_windowed_away(particles):
    """Noise beyond the window is no density; the half maps keep it, so that their FSC stays honest."""
    result = backproject_particles(particles)
    corner = slice(0, 2)
    assert result.map[corner, corner, corner].abs().max() == 0
    assert all(half[corner, corner, corner].abs().min() > 0 for half in result.half_maps)


def test_particles_without_poses_are_refused(simulated):
    with pytest.raises(MetadataError, match="no poses"):
        backproject_particles(read_particles(simulated / "particles.star"))
