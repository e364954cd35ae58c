"""Every option that is offered works: all numbers away from their defaults, all encoders and encodings."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from tests.recipes.small_search import small_paper, small_subspace, unposed

from cryoatlas.cli import abinit as abinit_verb
from cryoatlas.cli import app
from cryoatlas.cli import train as train_verb
from cryoatlas.errors import ConfigError
from cryoatlas.geometry.pose import Pose
from cryoatlas.models.config import DecoderConfig, EncoderConfig, EncoderInput, Encoding
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.poses.config import SearchConfig
from cryoatlas.recipes.abinit import SEARCH, search_poses
from cryoatlas.recipes.abinit_config import NetworkConfig, SubspaceConfig, abinit_recipe, components_for
from cryoatlas.recipes.run import open_run
from cryoatlas.recipes.train import train
from cryoatlas.subspace.config import BootstrapConfig, StatesConfig
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
ABINIT_OPTIONS = {"shift_extent": 0.8, "epochs": 2, "seed": 5}
"""Of every recipe."""
SUBSPACE_OPTIONS = {"starts": 1, "contenders": 1, "components": 1, "rounds": 1}
NETWORK_OPTIONS = {"search_epochs": 2, "keep": 1}
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
    """Names of its options that are numbers and may be left out, those of groups included."""
    parameters = inspect.signature(verb).parameters
    annotations = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
    for name, group in list(annotations.items()):
        if dataclasses.is_dataclass(group):
            annotations |= get_type_hints(annotations.pop(name))
    return {
        name
        for name, annotation in annotations.items()
        if {int, float} & set(get_args(annotation) or (annotation,))
    }


def type_in(verb: str, star: Path, out: Path, options: dict[str, object]) -> int:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return app.run([verb, str(star), "--latent=1", "--device=cpu", f"--out={out}", *words])


def test_no_numeric_option_is_left_out_here():
    # `components` is an option of states alone; the tilt's angle comes with a file: test_tilt_pairs.py.
    assert numeric_options(train_verb.train) == {*TRAIN_OPTIONS, "components", "tilt_angle"}
    own = {*ABINIT_OPTIONS, *SUBSPACE_OPTIONS, *NETWORK_OPTIONS}
    assert numeric_options(abinit_verb.abinit) == own | {"tilt_angle"}
    assert {field.name for field in dataclasses.fields(SearchConfig)} == set(SEARCH_OPTIONS)


@pytest.mark.parametrize("name", TRAIN_OPTIONS)
def test_training_runs_with_each_number_away_from_its_default(few, tmp_path, name):
    options = {"recipe": "network", "epochs": 1, "layers": 1, "width": 8} | {name: TRAIN_OPTIONS[name]}
    assert type_in("train", few, tmp_path / "run", options) == 0
    run = open_run(tmp_path / "run")
    assert np.isfinite(run.latents()).all()
    kept = run.config["train"] | run.config["train"]["decoder"]
    assert kept[name] == TRAIN_OPTIONS[name]


@pytest.fixture
def quick_recipes(monkeypatch):
    """The recipes cut small where the command line has no option for it."""

    def subspace(*, latent: int, pairs: bool):
        config = small_subspace(components_for(latent))
        return replace(config, bootstrap=replace(config.bootstrap, shift_points=1))

    recipes = {"default": subspace, "paper": lambda *, latent, pairs: small_paper(latent)}
    monkeypatch.setattr("cryoatlas.recipes.abinit_config.ABINIT_RECIPES", recipes)


@pytest.mark.parametrize(
    ("name", "own"), [("default", SUBSPACE_OPTIONS), ("paper", NETWORK_OPTIONS)], ids=["default", "paper"]
)
@pytest.mark.usefixtures("quick_recipes")
def test_abinit_runs_with_all_numbers_away_from_their_defaults(few, tmp_path, name, own):
    """And the search's folder remembers each of them."""
    options = ABINIT_OPTIONS | own
    assert type_in("abinit", few, tmp_path / "run", options | {"recipe": name}) == 0
    run = open_run(tmp_path / "run")
    assert run.pose is not None
    assert torch.isfinite(run.pose.rotation).all()
    assert np.isfinite(run.latents()).all()
    assert run.config["train"]["epochs"] == options["epochs"]
    kept = open_run(tmp_path / "run" / SEARCH).config
    search = kept["search"]
    found = kept.get("train", {}) | search | search.get("search", {}) | search.get("bootstrap", {})
    assert found["seed"] == run.config["train"]["seed"] == options["seed"]
    assert found["shift_extent_px"] == options["shift_extent"]
    if name == "default":
        assert {option: found[option] for option in own} == own
    else:
        assert (found["epochs"], found["keep"]) == (own["search_epochs"], own["keep"])


