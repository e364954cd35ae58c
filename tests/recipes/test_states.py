"""States without a network, from particles to a run folder: what is written, resumed, and made of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.recipes.small_search import StopAfter, small_subspace

from cryoatlas.analysis.score import score_run
from cryoatlas.analysis.truth import read_truth
from cryoatlas.cli import app
from cryoatlas.errors import ConfigError, FormatError, InputError, MetadataError
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.progress import Interrupted
from cryoatlas.recipes.abinit import SEARCH, abinit
from cryoatlas.recipes.abinit_config import final_recipe
from cryoatlas.recipes.presets import components_for, subspace
from cryoatlas.recipes.run import Run, open_run
from cryoatlas.recipes.train import train
from cryoatlas.recipes.volumes import KernelVolumes, LinearVolumes, NetworkVolumes, Volumes
from cryoatlas.subspace.config import StatesConfig
from cryoatlas.subspace.states import StateSums

SMALL = StatesConfig(latent=1, components=2, epochs=3, settled=1, band_start=4.0, judged_at=3, chunk=64)


@pytest.fixture(scope="module")
def found(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 240 images of 16 px."""
    particles = read_particles(simulated / "truth" / "particles.star")
    return train(particles, SMALL, tmp_path_factory.mktemp("states") / "run", device="cpu")


def test_a_run_folder_holds_what_it_promises(found):
    assert found.latents().shape == found.latent_std().shape == (240, 1)
    assert found.latent_covariance().shape == (240, 1, 1)
    np.testing.assert_allclose(found.latent_covariance()[:, 0, 0] ** 0.5, found.latent_std()[:, 0], rtol=1e-5)
    assert np.isfinite(found.losses()).all()
    assert (found.contrasts() == 1).all()
    assert found.engine == "subspace"
    events = [entry["event"] for entry in found.log()]
    assert events == ["consensus", "start", "epoch", "epoch", "epoch", "kernel", "end"]
    names = {path.suffix for path in found.path.rglob("*") if path.is_file()}
    assert names == {".toml", ".jsonl", ".star", ".npz", ".safetensors", ".mrc"}
    table = found.particles.tables.particles
    np.testing.assert_allclose(table.number("cryoatlasLatent0"), found.latents()[:, 0], rtol=1e-5, atol=1e-6)


def test_volumes_of_several_z_in_one_pass_are_those_of_each(found):
    z = found.latents()[[3, 50, 120]]
    together = list(found.volumes(z))
    for row, volume in zip(z, together, strict=True):
        alone = found.volume(row)
        assert alone.shape == (16, 16, 16)
        np.testing.assert_allclose(alone, volume, atol=1e-5 * np.abs(volume).max())


