"""Named sets of options for known poses; ``--recipe`` on the command line. Importable without torch."""

from dataclasses import replace

from cryoatlas.errors import ConfigError
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.subspace.config import ClassesConfig, StatesConfig
from cryoatlas.training.config import TrainConfig

Recipe = TrainConfig | StatesConfig | ClassesConfig
"""Options of what makes a run's latents and volumes of poses: networks, states, or classes."""


def default(*, latent: int = 8) -> Recipe:
    """What the benchmarks show best: `subspace`, and for a single volume `one_map`.

    Raises:
        ConfigError: the latent has fewer than no dimensions.
    """
    if latent < 0:
        raise ConfigError(f"option latent must be 0 or more, got {latent}.")
    return subspace(latent=latent) if latent else one_map()


def one_map() -> ClassesConfig:
    """A single volume: the map of all images at the poses they have, and its half maps."""
    return ClassesConfig(classes=1, epochs=2)


def network(*, latent: int = 8) -> TrainConfig:
    """Networks as the benchmarks show them best: they start from the consensus map and see the poses."""
    return TrainConfig(latent=latent)


def paper(*, latent: int = 8) -> TrainConfig:
    """The paper's networks and objective (M3, M4, M7).

    Plain ReLU networks of 10 × 128 over the geometric encoding, an encoder of the centred and
    phase-flipped image, white noise, all frequencies in every step, constant learning rate.
    """
    return TrainConfig(
        latent=latent,
        learning_rate=1e-4,
        warm_up=-1.0,
        kl_warm_up=0.0,
        marching=0.0,
        dense_radius=1.0,
        noise="white",
        contrast=False,
        encoder=EncoderConfig(layers=9, width=128, residual=False, input="image"),
        decoder=DecoderConfig(
            layers=9, width=128, residual=False, encoding="geometric", friedel=False, consensus=False
        ),
    )


def paper_noisy(*, latent: int = 8) -> TrainConfig:
    """`paper` with its encoding for noisy data, which leaves out the fastest tenth of the features."""
    plain = paper(latent=latent)
    return replace(plain, decoder=replace(plain.decoder, encoding="geometric_lowpass"))


def components_for(latent: int) -> int:
    """Components that a latent of this dimension needs: a motion is more than one."""
    return 0 if latent == 0 else min(latent + 2, 6)


def subspace(*, latent: int = 8) -> StatesConfig:
    """The subspace engine: components are solved, states made of the images near z, no network is trained.

    Raises:
        ConfigError: the latent has no dimensions.
    """
    if latent == 0:
        raise ConfigError(
            "the subspace engine needs a latent of 1 dimension or more: for a single volume leave out "
            "`subspace`, or use `cryoatlas backproject`."
        )
    return StatesConfig(latent=latent, components=max(latent, components_for(latent)))


RECIPES = {
    "default": default,
    "subspace": subspace,
    "network": network,
    "paper": paper,
    "paper-noisy": paper_noisy,
}


def recipe(name: str, *, latent: int) -> Recipe:
    """The options of a named recipe.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name](latent=latent)
