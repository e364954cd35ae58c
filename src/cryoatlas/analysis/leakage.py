r"""What z knows about how images were taken: direction, in-plane angle, shift, defocus, contrast.

z is to tell the state of the molecule, and that has nothing to do with the side it was seen from or
the defocus. What z and such a quantity share is measured as their mutual information I, in nats, by
Kraskov, Stögbauer and Grassberger's estimate from nearest neighbours (Phys. Rev. E 69, 066138, 2004,
eq. 8), which asks for no model of either. It is compared with the same estimate after the rows of z
are shuffled, and the *excess* over that is what counts. Neighbours are far away in many dimensions, and
the estimate falls short: of a direction told by one column, 1.6 nats of 2,000 images when z has no other
column, 0.9 are seen beside three columns that do not tell, and 0.5 beside seven.

A view is a direction, a point of the sphere, and an angle in the plane. The angle is measured *given*
the direction, for two reasons. Where it counts from is a choice that no field of tangents on a sphere
makes smoothly (at a pole only rot ± psi has a meaning); and a z that follows a feature of the image,
such as where an arm points, may depend on the angle at every direction and yet not on average.
By the chain rule I((z, d); ψ) = I(d; ψ) + I(z; ψ | d), and shuffling the rows of z leaves just
I(d; ψ), so that the excess of the former *is* the latter, whatever the angle counts from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cryoatlas.analysis.alignment import evenly_spaced
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.shapes import Array, Bool, Float, Int

NEIGHBOURS = 5
"""k of the estimate. Less is noisier, more blurs sharp relations."""
IMAGES = 2000
"""At most this many images, evenly spaced, are looked at."""
FEWEST_IMAGES = 50
"""With fewer images nothing can be told."""
SHUFFLES = 20
SIGNIFICANT = 5.0
"""Excess over the spread of the shuffled estimates from which it is not chance. From 20 shuffles the
spread is itself known to 16 %, so that 5 of it are hardly ever less than 3 true ones."""
TELLING = 0.2
"""Nats from which z is said to tell a quantity. Honest molecules share something with their view, as
states that lie differently on the air-water interface are seen from different sides. Two states, equally
frequent, each of which is seen four times as often from its own half of the sphere as from the other,
share ln 2 + 0.8 ln 0.8 + 0.2 ln 0.2 = 0.19 nats; stronger preferences than that are rare. For two
Gaussian quantities 0.2 nats are a correlation of 0.57."""
UNUSED = 0.05
"""Columns of z that vary less than this part of the widest are left out: no volume hears of them."""


@dataclass(frozen=True)
class Imaging:
    """How the images of a run were taken; None where it is not known."""

    pose: Pose | None = None
    ctf: CTFParameters | None = None
    contrast: Float[Array, "image"] | None = None
    """Factor of each image's signal."""
    particle: Int[Array, "image"] | None = None
    """Which particle an image is of, if there are several of each: the first of each is looked at."""

    def sample(self, count: int, most: int) -> Int[Array, "some"]:
        """At most `most` of `count` images, evenly spaced, no two of one particle: they share their z."""
        rows = np.arange(count)
        if self.particle is not None:
            rows = np.unique(self.particle, return_index=True)[1]
        return rows[evenly_spaced(len(rows), most).numpy()]


@dataclass(frozen=True)
class Leak:
    """What z knows of one quantity."""

    quantity: str
    excess: float
    """Mutual information with z, nats, over its mean in shuffled sets; about 0 where z knows nothing."""
    spread: float
    """Standard deviation in shuffled sets, nats: the error of `excess` where z knows nothing."""

    @property
    def significant(self) -> bool:
        """Whether it is more than chance."""
        return self.excess > SIGNIFICANT * self.spread

    @property
    def telling(self) -> bool:
        """Whether it is so much that z may show this quantity and not the molecule."""
        return self.significant and self.excess > TELLING


def leakage(latents: Float[Array, "image latent"], imaging: Imaging, seed: int = 0) -> list[Leak]:
    """What z knows of each quantity that is known and differs between images; the same every time.

    Columns are compared by their ranks, so z does not have to have any scale. Nothing is said, and the
    list is empty, if z is one and the same for all images or the images are too few.
    """
    rows = imaging.sample(len(latents), IMAGES)
    generator = np.random.default_rng(seed)
    z = normal_scores(latents[rows][:, _used(latents[rows])], generator)
    if len(rows) < FEWEST_IMAGES or z.shape[1] == 0:
        return []
    return [
        _leak(name, z, given, known, generator)
        for name, (given, known) in _quantities(imaging, rows, generator).items()
    ]


