r"""Components of particles whose poses are known: expectation–maximisation of V(z) = μ + Σ_k z_k W_k.

An image's latent is told by the maps of the *other* half set, and goes into the maps of its own. What an
image has put into a map can then not answer when its latent is asked for, which otherwise makes latents as
wide as their noise; the evidence is that of images not learned from.

Components of two half sets have gauges of their own, since a rotation of z-space leaves the likelihood as it
is. Here they cannot part: maps solved with latents that the other half told are in the other half's gauge.
What noise turns them by is taken out after each pass (orthogonal Procrustes), so that the two sums may be
added, and their agreement tells how much of the components is signal.

A posterior of latents that is not N(0, I) on average is made so by changing the maps, z = m + L z′, which
speeds up EM greatly (parameter expansion) and is where a fixed scale of z comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.fourier.correlation import fourier_shell_correlation
from cryoatlas.geometry.pose import Pose
from cryoatlas.poses.view import View
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.expectation import Known, accumulate_known, latents_at
from cryoatlas.subspace.maximization import NormalEquations, sum_of
from cryoatlas.subspace.model import Subspace


@dataclass(frozen=True)
class HalfSets:
    """Maps of two half sets in one gauge, and of both together."""

    halves: tuple[Subspace, Subspace]
    whole: Subspace

    @classmethod
    def both(cls, subspace: Subspace) -> "HalfSets":
        """The same maps for both."""
        return cls((subspace, subspace), subspace)

    def known(self, views: Sequence[View], pose: Pose, half: Int[Tensor, "image"], band: float) -> Known:
        """Latents of images, each told by the maps of the half set that it is not in."""
        index = [(half == number).nonzero().squeeze(-1) for number in range(2)]
        parts = [
            latents_at(self.halves[1 - number], [view[mine] for view in views], pose[mine], band)
            for number, mine in enumerate(index)
        ]
        back = torch.cat(index).argsort()
        names = Known.__dataclass_fields__
        return Known(**{name: torch.cat([getattr(part, name) for part in parts])[back] for name in names})

    def changed(self, middle: Float[Tensor, "component"], turn: Float[Tensor, "component new"]) -> "HalfSets":
        """The same volumes for z′ with z = middle + turn z′."""
        first, second, whole = (_changed(each, middle, turn) for each in (*self.halves, self.whole))
        return HalfSets((first, second), whole)

    def on_principal_axes(self) -> "HalfSets":
        """Components that are orthogonal as maps, the strongest first, the largest voxel of each positive."""
        components = self.whole.maps[1:].flatten(1).double()
        _, turn = torch.linalg.eigh(components @ components.T)
        turn = turn.flip(1)
        axes = turn.T @ components
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))[:, 0]
        turn = (turn * largest.sign()).to(self.whole.maps)
        return self.changed(turn.new_zeros(len(turn)), turn)


class Pass:
    """The sums of one pass over the images.

    Args:
        now: the maps that tell the latents.
        band: radius of the frequencies compared, cycles per box.
        box_size: of the images, px.
        pixel_size: of the images, Å.
    """

    def __init__(self, now: HalfSets, band: float, box_size: int, pixel_size: float) -> None:
        self.now, self.band = now, band
        like, components = now.whole.maps, now.whole.components
        self.equations = [
            NormalEquations.up_to(band, box_size, pixel_size, components, like=like) for _ in range(2)
        ]
        self.count, self.evidence = 0, 0.0
        self.first = like.new_zeros(components, dtype=torch.float64)
        self.second = like.new_zeros(components, components, dtype=torch.float64)

    def add(self, views: Sequence[View], pose: Pose, half: Int[Tensor, "image"]) -> None:
        """Take in some images, once each."""
        known = self.now.known(views, pose, half, self.band)
        for number, equations in enumerate(self.equations):
            mine = (half == number).nonzero().squeeze(-1)
            if len(mine):
                accumulate_known(
                    equations, [view[mine] for view in views], pose[mine], known[mine], self.band
                )
        mean = known.mean.double()
        self.count += len(mean)
        self.evidence += float(known.evidence.sum())
        self.first += mean.sum(0)
        self.second += mean.T @ mean + known.covariance.double().sum(0)

    def solve(self, signal: Float[Tensor, "shell"], share: float, settled: bool) -> HalfSets:
        """The maps, for latents that are N(0, I) on average.

        Args:
            signal: variance of the mean map's coefficients by shell.
            share: variance expected of components, as a part of that: from the components' own power it
                would fall from pass to pass to zero.
            settled: the half sets agree on components by now, and how far tells their variance, which is not
                above the mean's.
        """
        components = self.now.whole.components
        signal = signal[: int(self.band) + 1].to(self.first.device, torch.float32)
        variance = torch.stack([signal] + [share * signal] * components)
        total = sum_of(self.equations)
        if settled:
            halves = [self._maps(each, variance) for each in self.equations]
            variance = torch.cat([variance[:1], torch.minimum(self._agreed(total, *halves), signal)])
        first, second = (self._maps(each, variance) for each in self.equations)
        solved = HalfSets((first, _in_gauge_of(first, second)), self._maps(total, variance))
        middle = self.first / self.count
        spread = self.second / self.count - torch.outer(middle, middle)
        return solved.changed(middle.to(signal), torch.linalg.cholesky(spread).to(signal))

    def _maps(self, equations: NormalEquations, variance: Float[Tensor, "map shell"]) -> Subspace:
        return Subspace(equations.solve(variance), equations.pixel_size).in_support()

    def _agreed(
        self, total: NormalEquations, first: Subspace, second: Subspace
    ) -> Float[Tensor, "component shell"]:
        """Variance of the components by shell, from the correlation of the half sets."""
        last = int(self.band) + 1
        shells = [
            total.signal(fourier_shell_correlation(one, other))[:last]
            for one, other in zip(first.maps[1:], second.maps[1:], strict=True)
        ]
        return torch.stack(shells).to(first.maps)


def _changed(
    subspace: Subspace, middle: Float[Tensor, "component"], turn: Float[Tensor, "component new"]
) -> Subspace:
    mean, components = subspace.maps[0], subspace.maps[1:]
    mean = mean + torch.tensordot(middle, components, 1)
    return Subspace(torch.cat([mean[None], torch.tensordot(turn.T, components, 1)]), subspace.pixel_size)


def _in_gauge_of(first: Subspace, second: Subspace) -> Subspace:
    """The second's components turned to lie as near to the first's as they can."""
    one, other = (each.maps[1:].flatten(1).double() for each in (first, second))
    left, _, right = torch.linalg.svd(other @ one.T)
    turn = (left @ right).to(second.maps)
    return _changed(second, turn.new_zeros(len(turn)), turn)
