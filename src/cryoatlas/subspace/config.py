"""Options of the subspace engine, as plain data: importable without torch."""

import math
from dataclasses import dataclass
from typing import Literal

from cryoatlas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """First maps from nothing: stochastic expectation-maximisation at low frequencies, several starts."""

    starts: int = 12
    """Maps grown from different random beginnings. Those `survivors` that explain held-out images best when
    first steps are over, which are cheap, go on; of them in the end the best one."""
    steps: int = 50
    """Steps of each start that goes on."""
    batch_size: int = 200
    """Images in each step."""
    band_start: float = 4.0
    """Radius of the frequencies compared in the first step, cycles per box."""
    band_end: float = 10.0
    """That of the last fifth of the steps."""
    fine_band: float = 6.0
    """From this band on rotations come from the grid of 4,608 (15° apart), before from that of 576 (30°)."""
    shift_points: int = 5
    """Steps along each axis of the grid of shifts."""
    memory: float = 0.9
    """What remains of the sums of earlier steps after each step."""
    temper_start: float = 1.0
    """Power of the likelihood in the first step; it rises to 1 as the band grows. Below 1 poses stay open
    longer."""
    components: int = 0
    """Components that the best map is given when it stands, for what moves; 0 for rigid particles."""
    contenders: int = 2
    """Of the best starts, how many are given components; the best with them goes on."""
    component_steps: int = 30
    """Steps with components."""
    component_start: float = 0.1
    """Amplitude that random components begin with, as a part of the mean's."""
    component_share: float = 0.3
    """Variance expected of each component, as a part of the mean's."""
    held_out: int = 500
    """Images that no start learns from and all are judged on (at most a tenth of all)."""

    def __post_init__(self) -> None:
        wanted = {
            "starts must be 1 or more": self.starts >= 1,
            "steps must be 2 or more": self.steps >= 2,
            "batch_size must be 1 or more": self.batch_size >= 1,
            "band_start must be 1 or more": self.band_start >= 1,
            "band_end must be at least band_start": self.band_end >= self.band_start,
            "shift_points must be 1 or more": self.shift_points >= 1,
            "memory must lie in [0, 1)": 0 <= self.memory < 1,
            "temper_start must lie in (0, 1]": 0 < self.temper_start <= 1,
            "components must be 0 or more": self.components >= 0,
            "contenders must be 1 or more": self.contenders >= 1,
            "component_steps must be 1 or more": self.component_steps >= 1,
            "component_start must be positive": self.component_start > 0,
            "component_share must be positive": self.component_share > 0,
            "held_out must be 1 or more": self.held_out >= 1,
        }
        ConfigError.unless(self, wanted, "bootstrap option")

    @property
    def survivors(self) -> int:
        """Of the starts, how many go on after their first steps: a quarter, but no fewer than contenders."""
        return min(self.starts, max(self.contenders, math.ceil(self.starts / 4)))

    @property
    def first_steps(self) -> int:
        """Steps before starts are compared: those on the coarser grid of rotations, at most half of all."""
        coarse = sum(self.band(step) < self.fine_band for step in range(self.steps))
        return max(1, min(coarse, self.steps // 2))

    @property
    def all_steps(self) -> int:
        """Of all starts, and of those that are given components."""
        later = self.survivors * (self.steps - self.first_steps)
        with_components = min(self.contenders, self.starts) * self.component_steps if self.components else 0
        return self.starts * self.first_steps + later + with_components

    def band(self, step: int, box_size: int | None = None) -> float:
        """Radius of the frequencies compared in a step, cycles per box; grows over four fifths of them.

        Args:
            box_size: of the images, which hold no more than half of it.
        """
        grown = self.band_start + (self.band_end - self.band_start) * min(1.0, self.grown(step))
        return grown if box_size is None else min(grown, box_size / 2)

    def temper(self, step: int) -> float:
        """Power of the likelihood in a step; rises geometrically to 1 over four fifths of the steps."""
        return self.temper_start ** (1 - min(1.0, self.grown(step)))

    def grown(self, step: int) -> float:
        """How far band and temper have come: 0 at the first step, 1 from four fifths of the steps on."""
        return 1.25 * step / (self.steps - 1)


@dataclass(frozen=True, kw_only=True)
class StatesConfig:
    """States of particles with poses: components solved, latents in closed form, kernel regression."""

    latent: int = 1
    """Dimension of z."""
    components: int = 3
    """Maps beside the mean; not fewer than the latent has dimensions, since a motion is more than one."""
    epochs: int = 8
    """Passes over the images in which components are solved; one more gives the latents."""
    band_start: float = 8.0
    """Radius of the frequencies compared in the first pass, cycles per box."""
    band_end: float = 32.0
    """The most that it grows to; less where half maps agree less far."""
    component_start: float = 0.1
    """Amplitude that random components begin with, as a part of the mean's."""
    component_share: float = 0.3
    """Variance expected of each component, as a part of the mean's, until half sets have told it."""
    settled: int = 3
    """In so many last passes half sets tell the variance of the components."""
    curved: bool = True
    """Let z be a place on a curve or sheet among the components, for a latent of 1 or 2 dimensions; else it
    is the first principal axes."""
    bandwidths: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    """Widths of the kernel in z to choose from, in parts of the spread of z over the particles."""
    judged_at: int = 8
    """States that the width is chosen by."""
    chunk: int = 512
    """Images worked on together."""
    seed: int = 0
    """Of the first components."""

    def __post_init__(self) -> None:
        wanted = {
            "latent must be 1 or more": self.latent >= 1,
            "components must not be fewer than the latent's dimensions": self.components >= self.latent,
            "epochs must be 2 or more": self.epochs >= 2,
            "band_start must be 1 or more": self.band_start >= 1,
            "band_end must be at least band_start": self.band_end >= self.band_start,
            "component_start must be positive": self.component_start > 0,
            "component_share must be positive": self.component_share > 0,
            "settled must be 0 or more": self.settled >= 0,
            "bandwidths must be positive": bool(self.bandwidths) and min(self.bandwidths) > 0,
            "judged_at must be 1 or more": self.judged_at >= 1,
            "chunk must be 1 or more": self.chunk >= 1,
            "seed must be 0 or more": self.seed >= 0,
        }
        ConfigError.unless(self, wanted)

    def band(self, epoch: int, known: float) -> float:
        """Radius of the frequencies compared in a pass, cycles per box; grows over the first three fifths.

        Args:
            known: that to which half maps agree.
        """
        return growing_band(self.band_start, min(self.band_end, known), epoch, self.epochs)


@dataclass(frozen=True, kw_only=True)
class ClassesConfig:
    """Several maps of particles with poses, by expectation–maximisation of a mixture (eq. 4, 5)."""

    classes: int = 3
    """K; 1 is refinement of a single map."""
    epochs: int = 15
    """Passes over the images in which maps are solved; one more tells the classes."""
    align: Literal["none", "refine", "search"] = "none"
    """Whether the poses are kept, improved in the frame of each class's map, or sought anew as well."""
    settle: int = 4
    """First passes, with poses as they are, in which classes part."""
    search_every: int = 3
    """Of the passes after that, every so many-th searches if `align` says so; the others refine."""
    shift_extent_px: float = 5.0
    """Shifts are sought in ± this."""
    shift_points: int = 5
    """Steps along each axis of the grid of shifts."""
    folds: int = 4
    """Parts of the images that are left out of the maps which tell their classes; even."""
    components: int = 4
    """First classes are clusters of the weights of so many components, or of K − 1 if that is fewer …"""
    component_epochs: int = 6
    """… which are solved in so many passes."""
    band_start: float = 8.0
    """Radius of the frequencies compared in the first pass, cycles per box."""
    band_end: float = 18.0
    """The most that it grows to while poses are kept; less where half maps agree less far."""
    even: float = 0.5
    """Weight of even shares in the frequencies of classes: images that this part of all would be."""
    chunk: int = 512
    """Images worked on together."""
    seed: int = 0
    """Of first components, clusters and the grids' turns."""

    def __post_init__(self) -> None:
        wanted = {
            "classes must be 1 or more": self.classes >= 1,
            "epochs must be 2 or more": self.epochs >= 2,
            "align must be none, refine or search": self.align in ("none", "refine", "search"),
            "settle must be 0 or more": self.settle >= 0,
            "search_every must be 1 or more": self.search_every >= 1,
            "shift_extent_px must be 0 or more": self.shift_extent_px >= 0,
            "shift_points must be 1 or more": self.shift_points >= 1,
            "folds must be even and 2 or more": self.folds >= 2 and self.folds % 2 == 0,
            "components must be 1 or more": self.components >= 1,
            "component_epochs must be 2 or more": self.component_epochs >= 2,
            "band_start must be 1 or more": self.band_start >= 1,
            "band_end must be at least band_start": self.band_end >= self.band_start,
            "even must be 0 or more": self.even >= 0,
            "chunk must be 1 or more": self.chunk >= 1,
            "seed must be 0 or more": self.seed >= 0,
        }
        ConfigError.unless(self, wanted)

    @property
    def latent(self) -> int:
        """Columns of z, the probabilities of the classes; none where there is no choice."""
        return self.classes if self.classes > 1 else 0

    def require_images(self, count: int) -> None:
        """Refuse fewer images than there are parts to put them in.

        Raises:
            ConfigError: there are fewer than two of each class in every fold.
        """
        needed = 2 * self.classes * self.folds
        if count < needed:
            raise ConfigError(
                f"{self.classes} classes need {needed} images or more, got {count}: give fewer."
            )

    def aligned(self, epoch: int) -> bool:
        """Whether a pass improves poses."""
        return self.align != "none" and epoch >= self.settle

    def searched(self, epoch: int) -> bool:
        """Whether a pass seeks all poses anew."""
        return (
            self.align == "search" and epoch >= self.settle and (epoch - self.settle) % self.search_every == 0
        )

    def band(self, epoch: int, known: float) -> float:
        """Radius of the frequencies compared in a pass, cycles per box.

        Args:
            known: that to which half maps agree.
        """
        if self.aligned(epoch):
            return known
        epochs = self.epochs if self.align == "none" else self.settle
        return growing_band(self.band_start, min(self.band_end, known), epoch, epochs)

    @property
    def first(self) -> StatesConfig:
        """Of the components that first classes are told by."""
        components = max(1, min(self.components, self.classes - 1))
        return StatesConfig(
            components=components,
            epochs=self.component_epochs,
            band_start=self.band_start,
            band_end=self.band_end,
            seed=self.seed,
        )


def growing_band(start: float, end: float, epoch: int, epochs: int) -> float:
    """From one radius to another, which is reached after three fifths of the passes."""
    start = min(start, end)
    return start + (end - start) * min(1.0, epoch / (0.6 * epochs))
