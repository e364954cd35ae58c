"""The options of networks that `cryoatlas train` trains."""

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from cryoatlas.cli.recipe_options import given
from cryoatlas.training.config import TrainConfig

SIZES = ("layers", "width")
"""Options of encoder and decoder both."""


@Parameter(name="*", group="Networks (--recipe network, paper or paper-noisy)")
@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What differs from the recipe; its own where nothing is given."""

    batch_size: int | None = None
    """Images in each step."""
    learning_rate: float | None = None
    """Of Adam."""
    kl_weight: float | None = None
    """Weight β of the KL term."""
    marching: float | None = None
    """Part of the run over which the band grows to all frequencies."""
    dense_radius: float | None = None
    """Fraction of the radius to Nyquist within which all coefficients are compared in every step, and beyond
    which a random share is; 1 compares all."""
    noise: Literal["updated", "shells", "white"] | None = None
    """Noise model: a variance for each shell, updated after each epoch (`updated`) or not (`shells`), or one
    for all frequencies (`white`)."""
    contrast: Annotated[bool | None, Parameter(negative="--no-contrast")] = None
    """Fit to every image a factor of its signal, near 1."""
    layers: int | None = None
    """Hidden layers after the first, of encoder and decoder."""
    width: int | None = None
    """Units in each layer, of encoder and decoder."""

    @property
    def typed(self) -> dict[str, object]:
        """All by the names that they are typed with; None where nothing is given."""
        return {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items()}

    def change(self, config: TrainConfig) -> TrainConfig:
        """The options of a recipe, with these."""
        mine = asdict(self)
        sizes = {name: mine.pop(name) for name in SIZES}
        nets = {name: given(getattr(config, name), **sizes) for name in ("encoder", "decoder")}
        return given(config, **mine, **nets)


OF_THE_RECIPE = NetworkOptions()
"""Nothing changed."""
