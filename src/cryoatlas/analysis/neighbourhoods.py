"""Whether images that lie close in one space lie close in another: shared neighbours, imbalance of ranks.

Both measures ask for the order of distances only, so turning, shifting, mirroring or scaling a space
changes nothing. They are CryoBench's (Jeon et al., arXiv 2408.05526), with two differences. Many images
share one true state, and so one distance: CryoBench leaves the order of ties to the sorting or to noise
that it adds to the truth, here they are counted as what they are. And the value that chance gives is known.

All pairs of images are compared, so callers take at most `IMAGES` of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cryoatlas.shapes import Array, Bool, Float

IMAGES = 2000
"""At most this many images are compared with each other: CryoBench's subset."""
TIE = 1e-9
"""Distances that differ by less than this part of the largest are equal: steps between states in float64."""


@dataclass(frozen=True)
class Space:
    """The distances between all pairs of some images, in units of the largest; an image's own is −1."""

    distance: Float[Array, "image image"]

    @classmethod
    def of(cls, columns: Float[Array, "image column"]) -> "Space":
        """Euclidean distances."""
        from scipy.spatial.distance import cdist

        distance = cdist(columns.astype(np.float64), columns.astype(np.float64))
        distance = np.round(distance / (distance.max() or 1.0) / TIE) * TIE
        np.fill_diagonal(distance, -1)
        return cls(distance)

    def __len__(self) -> int:
        return len(self.distance)

    def nearest(self, count: int) -> Float[Array, "image image"]:
        """How much each image (column) belongs to the `count` nearest of another (row), itself the first.

        1 or 0, and for those that tie for the last places the chance of getting one.
        """
        last = self._distance_of(count)
        nearer, tied = self.distance < last, self.distance == last
        return nearer + tied * ((count - nearer.sum(1)) / tied.sum(1))[:, None]

    def within(self, count: int) -> Bool[Array, "image image"]:
        """Whether an image (column) is no farther from another (row) than its `count`-th nearest, itself the
        first: that many images, or more where there are ties."""
        return self.distance <= self._distance_of(count)

    @cached_property
    def ranks(self) -> Float[Array, "image image"]:
        """0 for the image of the row itself, 1 for the nearest …; ties have the mean of their ranks."""
        from scipy.stats import rankdata

        return rankdata(self.distance, axis=1) - 1

    def _distance_of(self, count: int) -> Float[Array, "image 1"]:
        return np.partition(self.distance, count - 1, axis=1)[:, count - 1 : count]


@dataclass(frozen=True)
class SharedNeighbours:
    """How many of the nearest images in one space are also the nearest in another."""

    neighbours: int
    """k, the image itself counted as the first."""
    shared: float
    """Share of them, 0 … 1."""
    chance: float
    """The share where neither space knows of the other: about k / N without ties."""


def shared_neighbours(space: Space, true: Space, neighbours: int) -> SharedNeighbours:
    """Share of the k nearest images in a space that are in truth no farther than the k-th nearest.

    Without ties this is CryoBench's neighbourhood similarity, the same both ways round. All images
    of a state are equally near in truth, and any of them will do.

    Args:
        neighbours: k, from 1 (the image alone) to the number of images.
    """
    count = len(space)
    near = true.within(neighbours)
    shared = float((space.nearest(neighbours) * near).sum() / (count * neighbours))
    # The image itself is always shared; each of the k − 1 others is one of all others.
    others = (float(near.sum(1).mean()) - 1) / max(count - 1, 1)
    return SharedNeighbours(neighbours, shared, (1 + (neighbours - 1) * others) / neighbours)


@dataclass(frozen=True)
class Imbalance:
    """How far from each other in one space the nearest images in another are."""

    neighbours: int
    """k, the image itself not counted."""
    imbalance: float
    """Δ: 1 where the one space says nothing of the other."""
    best: float
    """Δ of the other space from itself, which no space is below: (k + 1) / N without ties."""


def imbalance(space: Space, other: Space, neighbours: int) -> Imbalance:
    """The information imbalance Δ(space → other), with the least that there can be."""
    return Imbalance(
        neighbours,
        information_imbalance(space, other, neighbours),
        information_imbalance(other, other, neighbours),
    )


def information_imbalance(space: Space, other: Space, neighbours: int) -> float:
    """Δ(A → B) = 2/N² Σ_i ⟨rank in B of the k nearest of i in A⟩ (Glielmo et al., PNAS Nexus 1, 2022).

    About 0 if what is near in A is near in B, 1 if A says nothing of B; not symmetric, since a space may
    know another and more.

    Args:
        neighbours: k, from 1 to the number of images less one.
    """
    # The image itself is one of the k + 1 and has rank 0.
    total = (space.nearest(neighbours + 1) * other.ranks).sum()
    return float(2 * total / (len(space) ** 2 * neighbours))


def alike(parts: Iterable[Float[Array, "image _"]]) -> Float[Array, "image column"] | None:
    """Quantities of different units beside each other, each with a variance of 1 over all its columns.

    Returns:
        None if none of them differs between images; those that do not are left out.
    """
    scaled = []
    for part in parts:
        deviation = part.astype(np.float64) - part.mean(0, dtype=np.float64)
        if np.ptp(part, axis=0).any():
            scaled.append(deviation / np.sqrt((deviation**2).sum(1).mean()))
    return np.concatenate(scaled, 1) if scaled else None


def on_circle(angle: Float[Array, "image"]) -> Float[Array, "image 2"]:
    """Angles (radians) as points of a circle: chords order pairs as arcs do."""
    return np.stack([np.cos(angle), np.sin(angle)], 1)
