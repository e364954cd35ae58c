"""Damaged run folders are refused by the file that is damaged, with what to do."""

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest

from cryoatlas.errors import CryoAtlasError, FormatError
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.run import open_run
from cryoatlas.recipes.train import train
from cryoatlas.training.config import TrainConfig


@pytest.fixture
def folder(simulated, tmp_path) -> Path:
    particles = read_particles(simulated / "truth" / "particles.star")[slice(8)]
    sizes = {"encoder": EncoderConfig(layers=0, width=4), "decoder": DecoderConfig(layers=0, width=4)}
    train(particles, TrainConfig(latent=1, epochs=1, **sizes), tmp_path / "run", device="cpu")
    return tmp_path / "run"


def test_a_log_whose_last_line_was_not_finished_names_the_line(folder):
    log = folder / "log.jsonl"
    count = len(log.read_text().splitlines())
    log.write_bytes(log.read_bytes() + b'{"event": "epo')
    with pytest.raises(FormatError, match=rf"line {count + 1} of .*log\.jsonl is damaged"):
        open_run(folder).log()


def test_latents_that_cannot_be_read_are_named(folder):
    path = folder / "latents.npz"
    whole = path.read_bytes()
    np.savez(path, z=np.zeros((8, 1)))
    with pytest.raises(FormatError, match=r"latents\.npz is damaged \(it lacks contrast, loss, z_std\)"):
        open_run(folder).latents()
    for content in (b"", b"hello", whole[:-40], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"latents\.npz is damaged .* --resume"):
            open_run(folder).latents()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "damaged"),
        (b"", r"\[run\] lacks verb"),
        (b"run = 5\n", "damaged"),
        (b"[run]\nverb = 'train'\n[input]\nimages = 8\n", r"\[input\] lacks box_size, pixel_size, invert"),
    ],
)
def test_a_configuration_that_says_too_little_is_refused(folder, content, message):
    (folder / "config.toml").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_run(folder)


@pytest.mark.parametrize("name", ["log.jsonl", "latents.npz", "particles.star", "checkpoints"])
def test_random_damage_ends_in_our_errors(folder, name):
    """Forty times some bytes are overwritten, and the end is cut off."""
    path = folder / name if name != "checkpoints" else next((folder / name).glob("*.safetensors"))
    whole, chance = path.read_bytes(), random.Random(1)
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(chance.randint(0, 5)):
            content[chance.randrange(min(len(content), 2000))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        run = open_run(folder)
        for look in (
            run.latents,
            run.log,
            lambda run=run: run.pose,
            lambda run=run: run.volume(np.zeros(1, np.float32)),
        ):
            with contextlib.suppress(CryoAtlasError):
                look()
