"""Options of how images are prepared; imports nothing heavy."""

from dataclasses import dataclass

from cryoatlas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How particle images are scaled and windowed."""

    window: bool = True
    """Multiply images by a soft circular window, which takes out corners and neighbours."""
    window_inner: float = 0.85
    """Radius up to which the window is 1, as a fraction of half the box."""
    window_outer: float = 0.99
    """Radius from which the window is 0, as a fraction of half the box."""
    statistics_images: int = 1000
    """Mean and standard deviation are measured on up to this many evenly spaced images."""

    def __post_init__(self) -> None:
        if not 0 <= self.window_inner <= self.window_outer:
            raise ConfigError(
                f"the window's inner radius {self.window_inner} and outer radius {self.window_outer} must be "
                "fractions of half the box, with 0 ≤ inner ≤ outer."
            )
        if self.statistics_images < 1:
            raise ConfigError(
                f"statistics need at least one image, got statistics_images = {self.statistics_images}."
            )
