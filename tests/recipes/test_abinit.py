"""Ab initio runs: every option runs, poses survive interruptions, and later steps take them as they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cryoatlas.recipes.polish import known_band

from cryoatlas.errors import ConfigError, MetadataError, OutputError
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.models.config import DecoderConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.poses.config import SearchConfig
from cryoatlas.recipes.abinit import SEARCH, abinit, search_poses
from cryoatlas.recipes.abinit_config import AbinitConfig, abinit_recipe, search_epochs
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.presets import recipe
from cryoatlas.recipes.run import open_run
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.loop import Stopped

QUICK_NETWORK = TrainConfig(
    latent=0,
    epochs=3,
    batch_size=16,
    dense_radius=1.0,
    contrast=False,
    decoder=DecoderConfig(layers=1, width=32, consensus=False),
)
QUICK = AbinitConfig(
    train=QUICK_NETWORK,
    search=SearchConfig(
        subdivisions=2, band_start=4.0, shift_extent_px=1.0, shift_points=3, keep=2, refine=1
    ),
    chunk=32,
    polish=1,
)
FINAL = replace(recipe("default", latent=1), epochs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 images of 16 px, with CTF."""
    folder = tmp_path_factory.mktemp("abinit") / "set"
    simulate(SimulationConfig("linear1d", images=96, box=16, snr=5.0, seed=3, ctf=True, states=4), folder)
    return folder


@pytest.fixture(scope="module")
def particles(folder: Path) -> ParticleSet:
    return read_particles(folder / "particles.star")


