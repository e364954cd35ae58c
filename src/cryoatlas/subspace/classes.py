r"""A few maps instead of one that moves: expectation–maximisation of a mixture (eq. 4, 5 of the paper).

An image comes from one of K maps,

.. math:: p(X) = \sum_k \pi_k\, p(X | R_k, t_k, V_k),

with the pose that it has in the frame of each map. Its class is told by maps that it has no part in: an
image fits the map that it helped to make, and would else stay wherever it was put first. For that images are
dealt into folds, and each fold meets maps of all the others. (Of two folds, half sets that tell each other's
classes, what a class means in one drifts from what it means in the other.)
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
        solved = []
        for number, folds in enumerate(self.sums):
            fsc, total = fourier_shell_correlation(*self.half_maps(number)), sum_of(folds)
            signal = total.signal(fsc)
            first, second = (self._map(sum_of(folds[half::2]), signal) for half in range(2))
            without = tuple(self._map(total.less(each), signal) for each in folds)
            solved.append(ClassMaps(self._map(total, signal), (first, second), without, fsc))
        share = self.members / self.count + even / len(self.members)
        return Mixture(tuple(solved), (share / share.sum()).to(self.now.prior))

    def _map(self, equations: NormalEquations, signal: Float[Tensor, "shell"]) -> Subspace:
        last = int(self.reach) + 1
        return Subspace(equations.solve(signal[None, :last]), equations.pixel_size).in_support()
