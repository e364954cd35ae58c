"""Options of ab initio reconstruction, as plain data: importable without torch."""

from dataclasses import dataclass, field, replace

from cryoatlas.errors import ConfigError
from cryoatlas.models.config import DecoderConfig
from cryoatlas.poses.config import SearchConfig
from cryoatlas.recipes.presets import Recipe, components_for, paper, recipe
from cryoatlas.subspace.config import BootstrapConfig
from cryoatlas.training.config import TrainConfig

GROWTH = 1.2
"""The band of a growing network reaches all frequencies before the search ends: after 1/1.2 of its epochs."""
RIGID_DRAWS = 2
"""`SubspaceConfig.draws` of a single volume; with components it gained too little (benchmarks/LOG.md)."""


@dataclass(frozen=True, kw_only=True)
class SubspaceConfig:
    """Poses by the subspace engine: first maps from several starts, then rounds over all images."""

    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    """How first maps are made; `components` above 0 where the particles move."""
    shift_extent_px: float = 5.0
    """Shifts are sought in ± this."""
    rounds: int = 5
    """Rounds after the first search, in each of which maps are solved and every image is taken to them."""
    search_every: int = 3
    """Every third round, say, searches all poses again; the others refine them."""
    draws: int = 0
    """Maps are solved with each image at so many poses around its own, drawn as its likelihood tells them to
    lie; even. 0 puts every image at its own pose alone."""
    loosening: float = 3.0
    """The maps of the first round are made of poses drawn from so many times that covariance; falls to 1 in
    the last, geometrically."""
    chunk: int = 512
    """Images worked on together."""
    seed: int = 0
    """Of starts, batches and the grids' turns."""

    def __post_init__(self) -> None:
        _check(
            {
                "shift_extent_px must be 0 or more": self.shift_extent_px >= 0,
                "rounds must be 0 or more": self.rounds >= 0,
                "search_every must be 1 or more": self.search_every >= 1,
                "draws must be even, and 0 or more": self.draws >= 0 and self.draws % 2 == 0,
                "loosening must be 1 or more": self.loosening >= 1,
                "chunk must be 1 or more": self.chunk >= 1,
                "seed must be 0 or more": self.seed >= 0,
            }
        )

    def loosened(self, number: int) -> float:
        """What the poses' covariance is multiplied by for the maps of a round, counted from 1."""
        return self.loosening ** max(0.0, 1 - (number - 1) / max(1, self.rounds - 1))


def _searching() -> TrainConfig:
    """A network that grows while poses are sought: small, and quick to follow."""
    return TrainConfig(
        latent=0,
        epochs=6,
        warm_up=-1.0,
        dense_radius=1.0,
        # Not "updated": what wrong poses leave unexplained is signal, not noise.
        noise="shells",
        contrast=False,
        decoder=DecoderConfig(layers=3, width=128, consensus=False),
    )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Poses from nothing as the paper finds them (M6, M8): a network grows from random poses, and poses are
    sought in it epoch by epoch."""

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

    def __post_init__(self) -> None:
        _check(
            {
                "random_epochs must be 1 or more": self.random_epochs >= 1,
                "chunk must be a multiple of the batch size": self.chunk % self.train.batch_size == 0,
            }
        )

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


AbinitConfig = SubspaceConfig | NetworkConfig


def paper_abinit(*, latent: int = 0, pairs: bool = False) -> NetworkConfig:
    """The paper's: its networks and objective, one random epoch, then search in each, poses on the grid.

    A single volume (M6) takes 5 epochs; encoder, decoder and search jointly 40 (M8), with pairs 20 (M9).
    """
    epochs = (20 if pairs else 40) if latent else 5
    return NetworkConfig(
        train=replace(paper(latent=latent), epochs=epochs, batch_size=8),
        search=SearchConfig(slack=0.0, refine=0),
        growing=False,
        chunk=8,
    )


def subspace_abinit(*, latent: int = 0, pairs: bool = False) -> SubspaceConfig:
    """What the benchmarks show best: the subspace engine, with components for what moves."""
    first = BootstrapConfig(components=components_for(latent))
    return SubspaceConfig(bootstrap=first, draws=0 if latent else RIGID_DRAWS)


ABINIT_RECIPES = {"default": subspace_abinit, "paper": paper_abinit}


def abinit_recipe(name: str, *, latent: int, pairs: bool = False) -> AbinitConfig:
    """The options of a named recipe.

    Args:
        latent: dimension of z.
        pairs: whether there are tilt pairs.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in ABINIT_RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; choose one of {', '.join(ABINIT_RECIPES)}.")
    return ABINIT_RECIPES[name](latent=latent, pairs=pairs)


def final_recipe(name: str, kind: str | None = None, *, latent: int) -> Recipe:
    """What follows with the poses found.

    For a single volume the paper's network has a larger decoder, 10 × 500 (M6).

    Args:
        name: of the recipe of `abinit`.
        kind: recipe for known poses that its `default` goes on with, ``network`` or ``subspace``; default
            that of `presets.default`.

    Raises:
        ConfigError: there is no such recipe, or it goes on with a network alone.
    """
    if name != "paper":
        return recipe(kind or name, latent=latent)
    if kind == "subspace":
        raise ConfigError("--recipe paper ends with its network: leave --final subspace out.")
    plain = paper(latent=latent)
    return plain if latent else replace(plain, decoder=replace(plain.decoder, width=500))


def _check(wanted: dict[str, bool]) -> None:
    broken = [rule for rule, holds in wanted.items() if not holds]
    if broken:
        raise ConfigError(f"ab initio option {broken[0]}.")