def mutual_information(
    first: Float[Array, "image first"], second: Float[Array, "image second"], neighbours: int = NEIGHBOURS
) -> float:
    """Mutual information in nats of two quantities of any dimension, at most a little below zero.

    ψ(k) + ψ(N) − ⟨ψ(n₁ + 1) + ψ(n₂ + 1)⟩, n the number of images nearer in one quantity than the k-th
    neighbour is in both, where distances are the largest difference of any column. Scales of the columns
    should be alike; there must be no duplicates.
    """
    from scipy.special import digamma
    from sklearn.neighbors import KDTree

    both = KDTree(np.concatenate([first, second], 1), metric="chebyshev")
    distances, _ = both.query(both.get_arrays()[0], k=neighbours + 1)
    # Just below the distance of the k-th neighbour, itself (at distance 0) included: n + 1.
    radius = np.nextafter(distances[:, -1], 0)
    counts = [
        KDTree(part, metric="chebyshev").query_radius(part, radius, count_only=True)
        for part in (first, second)
    ]
    return float(digamma(neighbours) + digamma(len(first)) - sum(digamma(count).mean() for count in counts))


def normal_scores(
    columns: Float[Array, "image column"], generator: np.random.Generator
) -> Float[Array, "image column"]:
    """Each column as a standard normal of the same order: no monotone change of it changes the result.

    Equal values are put in random order. That changes no mutual information, since the new values still
    tell the old ones and say nothing else.
    """
    from scipy.special import ndtri

    shuffled = generator.permutation(len(columns))
    order = np.argsort(columns[shuffled], axis=0, kind="stable")
    ranks = np.empty(columns.shape)
    np.put_along_axis(ranks, shuffled[order], np.arange(len(columns))[:, None], 0)
    return ndtri((ranks + 0.5) / len(columns))


def _leak(
    name: str,
    z: Float[Array, "image latent"],
    given: Float[Array, "image given"],
    known: Float[Array, "image column"],
    generator: np.random.Generator,
) -> Leak:
    """I(z; known | given), as the excess of I((z, given); known) over its value for shuffled z."""

    def shared(latents: Float[Array, "image latent"]) -> float:
        return mutual_information(np.concatenate([latents, given], 1), known)

    shuffled = [shared(z[generator.permutation(len(z))]) for _ in range(SHUFFLES)]
    return Leak(name, shared(z) - float(np.mean(shuffled)), float(np.std(shuffled, ddof=1)))


def _quantities(
    imaging: Imaging, rows: Int[Array, "some"], generator: np.random.Generator
) -> Mapping[str, tuple[Float[Array, "some given"], Float[Array, "some column"]]]:
    """Name → what is given, and what z may know then."""
    nothing = np.empty((len(rows), 0))
    quantities = {}
    if imaging.pose is not None:
        rotation = imaging.pose.rotation.double().numpy()[rows]
        # √3 gives the coordinates of a point of the sphere the variance that normal scores have.
        direction = np.sqrt(3) * rotation[:, 2]
        quantities["viewing direction"] = nothing, direction
        quantities["in-plane angle"] = direction, _in_plane(rotation)
    for name, columns in _columns(imaging):
        if np.ptp(columns[rows], axis=0).all():
            quantities[name] = nothing, normal_scores(columns[rows], generator)
    return quantities


def _columns(imaging: Imaging) -> Iterator[tuple[str, Float[Array, "image column"]]]:
    """The quantities that are numbers."""
    if imaging.pose is not None:
        yield "shift", imaging.pose.shift.double().numpy()
    if imaging.ctf is not None:
        yield "defocus", ((imaging.ctf.defocus_u + imaging.ctf.defocus_v) / 2).double().numpy()[:, None]
    if imaging.contrast is not None:
        yield "contrast", imaging.contrast.astype(np.float64)[:, None]


def _in_plane(rotation: Float[Array, "some 3 3"]) -> Float[Array, "some 2"]:
    """√2 times cosine and sine of psi, RELION's angle: the third column of R is along (−cos ψ, sin ψ)."""
    angle = np.arctan2(rotation[:, 1, 2], -rotation[:, 0, 2])
    return np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)


def _used(latents: Float[Array, "image latent"]) -> Bool[Array, "latent"]:
    deviation = latents.astype(np.float64).std(0)
    return (deviation > UNUSED * deviation.max(initial=0.0)) & (np.ptp(latents, axis=0) > 0)
