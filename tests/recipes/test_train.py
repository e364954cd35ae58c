"""Training from particles to a run folder: what it writes, that it resumes exactly and finds the motion."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError, DivergedError, FormatError, InputError, MetadataError, OutputError
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.particles import order as orders
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.source import Source, checksum, source_of, source_rows
from cryoatlas.recipes.presets import RECIPES, one_map, recipe
from cryoatlas.recipes.run import open_run
from cryoatlas.recipes.train import train
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.loop import Stopped


def small(**changes) -> TrainConfig:
    sizes = {"encoder": EncoderConfig(layers=1, width=16), "decoder": DecoderConfig(layers=1, width=16)}
    return TrainConfig(**{"latent": 1, "epochs": 2, "batch_size": 32, **sizes, **changes})


class StopAfter:
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def weights(run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.vae.parameters()])


def test_a_run_folder_holds_what_it_promises(particles, tmp_path):
    run = train(particles, small(latent=2), tmp_path / "run")
    assert run.latents().shape == (240, 2)
    assert run.latent_std().shape == (240, 2)
    assert (run.latent_std() > 0).all()
    assert run.losses().shape == (240,)
    assert run.volume(run.latents()[0]).shape == (16, 16, 16)
    assert sum(1 for _ in run.volumes(run.latents()[:3])) == 3
    events = [entry["event"] for entry in run.log()]
    assert events == ["consensus", "start", "epoch", "epoch", "end"]
    epoch = run.log()[2]
    assert epoch["loss"] == pytest.approx(epoch["misfit"] + epoch["beta"] * epoch["kl"])
    assert {p.name for p in run.path.iterdir()} == {
        "config.toml",
        "log.jsonl",
        "particles.star",
        "source.toml",
        "latents.npz",
        "checkpoints",
        "volumes",
    }
    names = {p.suffix for p in run.path.rglob("*") if p.is_file()}
    assert names == {".toml", ".jsonl", ".star", ".npz", ".safetensors", ".json", ".mrc"}


def test_the_runs_star_file_is_the_input_with_latents(particles, tmp_path):
    run = train(particles, small(epochs=1), tmp_path / "run")
    table = run.particles.tables.particles
    np.testing.assert_allclose(table.number("cryoatlasLatent0"), run.latents()[:, 0], rtol=1e-6)
    torch.testing.assert_close(run.pose.rotation, particles.pose.rotation)
    torch.testing.assert_close(run.particles.images([5]), particles.images([5]))


def test_rows_lead_back_through_two_runs_to_the_users_file(particles, tmp_path):
    first = train(particles[[7, 3, 100, 5]], small(latent=2, epochs=1, batch_size=4), tmp_path / "first")
    chosen = first.particles[[3, 1]]
    second = train(chosen, small(latent=1, epochs=1, batch_size=2), tmp_path / "second")
    tables = second.particles.tables
    assert source_rows(tables).tolist() == [6, 4]
    assert source_of(tables) == Source(particles.path.absolute(), checksum(particles.path))
    assert second.config["input"]["source"] == str(particles.path.absolute())
    assert second.config["input"]["source_sha256"] == checksum(particles.path)
    # The first run had a second latent; it is not one of this run.
    assert not tables.particles.has("cryoatlasLatent1")


@pytest.mark.parametrize("steps", [3, 8, 11])
def test_a_stopped_run_resumes_bit_for_bit(particles, tmp_path, steps):
    """Stopped in the first epoch, at its end, or in the second: the weights end the same."""
    whole = train(particles, small(), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(particles, small(), tmp_path / "run", stop_requested=StopAfter(steps))
    resumed = train(particles, small(), tmp_path / "run", resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    np.testing.assert_array_equal(whole.latents(), resumed.latents())


def test_the_same_seed_gives_the_same_run_and_another_seed_another(particles, tmp_path):
    first, again = (train(particles, small(epochs=1), tmp_path / name) for name in ("a", "b"))
    other = train(particles, small(epochs=1, seed=1), tmp_path / "c")
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_resuming_with_other_options_names_them(particles, tmp_path):
    train(particles, small(epochs=1), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.001 then, 0\.5 now"):
        train(particles, small(epochs=1, learning_rate=0.5), tmp_path / "run", resume=True)


def test_resuming_with_other_particles_is_refused(particles, simulated, tmp_path):
    train(particles, small(epochs=1), tmp_path / "run")
    star = simulated / "truth" / "fewer.star"
    lines = (simulated / "truth" / "particles.star").read_text().rstrip().splitlines()
    star.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ConfigError, match="images: 240 then, 239 now"):
        train(read_particles(star), small(epochs=1), tmp_path / "run", resume=True)


def test_resuming_a_finished_run_changes_nothing(particles, tmp_path):
    first = train(particles, small(epochs=1), tmp_path / "run")
    again = train(particles, small(epochs=1), tmp_path / "run", resume=True)
    assert torch.equal(weights(first), weights(again))


def test_a_folder_with_results_is_not_overwritten_unasked(particles, tmp_path):
    run = train(particles, small(epochs=1), tmp_path / "run")
    before = (run.path / "latents.npz").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        train(particles, small(epochs=1), tmp_path / "run")
    assert (run.path / "latents.npz").read_bytes() == before
    train(particles, small(epochs=1), tmp_path / "run", overwrite=True)


def test_particles_without_poses_are_refused_before_anything_is_written(simulated, tmp_path):
    with pytest.raises(MetadataError, match="rlnAngleRot"):
        train(read_particles(simulated / "particles.star"), small(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_says_so(particles, tmp_path):
    with pytest.raises(Stopped):
        train(particles, small(), tmp_path / "run", stop_requested=StopAfter(2))
    with pytest.raises(InputError, match="--resume"):
        open_run(tmp_path / "run").latents()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.toml"):
        open_run(tmp_path)


def test_a_damaged_checkpoint_is_named(particles, tmp_path):
    run = train(particles, small(epochs=1), tmp_path / "run")
    newest = sorted((run.path / "checkpoints").glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"epoch_0001\.json cannot be read"):
        open_run(run.path).volume(np.zeros(1, np.float32))


def test_a_checkpoint_holds_no_pickle(particles, tmp_path):
    run = train(particles, small(epochs=1), tmp_path / "run")
    newest = sorted((run.path / "checkpoints").glob("*.safetensors"))[-1]
    header_size = int.from_bytes(newest.read_bytes()[:8], "little")
    assert "vae.noise_variance" in json.loads(newest.read_bytes()[8 : 8 + header_size])


def test_a_disk_that_fills_up_during_training_is_explained_and_the_run_can_go_on(
    particles, tmp_path, monkeypatch
):
    """The disk refuses the second checkpoint; the first one stays good."""
    whole = train(particles, small(), tmp_path / "whole")
    real, refused = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        if "epoch_0002" in path.name:
            refused.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="disk is full"):
            train(particles, small(), tmp_path / "run")
    assert refused
    assert [p.name for p in (tmp_path / "run/checkpoints").glob("*.safetensors")] == [
        "epoch_0001.safetensors"
    ]
    resumed = train(particles, small(), tmp_path / "run", resume=True)
    assert torch.equal(weights(whole), weights(resumed))


def test_divergence_is_an_error_with_the_remedy(particles, tmp_path):
    with pytest.raises(DivergedError, match="lower --learning-rate"):
        train(particles, small(learning_rate=1e30, warm_up=-1.0, epochs=3), tmp_path / "run")


@pytest.mark.parametrize("latent", [0, 1, 3])
@pytest.mark.parametrize("name", ["network", "paper", "paper-noisy"])
def test_every_network_trains_with_any_latent(particles, tmp_path, name, latent):
    config = recipe(name, latent=latent)
    sizes = {"layers": 1, "width": 8}
    config = dataclasses.replace(
        config,
        epochs=1,
        encoder=dataclasses.replace(config.encoder, **sizes),
        decoder=dataclasses.replace(config.decoder, **sizes),
    )
    run = train(particles, config, tmp_path / "run")
    assert run.latents().shape == (240, latent)
    assert np.isfinite(run.volume(run.latents()[0])).all()


def test_the_default_is_the_subspace_engine_and_for_a_single_volume_one_map():
    assert recipe("default", latent=8) == recipe("subspace", latent=8)
    assert recipe("default", latent=0) == one_map()
    assert set(RECIPES) == {"default", "subspace", "network", "paper", "paper-noisy"}


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(ConfigError, match="paper-noisy"):
        recipe("papr", latent=1)


def test_an_unknown_device_is_refused(particles, tmp_path):
    with pytest.raises(ConfigError, match="abacus"):
        train(particles, small(), tmp_path / "run", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees 0 CUDA devices"):
            train(particles, small(), tmp_path / "run", device="cuda")


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_run_of_a_cpu(particles, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    cpu, gpu = (train(particles, small(), tmp_path / name, device=name) for name in ("cpu", "cuda"))
    # bfloat16 keeps 8 bits; over 16 steps the losses stay within a percent.
    assert gpu.log()[-2]["loss"] == pytest.approx(cpu.log()[-2]["loss"], rel=0.01)


def test_log_and_config_are_plain_text(particles, tmp_path):
    run = train(particles, small(epochs=1), tmp_path / "run")
    assert run.config["train"]["decoder"]["width"] == 16
    assert run.config["input"]["images"] == 240
    assert Path(run.config["input"]["particles"]).name == "particles.star"


@pytest.mark.parametrize("steps", [3, 11])
def test_a_run_that_streams_in_chunks_resumes_bit_for_bit(particles, tmp_path, monkeypatch, steps):
    """240 images in chunks of 20 through a buffer of 3."""
    monkeypatch.setattr(orders, "CHUNK_BYTES", 20 * 4 * 16**2)
    monkeypatch.setattr(orders, "BUFFER_CHUNKS", 3)
    whole = train(particles, small(), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(particles, small(), tmp_path / "run", stop_requested=StopAfter(steps))
    resumed = train(particles, small(), tmp_path / "run", resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(whole.vae.noise_variance, resumed.vae.noise_variance)
    assert torch.equal(whole.vae.contrast_variance, resumed.vae.contrast_variance)
    np.testing.assert_array_equal(whole.latents(), resumed.latents())
    np.testing.assert_array_equal(whole.contrasts(), resumed.contrasts())
