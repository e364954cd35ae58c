"""Options of `cryoatlas prepare`; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from cryoatlas.errors import ConfigError

NormalizeBy = Literal["micrograph", "group", "set", "none"]
NORMALIZE_BY: tuple[NormalizeBy, ...] = ("micrograph", "group", "set", "none")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What images are turned into."""

    box: int | None = None
    """Side of the new images, px, even; None for as many pixels as fit into the old ones."""
    pixel_size: float | None = None
    """Å; None for the one with which the new box covers what the old images cover."""
    phase_flip: bool = False
    """Multiply transforms by the sign of their CTF."""
    normalize: NormalizeBy = "micrograph"
    """Which images share a background level and a standard deviation."""
    diameter: float | None = None
    """Of the circle that holds the particle, Å; outside lies background. None for 0.75 of the box."""
    window: bool = False
    """Multiply images by a soft circular window; training does so in any case."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored pixels."""
    shard_gib: float = 1.0
    """Largest size of a stack."""

    def __post_init__(self) -> None:
        if self.box is not None and (self.box < 2 or self.box % 2):
            raise ConfigError(f"--box must be an even number of pixels, got {self.box}: add or take one.")
        for name in ("pixel_size", "diameter", "shard_gib"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name.replace('_', '-')} must be positive, got {value:g}.")
        if self.normalize not in NORMALIZE_BY:
            raise ConfigError(f"images are normalised per {', '.join(NORMALIZE_BY)}, not {self.normalize!r}.")
        if self.dtype not in ("float16", "float32"):
            raise ConfigError(f"pixels are stored as float16 or float32, not {self.dtype!r}.")
