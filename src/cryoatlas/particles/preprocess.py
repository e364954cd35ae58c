r"""What is done to every image between the file and the model.

1. *Sign.* Stored pixels are multiplied by −1 if the particles were read with ``invert``, so that
   particles are bright and densities positive (convention C7). `ParticleSet.images` does this.
2. *Normalisation.* (x − m) / s with one mean m and one standard deviation s for the whole set,
   measured over the whole frame of up to 1,000 evenly spaced images. Nothing is scaled image by
   image: relative contrasts stay what they are, and the pixels of the set have mean 0 and variance 1.
3. *Window.* Multiplication by a disc that is 1 up to 0.85 and 0 from 0.99 of half the box, with a
   raised-cosine edge between. It can be turned off. White noise of variance σ² then has Hartley
   coefficients of variance σ² · mean(w²) (`Preprocessor.noise_factor`).
4. *Transform.* The centred Hartley transform, scaled by 1/box (C1, C5, C6), of which the
   coefficients inside a disc are kept.

Maps made from such images have the scale of the normalised images: times s they have that of the file.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cryoatlas.errors import ImageDataError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.mask import soft_ball
from cryoatlas.fourier.transform import hartley
from cryoatlas.io.stack import RunningStatistics
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.shapes import Float, Tensor

CHUNK_PIXELS = 2**22
"""Images are read for statistics in pieces of about this many pixels (16 MiB)."""


@dataclass(frozen=True)
class Preprocessor:
    """Normalisation and window of a set of particles, fitted once and then fixed."""

    config: PreprocessConfig
    box_size: int
    """Side of the images, px."""
    mean: float
    """Of the pixels of the set, in the units of the file."""
    std: float
    """Standard deviation of the pixels of the set, in the units of the file."""

    @classmethod
    def fit(cls, particles: ParticleSet, config: PreprocessConfig | None = None) -> "Preprocessor":
        """Measure mean and standard deviation on evenly spaced images.

        Raises:
            ImageDataError: the images hold the same value everywhere, or values that are not finite.
        """
        config = config or PreprocessConfig()
        count = min(len(particles), config.statistics_images)
        chosen = np.linspace(0, len(particles) - 1, count).round().astype(np.int64)
        statistics = RunningStatistics()
        step = max(1, CHUNK_PIXELS // particles.box_size**2)
        for start in range(0, count, step):
            statistics.add(particles.images(chosen[start : start + step]).numpy())
        if statistics.deviation == 0:
            raise ImageDataError(
                f"all {count} images of {particles.path} that were looked at hold the value "
                f"{statistics.mean:g} everywhere: the stack is empty of data; extract the particles again."
            )
        return cls(config, particles.box_size, statistics.mean, statistics.deviation)

    @cached_property
    def window(self) -> Float[Tensor, "box box"]:
        """What normalised images are multiplied by, float32."""
        return self._soft_window(2)

    @cached_property
    def support(self) -> Float[Tensor, "box box box"]:
        """The window's counterpart for maps, float32: beyond it there is no density, only noise."""
        return self._soft_window(3)

    def _soft_window(self, dimensions: int) -> Float[Tensor, "*grid"]:
        if not self.config.window:
            return torch.ones((self.box_size,) * dimensions)
        half = self.box_size / 2
        inner, outer = half * self.config.window_inner, half * self.config.window_outer
        return soft_ball(self.box_size, dimensions, inner, outer - inner).float()

    @cached_property
    def noise_factor(self) -> float:
        """Variance of a Hartley coefficient of windowed white noise of variance 1: the mean of w²."""
        return float(self.window.double().square().mean())

    def normalize(self, images: Float[Tensor, "image box box"]) -> Float[Tensor, "image box box"]:
        """Normalised and windowed images."""
        window = self.window.to(images.device, images.dtype)
        return (images - self.mean) / self.std * window

    def transform(self, images: Float[Tensor, "image box box"], disc: Disc) -> Float[Tensor, "image pixel"]:
        """Hartley coefficients in a disc of images as `ParticleSet.images` gives them."""
        return disc.gather(hartley(self.normalize(images)))
