"""The options of verbs that take a second image of each particle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from cryoatlas.cli.particle_options import ParticleOptions
from cryoatlas.errors import ConfigError

TILT_DEG = 45.0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Tilt pairs (C18)."""

    tilt: Path | None = None
    """File of a second image of each particle, in the same order, taken after a tilt of the specimen about
    the images' x axis. Read as the first file is."""
    tilt_angle: float | None = None
    """That tilt, degrees; default 45."""

    def read(self, source: ParticleOptions) -> dict[str, Any]:
        """What `recipes.train` and `recipes.abinit` are told of the second images.

        Raises:
            ConfigError: there is an angle but no file.
            InputError: the file cannot be read.
        """
        if self.tilt is None:
            if self.tilt_angle is not None:
                raise ConfigError("--tilt-angle speaks of second images: add --tilt FILE, or leave it out.")
            return {}
        angle = TILT_DEG if self.tilt_angle is None else self.tilt_angle
        return {"tilted": source.read(self.tilt), "tilt_angle_deg": angle}


SINGLE_IMAGES = PairOptions()
"""No second images."""
