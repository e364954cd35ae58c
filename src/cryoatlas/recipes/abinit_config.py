"""Options of ab initio reconstruction, as plain data: importable without torch."""

import math
from dataclasses import dataclass, field, replace

from cryoatlas.errors import ConfigError
from cryoatlas.models.config import DecoderConfig
from cryoatlas.poses.config import SearchConfig
from cryoatlas.recipes.presets import paper
from cryoatlas.training.config import TrainConfig

FEWEST_EPOCHS = 6
GROWTH = 1.2
"""The band reaches all frequencies before the search ends: after 1/1.2 of its epochs."""
IMAGES_SHOWN = 25_000
"""Images that a search should show its network, again and again if there are fewer: some 800 steps of 32."""


def search_epochs(images: int) -> int:
    """Passes over this many images that a search needs, the one with random poses included."""
    return max(FEWEST_EPOCHS, math.ceil(IMAGES_SHOWN / images))


def _searching() -> TrainConfig:
    """The network that grows while poses are sought: small, and quick to follow."""
    return TrainConfig(
        latent=0,
        epochs=FEWEST_EPOCHS,
        warm_up=-1.0,
        dense_radius=1.0,
        # Not "updated": what wrong poses leave unexplained is signal, not noise.
        noise="shells",
        contrast=False,
        decoder=DecoderConfig(layers=3, width=128, consensus=False),
    )


@dataclass(frozen=True, kw_only=True)
class AbinitConfig:
    """Poses from nothing (M6, M8): a first map from random poses, search epochs, refinement of the poses."""

    train: TrainConfig = field(default_factory=_searching)
    """The network and its training while poses are sought; `epochs` counts the random ones too."""
    search: SearchConfig = field(default_factory=lambda: SearchConfig(keep=8, refine=2))
    """The search in every epoch but the random ones, up to the epoch's band."""
    growing: bool = True
    """Begin with the frequencies inside `search.band_start` and let the band grow from epoch to epoch, for
    network and search alike. Off, the network learns all frequencies from the start, as in the paper."""
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

    def band(self, epoch: int, box_size: int) -> float:
        """Radius of the frequencies in use in an epoch, cycles per box.

        The same throughout an epoch: what the network learns beyond the band that poses are sought in is
        noise to it. The first search epoch still has the first band, the last two have all frequencies.
        """
        full = box_size / 2
        if not self.growing:
            return full
        start = min(self.search.band_start, full)
        grown = (epoch - self.random_epochs) / max(1, self.train.epochs - 1 - self.random_epochs)
        return start + (full - start) * min(1.0, max(0.0, GROWTH * grown))


def paper_abinit() -> AbinitConfig:
    """The paper's (M6): its network and objective, one random epoch, four with search, poses on the grid."""
    return AbinitConfig(
        train=replace(paper(latent=0), epochs=5, batch_size=8),
        search=SearchConfig(slack=0.0, refine=0),
        growing=False,
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
