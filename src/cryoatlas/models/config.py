"""Shapes of the networks, as plain data: importable without torch."""

from dataclasses import dataclass
from typing import Literal

from cryoatlas.errors import ConfigError

Encoding = Literal["geometric", "geometric_lowpass", "ball"]
EncoderInput = Literal["volume", "image"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The volume decoder p(V | k, z), equations 6–8."""

    layers: int = 3
    """Hidden layers after the first."""
    width: int = 256
    """Units in each layer."""
    residual: bool = True
    """Add each hidden layer's input to its output."""
    encoding: Encoding = "ball"
    """How k is presented to the network: `geometric` (eq. 7), `geometric_lowpass` (the paper's variant for
    noisy data) or `ball` (plane waves of random points inside the particle)."""
    features: int = 0
    """Plane waves in the `ball` encoding; 0 means 1.5 per pixel of the box."""
    friedel: bool = True
    """Predict H(k) and H(−k) in one evaluation; off, the network predicts H(k) alone, as in the paper."""
    consensus: bool = True
    """Let the network predict the departure from the consensus map. Off, it starts from nothing."""

    def __post_init__(self) -> None:
        _check_sizes("decoder", self.layers, self.width)
        if self.features < 0:
            raise ConfigError(f"decoder features must be 0 (automatic) or more, got {self.features}.")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The image encoder q(z | X), equation 9."""

    layers: int = 3
    """Hidden layers after the first."""
    width: int = 256
    """Units in each layer."""
    residual: bool = True
    """Add each hidden layer's input to its output."""
    input: EncoderInput = "volume"
    """What the network sees: the image carried into the volume's frame by its pose (`volume`), or the image
    itself (`image`), as in the paper."""
    radius: float = 0.5
    """Band of the `volume` input, as a fraction of the radius to Nyquist."""

    def __post_init__(self) -> None:
        _check_sizes("encoder", self.layers, self.width)
        if not 0 < self.radius <= 1:
            raise ConfigError(f"encoder radius must lie in (0, 1], got {self.radius}.")


def _check_sizes(name: str, layers: int, width: int) -> None:
    if layers < 0 or width < 1:
        raise ConfigError(
            f"the {name} needs layers ≥ 0 and width ≥ 1, got layers={layers}, width={width}. "
            "The paper uses 10 layers of width 128; the default is 3 of 256."
        )
