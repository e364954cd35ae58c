r"""A few maps instead of one that moves: expectation–maximisation of a mixture (eq. 4, 5 of the paper).

An image comes from one of K maps,

.. math:: p(X) = \sum_k \pi_k\, p(X | R_k, t_k, V_k),

with the pose that it has in the frame of each map. Its class is told by maps that it has no part in: an
image fits the map that it helped to make, and would else stay wherever it was put first. For that images are
dealt into folds, and each fold meets maps of all the others. (Of two folds, half sets that tell each other's
classes, what a class means in one drifts from what it means in the other.)

A class of few images has a noisy map, which explains even its own images badly, and would lose them to a
class that is like it and larger. So maps are solved as the mean of all images and what the class differs by,

.. math:: V_k = \mu + \delta_k, \qquad \delta_k \sim N(0, \tau_\delta^2),

with τ_δ² by shell from what half sets agree on of the differences: what images of a class do not tell, the
mean does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.fourier.correlation import fourier_shell_correlation
from cryoatlas.geometry.pose import Pose
from cryoatlas.poses.view import View
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.expectation import Known, accumulate_known, latents_at
from cryoatlas.subspace.maximization import NormalEquations, known_band, sum_of
from cryoatlas.subspace.model import Subspace


@dataclass(frozen=True)
class Told:
    """What some images say of their classes."""

    posterior: Float[Tensor, "image class"]
    """p(class | X); sums to 1 for each image."""
    evidence: Float[Tensor, "image"]
    """log p(X) − log p(X | empty volume), the class summed out, nats."""


@dataclass(frozen=True)
class ClassMaps:
    """Maps of one class."""

    whole: Subspace
    """Of all images."""
    halves: tuple[Subspace, Subspace]
    """Of the two half sets, which poses are improved against, each image against its own."""
    without: tuple[Subspace, ...]
    """Of all images but those of each fold."""
    fsc: Float[Tensor, "shell"]
    """Of the half maps."""

    def evidence(
        self, views: Sequence[View], pose: Pose, fold: Int[Tensor, "image"], band: float
    ) -> Float[Tensor, "image"]:
        """log p(X | class) − log p(X | empty volume) of images at given poses, without their own part."""
        evidence = torch.zeros(len(fold), device=fold.device)
        for number, reference in enumerate(self.without):
            mine = (fold == number).nonzero().squeeze(-1)
            if len(mine):
                told = latents_at(reference, [view[mine] for view in views], pose[mine], band)
                evidence[mine] = told.evidence
        return evidence


@dataclass(frozen=True)
class Mixture:
    """K maps, and how frequent each class is."""

    classes: tuple[ClassMaps, ...]
    prior: Float[Tensor, "class"]
    """π; sums to 1."""

    @classmethod
    def of_one(cls, map_: Subspace, classes: int, folds: int, fsc: Float[Tensor, "shell"]) -> "Mixture":
        """The same map for every class and fold.

        Args:
            fsc: of its half maps.
        """
        one = ClassMaps(map_, (map_, map_), (map_,) * folds, fsc)
        return cls((one,) * classes, map_.maps.new_full((classes,), 1 / classes))

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def known(self) -> float:
        """Radius up to which the half maps of some class agree, cycles per box."""
        return max(known_band(each.fsc) for each in self.classes)

    def by_size(self) -> "Mixture":
        """The same, the most frequent class first."""
        order = self.prior.argsort(descending=True)
        return Mixture(tuple(self.classes[number] for number in order.tolist()), self.prior[order])

    def tell(
        self,
        views: Sequence[View],
        poses: Sequence[Pose],
        fold: Int[Tensor, "image"],
        band: float,
    ) -> Told:
        """Classes of images, by maps that they have no part in.

        Args:
            poses: of the images in the frame of each class.
            fold: number of the fold of each image; the even ones are the first half set.
            band: radius of the frequencies compared, cycles per box.
        """
        evidence = torch.stack(
            [each.evidence(views, pose, fold, band) for each, pose in zip(self.classes, poses, strict=True)],
            1,
        )
        joint = evidence + self.prior.log()
        return Told(joint.softmax(1), joint.logsumexp(1))


class MixturePass:
    """The sums of one pass over the images.

    Args:
        now: the maps that tell the classes.
        band: radius of the frequencies compared, cycles per box.
        reach: the same of those that the maps are solved to.
        box_size: of the images, px.
        pixel_size: of the images, Å.
    """

    def __init__(self, now: Mixture, band: float, reach: float, box_size: int, pixel_size: float) -> None:
        self.now, self.band, self.reach = now, band, reach
        self.sums = [
            [NormalEquations.up_to(reach, box_size, pixel_size, 0, like=now.prior) for _ in each.without]
            for each in now.classes
        ]
        """By class and fold."""
        self.count, self.evidence = 0, 0.0
        self.members = torch.zeros_like(now.prior, dtype=torch.float64)
        """Images in each class."""

    def add(self, views: Sequence[View], poses: Sequence[Pose], fold: Int[Tensor, "image"]) -> Told:
        """Take in some images, once each; see `Mixture.tell`."""
        told = self.now.tell(views, poses, fold, self.band)
        self.put(views, poses, fold, told)
        return told

    def put(
        self, views: Sequence[View], poses: Sequence[Pose], fold: Int[Tensor, "image"], told: Told
    ) -> None:
        """The same with classes that are told."""
        for number in range(len(self.sums[0])):
            mine = (fold == number).nonzero().squeeze(-1)
            if not len(mine):
                continue
            some = [view[mine] for view in views]
            for sums, pose, share in zip(self.sums, poses, told.posterior.T, strict=True):
                alone = Known.without_components(share[mine])
                accumulate_known(sums[number], some, pose[mine], alone, self.reach, share[mine])
        self.count += len(fold)
        self.evidence += float(told.evidence.sum())
        self.members += told.posterior.double().sum(0)

    def half_maps(self, number: int) -> tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]:
        """Of a class, unfiltered."""
        first, second = (sum_of(self.sums[number][half::2]).mean_alone() for half in range(2))
        return first, second

    def solve(self, even: float) -> Mixture:
        """The maps, each filtered by what its half maps agree on, and the frequencies of the classes.

        Args:
            even: images, as a part of all, that count as spread evenly over the classes: of two like classes
                the larger, whose map has less noise, would else take over the other.
        """
        whole = [sum_of(folds) for folds in self.sums]
        halves = [[sum_of(folds[half::2]) for folds in self.sums] for half in range(2)]
        agreement = [
            fourier_shell_correlation(*(each.mean_alone() for each in pair))
            for pair in zip(*halves, strict=True)
        ]
        common = sum_of(whole).signal(
            fourier_shell_correlation(*(sum_of(each).mean_alone() for each in halves))
        )
        own = self._variance_of_differences(whole, halves, common)
        folds = [
            self._maps(
                [total.less(each[number]) for total, each in zip(whole, self.sums, strict=True)], common, own
            )
            for number in range(len(self.sums[0]))
        ]
        solved = [
            ClassMaps(*maps)
            for maps in zip(
                self._maps(whole, common, own),
                zip(*(self._maps(each, common, own) for each in halves), strict=True),
                zip(*folds, strict=True),
                agreement,
                strict=True,
            )
        ]
        share = self.members / self.count + even / len(self.members)
        return Mixture(tuple(solved), (share / share.sum()).to(self.now.prior))

    def _variance_of_differences(
        self,
        whole: Sequence[NormalEquations],
        halves: Sequence[Sequence[NormalEquations]],
        common: Float[Tensor, "shell"],
    ) -> Float[Tensor, "shell"]:
        """τ² of what classes differ by from the mean of all, by the agreement of half sets on it."""
        means = [sum_of(each) for each in halves]
        found = []
        for total, *parts in zip(whole, *halves, strict=True):
            differing = [
                part.around(mean, common).mean_alone() for part, mean in zip(parts, means, strict=True)
            ]
            found.append(total.signal(fourier_shell_correlation(*differing)))
        return torch.stack(found).mean(0)

    def _maps(
        self, sums: Sequence[NormalEquations], common: Float[Tensor, "shell"], own: Float[Tensor, "shell"]
    ) -> list[Subspace]:
        """The map of every class: the mean of all, and what the class differs by."""
        mean = sum_of(sums)
        middle = self._map(mean, common)
        if len(sums) == 1:
            return [middle]
        return [
            Subspace(middle.maps + self._map(each.around(mean, common), own).maps, middle.pixel_size)
            for each in sums
        ]

    def _map(self, equations: NormalEquations, signal: Float[Tensor, "shell"]) -> Subspace:
        last = int(self.reach) + 1
        return Subspace(equations.solve(signal[None, :last]), equations.pixel_size).in_support()
