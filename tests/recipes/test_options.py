"""Every option that is offered works: all numbers away from their defaults, all encoders and encodings."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from cryoatlas.cli import abinit as abinit_verb
from cryoatlas.cli import app
from cryoatlas.cli import train as train_verb
from cryoatlas.models.config import DecoderConfig, EncoderConfig, EncoderInput, Encoding
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.poses.config import SearchConfig
from cryoatlas.recipes.abinit import search_poses
from cryoatlas.recipes.abinit_config import AbinitConfig
from cryoatlas.recipes.run import open_run
from cryoatlas.recipes.train import train
from cryoatlas.training.config import TrainConfig

TRAIN_OPTIONS = {
    "epochs": 2,
    "batch_size": 7,
    "learning_rate": 2e-4,
    "kl_weight": 3.5,
    "marching": 0.9,
    "dense_radius": 0.6,
    "layers": 0,
    "width": 9,
    "seed": 5,
}
ABINIT_OPTIONS = {
    "search_epochs": 2,
    "keep": 1,
    "shift_extent": 2.5,
    "polish": 1,
    "epochs": 2,
    "seed": 5,
}
SEARCH_OPTIONS = {
    "base_level": 0,
    "subdivisions": 0,
    "band_start": 3.0,
    "band_end": 6.0,
    "shift_extent_px": 0.0,
    "shift_points": 1,
    "slack": 0.3,
    "keep": 0,
    "refine": 0,
}


@pytest.fixture(scope="module")
def few(simulated: Path) -> Path:
    """A file of the first 40 images, with poses."""
    from cryoatlas.particles.write import write_particles

    path = simulated / "truth" / "few.star"
    write_particles(path, read_particles(simulated / "truth" / "particles.star")[slice(40)])
    return path


def numeric_options(verb: Callable) -> set[str]:
    """Names of its parameters that are numbers and may be left out."""
    return {
        name
        for name, parameter in inspect.signature(verb).parameters.items()
        if parameter.default is not parameter.empty
        and {int, float} & set(get_args(parameter.annotation) or (parameter.annotation,))
    }


def type_in(verb: str, star: Path, out: Path, options: dict[str, object]) -> int:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return app.run([verb, str(star), "--latent=1", "--device=cpu", f"--out={out}", *words])


def test_no_numeric_option_is_left_out_here():
    assert numeric_options(train_verb.train) == set(TRAIN_OPTIONS)
    # The tilt's angle comes with a file: tests/recipes/test_tilt_pairs.py.
    assert numeric_options(abinit_verb.abinit) == set(ABINIT_OPTIONS) | {"tilt_angle"}
    assert {field.name for field in dataclasses.fields(SearchConfig)} == set(SEARCH_OPTIONS)


@pytest.mark.parametrize("name", TRAIN_OPTIONS)
def test_training_runs_with_each_number_away_from_its_default(few, tmp_path, name):
    options = {"epochs": 1, "layers": 1, "width": 8} | {name: TRAIN_OPTIONS[name]}
    assert type_in("train", few, tmp_path / "run", options) == 0
    run = open_run(tmp_path / "run")
    assert np.isfinite(run.latents()).all()
    kept = run.config["train"] | run.config["train"]["decoder"]
    assert kept[name] == TRAIN_OPTIONS[name]


def test_abinit_runs_with_all_numbers_away_from_their_defaults(few, tmp_path):
    assert type_in("abinit", few, tmp_path / "run", ABINIT_OPTIONS) == 0
    run = open_run(tmp_path / "run")
    assert run.pose is not None
    assert torch.isfinite(run.pose.rotation).all()
    assert np.isfinite(run.latents()).all()


@pytest.mark.parametrize("name", SEARCH_OPTIONS)
def test_the_search_runs_with_each_number_away_from_its_default(few, tmp_path, name):
    network = TrainConfig(
        latent=0,
        epochs=2,
        batch_size=8,
        contrast=False,
        decoder=DecoderConfig(layers=1, width=8, consensus=False),
    )
    quick = SearchConfig(
        base_level=1, subdivisions=1, band_start=4.0, shift_extent_px=1.0, shift_points=2, keep=2, refine=1
    )
    assert getattr(quick, name) != SEARCH_OPTIONS[name]
    search = dataclasses.replace(quick, **{name: SEARCH_OPTIONS[name]})
    config = AbinitConfig(train=network, search=search, chunk=8, polish=0)
    particles = read_particles(few)[slice(8)]
    found = search_poses(particles.with_pose(None), config, tmp_path / "search", torch.device("cpu"))
    pose = found.require_pose()
    identity = torch.eye(3, dtype=torch.float64).expand(8, 3, 3)
    torch.testing.assert_close(pose.rotation @ pose.rotation.mT, identity, rtol=0, atol=1e-6)
    # Gauss–Newton steps may lead a little beyond the grid of shifts.
    limit = (search.shift_extent_px + 2) * float(particles.pixel_size[0]) * math.sqrt(2)
    assert pose.shift.norm(dim=1).max() <= limit


@pytest.mark.parametrize("input_", get_args(EncoderInput))
@pytest.mark.parametrize("encoding", get_args(Encoding))
@pytest.mark.parametrize("friedel", [True, False])
def test_every_encoder_and_every_encoding_trains(few, tmp_path, input_, encoding, friedel):
    """The networks learn: the encoder's first layer moves, and the loss of the same images falls."""
    config = TrainConfig(
        latent=2,
        epochs=4,
        batch_size=8,
        marching=0.0,
        kl_warm_up=0.0,
        noise="white",
        encoder=EncoderConfig(layers=1, width=16, input=input_),
        decoder=DecoderConfig(layers=1, width=16, encoding=encoding, friedel=friedel, consensus=False),
    )
    run = train(read_particles(few), config, tmp_path / "run", device="cpu")
    losses = [entry["loss"] for entry in run.log() if entry["event"] == "epoch"]
    assert losses[-1] < losses[0]
    assert np.isfinite(run.latents()).all()
    assert np.ptp(run.latents(), axis=0).min() > 0
