"""The options of an ab initio benchmark: a named recipe, and what makes it small enough for a few cores.

Shared by `abinit_homogeneous` and `abinit_linear1d`. What is left out stays the recipe's own; what was
changed is among the facts of the JSON file.
"""

import argparse
from dataclasses import replace
from typing import Any

from cryoatlas.recipes.abinit_config import AbinitConfig, NetworkConfig, SubspaceConfig, abinit_recipe
from cryoatlas.training.config import TrainConfig

SUBSPACE_OPTIONS = ("starts", "rounds")
NETWORK_OPTIONS = ("search_epochs", "layers", "width", "batch", "chunk", "learning_rate", "keep")
"""By the recipe that they change; none changes both."""


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Which recipe, and how it is scaled."""
    parser.add_argument("--recipe", default="default", choices=["default", "paper"])
    default = parser.add_argument_group("of the default recipe")
    default.add_argument("--starts", type=int, help="first maps that are grown")
    default.add_argument("--rounds", type=int, help="rounds over all images after the first search")
    paper = parser.add_argument_group("of the paper's recipe")
    paper.add_argument("--search-epochs", type=int, help="passes over the images while poses are sought")
    paper.add_argument("--layers", type=int, help="hidden layers of its networks after the first")
    paper.add_argument("--width", type=int, help="units in each layer")
    paper.add_argument("--batch", type=int, help="images in each step")
    paper.add_argument("--chunk", type=int, help="images searched against one map; at least the batch")
    paper.add_argument("--learning-rate", type=float)
    paper.add_argument("--keep", type=int, help="poses of an image that go on from grid to grid")


def recipe_facts(options: argparse.Namespace) -> dict[str, object]:
    """The recipe and what was changed of it, for the JSON file."""
    mine = SUBSPACE_OPTIONS if options.recipe == "default" else NETWORK_OPTIONS
    changed = {name: getattr(options, name) for name in mine if getattr(options, name) is not None}
    return {"recipe": options.recipe, "recipe_changed": changed}


def configured(options: argparse.Namespace, seed: int, latent: int) -> AbinitConfig:
    """The search's options for images of `options.box` px.

    Raises:
        SystemExit: an option belongs to the other recipe.
    """
    foreign = NETWORK_OPTIONS if options.recipe == "default" else SUBSPACE_OPTIONS
    given = [name for name in foreign if getattr(options, name) is not None]
    if given:
        raise SystemExit(f"--{given[0].replace('_', '-')} has no meaning for --recipe {options.recipe}")
    extent = 5 * options.box / 64
    config = abinit_recipe(options.recipe, latent=latent)
    if isinstance(config, SubspaceConfig):
        bootstrap = _changed(config.bootstrap, starts=options.starts)
        config = replace(config, bootstrap=bootstrap, shift_extent_px=extent, seed=seed)
        return _changed(config, rounds=options.rounds)
    assert isinstance(config, NetworkConfig)
    search = _changed(replace(config.search, shift_extent_px=extent), keep=options.keep)
    train = networks(replace(config.train, seed=seed), options)
    train = _changed(train, epochs=options.search_epochs)
    chunk = options.chunk or max(config.chunk, train.batch_size)
    return replace(config, train=train, search=search, chunk=chunk)


def networks(train: TrainConfig, options: argparse.Namespace) -> TrainConfig:
    """A training with the networks, batches and rate asked for."""
    size = {"layers": options.layers, "width": options.width}
    train = replace(train, encoder=_changed(train.encoder, **size), decoder=_changed(train.decoder, **size))
    return _changed(train, batch_size=options.batch, learning_rate=options.learning_rate)


def _changed(options: Any, **given: object) -> Any:
    return replace(options, **{name: value for name, value in given.items() if value is not None})