def test_states_that_do_not_fit_one_pass_take_more(found, monkeypatch):
    z = found.latents()[[3, 50, 120]]
    together = list(found.volumes(z))
    monkeypatch.setattr(StateSums, "at_once", staticmethod(lambda box_size: 2))
    for one, other in zip(found.volumes(z), together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_states_come_with_half_maps_and_their_agreement(found):
    (state,) = found.states(found.latents()[[7]])
    assert 1 < state.images <= 240
    assert float(state.fsc[1:3].min()) > 0.8
    first, second = state.half_maps
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_both_engines_give_volumes_behind_one_protocol(found):
    for kind in (NetworkVolumes, LinearVolumes, KernelVolumes):
        assert isinstance(kind.__new__(kind), Volumes)
    assert isinstance(found._source, KernelVolumes)
    with pytest.raises(InputError, match="has no networks"):
        _ = found.vae


@pytest.mark.parametrize("questions", [2, 7, 11])
def test_a_stopped_run_resumes_bit_for_bit(particles, found, tmp_path, questions):
    """Stopped in the first pass, in the second, or in the third; four batches make one."""
    with pytest.raises(Interrupted, match="pass"):
        train(particles, SMALL, tmp_path / "run", device="cpu", stop_requested=StopAfter(questions))
    resumed = train(particles, SMALL, tmp_path / "run", device="cpu", resume=True)
    np.testing.assert_array_equal(resumed.latents(), found.latents())
    np.testing.assert_array_equal(resumed.volume(np.zeros(1)), found.volume(np.zeros(1)))


def test_resuming_a_finished_run_changes_nothing(particles, found, tmp_path):
    shutil.copytree(found.path, tmp_path / "run")
    again = train(particles, SMALL, tmp_path / "run", device="cpu", resume=True)
    np.testing.assert_allclose(again.latents(), found.latents(), atol=1e-4)


def test_resuming_with_other_options_names_them(particles, found):
    with pytest.raises(ConfigError, match="components: 2 then, 3 now"):
        train(particles, replace(SMALL, components=3), found.path, resume=True)
    with pytest.raises(ConfigError, match="epochs"):
        train(particles, replace(SMALL, epochs=5), found.path, resume=True)


def test_an_unfinished_run_says_so(particles, tmp_path):
    with pytest.raises(Interrupted):
        train(particles, SMALL, tmp_path / "run", device="cpu", stop_requested=StopAfter(6))
    run = open_run(tmp_path / "run")
    with pytest.raises(InputError, match="not finished"):
        run.volume(np.zeros(1))
    with pytest.raises(InputError, match="--resume"):
        run.latents()


def test_images_that_were_moved_are_missed_aloud_and_the_linear_model_needs_none(simulated, tmp_path):
    moved = tmp_path / "set"
    shutil.copytree(simulated, moved)
    particles = read_particles(moved / "truth" / "particles.star")
    run = train(particles, SMALL, tmp_path / "run", device="cpu")
    shutil.move(moved, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"made of its images.*--linear"):
        open_run(run.path).volume(np.zeros(1))
    linear = open_run(run.path).linear()
    first, second = linear.volumes(np.array([[-1.0], [1.0]]))
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 0
    assert app.run(["volumes", str(run.path), "--out", str(tmp_path / "v"), "--latent", "0", "--linear"]) == 0
    assert app.run(["volumes", str(run.path), "--out", str(tmp_path / "w"), "--latent", "0"]) == 2


def test_a_damaged_checkpoint_is_named(found, tmp_path):
    shutil.copytree(found.path, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "states.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(FormatError, match=r"states\.safetensors cannot be read"):
        open_run(tmp_path / "run").volume(np.zeros(1))


def test_scoring_works_on_such_a_run(found, simulated):
    truth = read_truth(simulated / "truth")
    score = score_run(found.latents(), found.pose, found.volumes, truth, found.pixel_size, images=4)
    assert np.isfinite(score.run.resolutions_px).all()


def test_particles_without_poses_are_refused_before_anything_is_written(simulated, tmp_path):
    with pytest.raises(MetadataError, match="rlnAngleRot"):
        train(read_particles(simulated / "particles.star"), SMALL, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("latent", [1, 2, 8])
def test_a_latent_has_enough_components(latent):
    assert subspace(latent=latent).components == max(latent, components_for(latent))


def test_a_single_volume_is_not_a_set_of_states():
    with pytest.raises(ConfigError, match="1 dimension or more"):
        subspace(latent=0)


@pytest.mark.parametrize("curved", [True, False])
def test_more_dimensions_are_read_too(particles, tmp_path, curved):
    config = replace(SMALL, latent=2, components=3, curved=curved)
    run = train(particles, config, tmp_path / "run", device="cpu")
    assert run.latents().shape == (240, 2)
    assert np.isfinite(run.volume(run.latents()[0])).all()


@pytest.mark.parametrize(
    ("option", "value"), [("--width", "8"), ("--batch-size", "4"), ("--noise", "white"), ("--kl-weight", "1")]
)
def test_options_of_networks_are_refused(simulated, tmp_path, capsys, option, value):
    words = ["train", simulated / "truth" / "particles.star", "--latent", 1, "--out", tmp_path / "run"]
    assert app.run([str(word) for word in [*words, option, value]]) == 2
    assert f"{option} has no meaning for --recipe default" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_makes_analyses_and_scores_a_run(simulated, tmp_path):
    run, star = tmp_path / "run", simulated / "truth" / "particles.star"
    made = [
        "train",
        star,
        "--latent",
        1,
        "--epochs",
        3,
        "--components",
        2,
        "--out",
        run,
    ]
    assert app.run([str(word) for word in made]) == 0
    assert open_run(run).engine == "subspace"
    assert app.run(["analyze", str(run), "--kmeans", "2", "--points", "2"]) == 0
    assert (run / "report.html").exists()
    assert app.run(["score", str(run), "--truth", str(simulated / "truth"), "--images", "2"]) == 0
    assert app.run(["volumes", str(run), "--out", str(tmp_path / "pc"), "--pc", "1", "--points", "3"]) == 0
    assert len(list((tmp_path / "pc").glob("*.mrc"))) == 3


@pytest.mark.slow
def test_abinit_may_end_with_states(particles, tmp_path):
    """The poses are those of the search, bit for bit, and a second start of a finished run keeps them."""
    config = small_subspace()
    run = abinit(particles[:96], config, SMALL, tmp_path / "run", device="cpu")
    assert run.engine == "subspace"
    assert run.latents().shape == (96, 1)
    assert np.isfinite(run.volume(run.latents()[0])).all()
    searched = open_run(run.path / SEARCH).pose
    assert searched is not None
    assert run.pose is not None
    torch.testing.assert_close(run.pose.rotation, searched.rotation)
    again = abinit(particles[:96], config, SMALL, tmp_path / "run", device="cpu", resume=True)
    np.testing.assert_allclose(again.latents(), run.latents(), atol=1e-4)


def test_the_paper_s_recipe_ends_with_its_network():
    with pytest.raises(ConfigError, match="leave --final subspace out"):
        final_recipe("paper", "subspace", latent=1)
    assert final_recipe("default", "subspace", latent=1) == subspace(latent=1)