@pytest.mark.parametrize("name", ["default", "paper"])
def test_abinit_refuses_the_other_recipe_s_options(few, tmp_path, capsys, name):
    """By name, one at a time, before anything is written."""
    others = NETWORK_OPTIONS if name == "default" else SUBSPACE_OPTIONS
    for option, value in others.items():
        assert type_in("abinit", few, tmp_path / "run", {"recipe": name, option: value}) == 2
        error = capsys.readouterr().err
        assert f"--{option.replace('_', '-')} has no meaning for --recipe {name}: leave it out" in error
        assert "Traceback" not in error
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("starts", 0, "starts must be 1 or more"),
        ("contenders", 0, "contenders must be 1 or more"),
        ("components", -1, "components must be 0 or more"),
        ("rounds", -1, "rounds must be 0 or more"),
        ("shift_extent", -1.0, "shift_extent_px must be 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(few, tmp_path, capsys, option, value, message):
    assert type_in("abinit", few, tmp_path / "run", {option: value}) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize("latent", [0, 2])
def test_a_recipe_s_latent_reaches_its_search(name, latent):
    config = abinit_recipe(name, latent=latent)
    if isinstance(config, NetworkConfig):
        assert config.train.latent == latent
    else:
        assert config.bootstrap.components == components_for(latent)


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match="no recipe 'best'; choose one of default, paper"):
        abinit_recipe("best", latent=0)


BOOTSTRAP_OPTIONS = {
    "starts": 1,
    "steps": 3,
    "batch_size": 9,
    "band_start": 2.0,
    "band_end": 4.5,
    "fine_band": 2.5,
    "shift_points": 1,
    "memory": 0.0,
    "temper_start": 0.5,
    "components": 0,
    "contenders": 1,
    "component_steps": 1,
    "component_start": 0.5,
    "component_share": 1.0,
    "held_out": 3,
}
ROUND_OPTIONS = {
    "shift_extent_px": 0.0,
    "rounds": 1,
    "search_every": 1,
    "draws": 2,
    "loosening": 1.0,
    "chunk": 7,
    "seed": 3,
}


def test_no_number_of_the_subspace_engine_is_left_out_here():
    assert {field.name for field in dataclasses.fields(BootstrapConfig)} == set(BOOTSTRAP_OPTIONS)
    fields = {field.name for field in dataclasses.fields(SubspaceConfig)} - {"bootstrap"}
    assert fields == set(ROUND_OPTIONS)


@pytest.mark.parametrize("name", [*BOOTSTRAP_OPTIONS, *ROUND_OPTIONS])
def test_the_subspace_engine_runs_with_each_number_away_from_its_default(few, tmp_path, name):
    small = small_subspace()
    config = replace(small, bootstrap=replace(small.bootstrap, starts=2, steps=2), rounds=0)
    if name in BOOTSTRAP_OPTIONS:
        assert getattr(config.bootstrap, name) != BOOTSTRAP_OPTIONS[name]
        config = replace(config, bootstrap=replace(config.bootstrap, **{name: BOOTSTRAP_OPTIONS[name]}))
    else:
        assert getattr(config, name) != ROUND_OPTIONS[name]
        config = replace(config, **{name: ROUND_OPTIONS[name]})
    particles = read_particles(few)[slice(20)]
    found = search_poses(unposed(particles), config, tmp_path / "search", torch.device("cpu"))
    check_poses(found.require_pose(), config.shift_extent_px, float(particles.pixel_size[0]))


def check_poses(pose: Pose, extent_px: float, pixel_size: float) -> None:
    """Rotations are rotations, shifts within reach."""
    identity = torch.eye(3, dtype=torch.float64).expand(len(pose), 3, 3)
    torch.testing.assert_close(pose.rotation @ pose.rotation.mT, identity, rtol=0, atol=1e-6)
    # Gauss–Newton steps may lead a little beyond the grid of shifts.
    assert pose.shift.norm(dim=1).max() <= (extent_px + 2) * pixel_size * math.sqrt(2)


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
    config = NetworkConfig(train=network, search=search, chunk=8)
    particles = read_particles(few)[slice(8)]
    found = search_poses(unposed(particles), config, tmp_path / "search", torch.device("cpu"))
    check_poses(found.require_pose(), search.shift_extent_px, float(particles.pixel_size[0]))


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


STATES_OPTIONS = {
    "latent": 2,
    "components": 2,
    "epochs": 2,
    "band_start": 3.0,
    "band_end": 5.0,
    "component_start": 0.3,
    "component_share": 1.0,
    "settled": 0,
    "curved": False,
    "bandwidths": (0.5, 1.5),
    "judged_at": 1,
    "chunk": 7,
    "seed": 3,
}


def test_no_number_of_states_is_left_out_here():
    assert {field.name for field in dataclasses.fields(StatesConfig)} == set(STATES_OPTIONS)


@pytest.mark.parametrize("name", STATES_OPTIONS)
def test_states_are_made_with_each_number_away_from_its_default(few, tmp_path, name):
    config = replace(
        StatesConfig(components=2, epochs=3, judged_at=2, band_start=4.0), **{name: STATES_OPTIONS[name]}
    )
    run = train(read_particles(few), config, tmp_path / "run", device="cpu")
    assert run.latents().shape == (40, config.latent)
    assert np.isfinite(run.volume(run.latents()[0])).all()


def test_components_of_states_are_an_option_of_the_command(few, tmp_path):
    words = {"recipe": "subspace", "components": 2, "epochs": 2}
    assert type_in("train", few, tmp_path / "run", words) == 0
    assert open_run(tmp_path / "run").config["train"]["components"] == 2
