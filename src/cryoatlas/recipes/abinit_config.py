"""Options of ab initio reconstruction, as plain data: importable without torch."""

import math
from dataclasses import dataclass, field, replace

from cryoatlas.errors import ConfigError
from cryoatlas.models.config import DecoderConfig
from cryoatlas.poses.config import SearchConfig
from cryoatlas.recipes.presets import paper
from cryoatlas.training.config import TrainConfig


def _searching() -> TrainConfig:
    """The network that grows while poses are sought: small, and quick to follow."""
    return TrainConfig(
        latent=0,
        epochs=FEWEST_EPOCHS,
        marching=0.8,
        # A blob must become a map at low frequencies before there is use for others (benchmarks/LOG.md).
        marching_start=0.25,
        dense_radius=0.5,
        # Not "updated": what wrong poses leave unexplained is signal, not noise.
        noise="shells",
        contrast=False,
        decoder=DecoderConfig(layers=3, width=128, consensus=False),
    )


FEWEST_EPOCHS = 6
IMAGES_SHOWN = 25_000
"""Images that a search should show its network, again and again if there are fewer: some 800 steps of 32."""


def search_epochs(images: int) -> int:
    """Passes over this many images that a search needs, the one with random poses included."""
    return max(FEWEST_EPOCHS, math.ceil(IMAGES_SHOWN / images))


@dataclass(frozen=True, kw_only=True)
class AbinitConfig:
    """Poses from nothing (M6, M8): a first map from random poses, search epochs, refinement of the poses."""

    train: TrainConfig = field(default_factory=_searching)
    """The network and its training while poses are sought; `epochs` counts the random ones too."""
    search: SearchConfig = field(default_factory=lambda: SearchConfig(keep=8, refine=2))
    """The search in every epoch but the random ones; bands follow `train.marching`."""
    random_epochs: int = 1
    """First epochs, with random poses."""
    chunk: int = 128
    """Images searched against one map, before the network learns from them."""
    polish: int = 3
    """Rounds of back-projection and pose refinement after the network's epochs, each half set against its own
    map; 0 leaves the poses as the network has them."""

    def __post_init__(self) -> None:
        wanted = {
            "random_epochs must be 1 or more": self.random_epochs >= 1,
            "chunk must be a multiple of the batch size": self.chunk % self.train.batch_size == 0,
            "polish must be 0 or more": self.polish >= 0,
            "train must be of latent dimension 0": self.train.latent == 0,
        }
        broken = [rule for rule, holds in wanted.items() if not holds]
        if broken:
            raise ConfigError(f"ab initio option {broken[0]}.")


def paper_abinit() -> AbinitConfig:
    """The paper's (M6): its network and objective, one random epoch, four with search, poses on the grid."""
    return AbinitConfig(
        train=replace(paper(latent=0), epochs=5, batch_size=8),
        search=SearchConfig(slack=0.0, refine=0),
        chunk=8,
        polish=0,
    )


ABINIT_RECIPES = {"default": AbinitConfig, "paper": paper_abinit}


def abinit_recipe(name: str) -> AbinitConfig:
    """The options of a named recipe.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in ABINIT_RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; choose one of {', '.join(ABINIT_RECIPES)}.")
    return ABINIT_RECIPES[name]()