@pytest.fixture(scope="module")
def finished(particles: ParticleSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("abinit") / "run"
    abinit(particles, QUICK, FINAL, out, device="cpu")
    return out


def test_the_run_has_poses_latents_and_volumes(finished, particles):
    run = open_run(finished)
    assert run.pose is not None
    assert len(run.pose) == len(particles)
    assert run.latents().shape == (96, 1)
    assert run.volume(np.zeros(1)).shape == (16, 16, 16)
    assert (finished / SEARCH / "volumes" / "network.mrc").exists()


def test_poses_in_the_file_are_not_looked_at(finished, folder, tmp_path):
    """The set with true poses gives the same run as the set without."""
    posed = read_particles(folder / "truth" / "particles.star")
    again = abinit(posed, QUICK, FINAL, tmp_path / "run", device="cpu")
    first = open_run(finished)
    assert torch.equal(again.pose.rotation, first.pose.rotation)
    np.testing.assert_array_equal(again.latents(), first.latents())


def test_images_without_ctf_are_reconstructed(particles, tmp_path):
    run = abinit(replace(particles, ctf=None), QUICK, FINAL, tmp_path / "run", device="cpu")
    assert bool(torch.isfinite(run.pose.rotation).all())


def test_the_band_grows_while_poses_are_sought(finished):
    lines = (finished / SEARCH / "log.jsonl").read_text().splitlines()
    bands = [entry["band_px"] for entry in map(json.loads, lines) if entry["event"] == "epoch"]
    assert bands == sorted(bands)
    assert bands[0] < bands[-1] == 8


@pytest.mark.parametrize("stop_after", [1, 3, 8], ids=["random poses", "first search", "last search"])
def test_resuming_gives_the_poses_of_a_run_that_was_not_stopped(finished, particles, tmp_path, stop_after):
    """Also from the last epoch with search, where the poses exist in the checkpoint alone."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= stop_after

    with pytest.raises(Stopped):
        abinit(particles, QUICK, FINAL, tmp_path / "run", device="cpu", stop_requested=stop)
    run = abinit(particles, QUICK, FINAL, tmp_path / "run", device="cpu", resume=True)
    whole = open_run(finished)
    assert torch.equal(run.pose.rotation, whole.pose.rotation)
    assert torch.equal(run.pose.shift, whole.pose.shift)
    np.testing.assert_array_equal(run.latents(), whole.latents())


def test_a_run_stopped_after_its_search_keeps_the_poses_found(finished, particles, tmp_path):
    """Resuming in the training that follows must not begin with poses of its own."""
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 9  # three chunks in each of three epochs

    with pytest.raises(Stopped):
        abinit(particles, QUICK, FINAL, tmp_path / "run", device="cpu", stop_requested=stop)
    assert (tmp_path / "run" / SEARCH / "particles.star").exists()
    run = abinit(particles, QUICK, FINAL, tmp_path / "run", device="cpu", resume=True)
    assert torch.equal(run.pose.rotation, open_run(finished).pose.rotation)
    np.testing.assert_array_equal(run.latents(), open_run(finished).latents())


def test_the_poses_found_are_those_that_backprojection_reads(finished):
    """One unit everywhere: the map of the run's star file is the run's consensus."""
    read = read_particles(finished / "particles.star")
    run = open_run(finished)
    assert torch.equal(read.require_pose().shift, run.pose.shift)
    limit = 1.5 * np.sqrt(2) * read.pixel_size[0]
    assert float(read.require_pose().shift.norm(dim=1).max()) < 3 * limit
    map_ = backproject_particles(read, device="cpu").map.flatten()
    from cryoatlas.io.mrc import read_volume

    consensus = torch.from_numpy(read_volume(finished / "volumes" / "consensus.mrc").array).flatten()
    assert float(torch.corrcoef(torch.stack([map_, consensus]))[0, 1]) > 0.95


def test_a_training_goes_on_from_the_poses_of_a_run_as_they_are(finished, tmp_path):
    """Poses of a run are those of any star file: no step has a unit or a file of its own."""
    from cryoatlas.recipes.train import train

    particles = read_particles(finished / "particles.star")
    run = train(particles, FINAL, tmp_path / "again", device="cpu")
    first = open_run(finished).pose
    torch.testing.assert_close(run.pose.rotation, first.rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(run.pose.shift, first.shift, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["search/volumes/network.mrc", "volumes/consensus.mrc"])
def test_maps_of_a_run_have_all_their_sections(finished, name):
    """Means of sections along z vary as those along x and y do: no axis of the transform was lost."""
    from cryoatlas.io.mrc import read_volume

    volume = read_volume(finished / name).array
    spread = [float(np.ptp(volume.mean(tuple({0, 1, 2} - {axis})))) for axis in range(3)]
    assert min(spread) > max(spread) / 4


def test_other_options_are_refused_when_resuming(finished, particles):
    other = replace(QUICK, search=replace(QUICK.search, keep=3))
    with pytest.raises(ConfigError, match="search"):
        abinit(particles, other, FINAL, finished, device="cpu", resume=True)


def test_a_folder_in_use_is_left_alone(finished, particles):
    with pytest.raises(OutputError, match=r"run"):
        abinit(particles, QUICK, FINAL, finished, device="cpu")


def test_images_of_several_pixel_sizes_are_sent_to_prepare(particles, tmp_path):
    mixed = particles.pixel_size.clone()
    mixed[::2] *= 1.1
    with pytest.raises(MetadataError, match="prepare"):
        abinit(replace(particles, pixel_size=mixed), QUICK, FINAL, tmp_path / "run", device="cpu")


def test_the_paper_s_recipe_runs(particles, tmp_path):
    config = abinit_recipe("paper")
    config = replace(
        config,
        train=replace(config.train, epochs=2, batch_size=16),
        search=replace(config.search, subdivisions=1, band_start=4.0, shift_extent_px=1.0, shift_points=1),
        chunk=16,
    )
    final = replace(recipe("paper", latent=0), epochs=1)
    run = abinit(particles[:32], config, final, tmp_path / "run", device="cpu")
    assert run.latent_size == 0


def test_the_known_band_ends_where_half_maps_disagree():
    fsc = torch.tensor([1.0, 1.0, 0.9, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1, 0.2, 0.0])
    assert known_band(fsc) == 10
    assert known_band(torch.ones(13)) == 12
    assert known_band(torch.zeros(13)) == 8


@pytest.mark.slow
def test_poses_of_a_rigid_body_are_found_from_nothing(tmp_path):
    """1,500 images of 32 px at SNR 1, 1,600 steps: the middle image ends within 5° of its true pose."""
    from cryoatlas.analysis.pose_error import compare_poses

    simulate(SimulationConfig("homogeneous", images=1500, box=32, snr=1.0, seed=2), tmp_path / "set")
    particles = read_particles(tmp_path / "set" / "particles.star")
    config = AbinitConfig()
    config = replace(
        config,
        train=replace(config.train, epochs=search_epochs(1500), batch_size=16, seed=1),
        search=replace(config.search, shift_extent_px=2.5),
        chunk=64,
    )
    posed = search_poses(particles, config, tmp_path / "search", torch.device("cpu"))
    true = read_particles(tmp_path / "set" / "truth" / "particles.star").require_pose()
    errors = compare_poses(posed.require_pose(), true, float(particles.pixel_size[0])).run
    assert errors.median_rotation_deg < 5
