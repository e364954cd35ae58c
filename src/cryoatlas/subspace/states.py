r"""States anywhere in z, by kernel regression of what a linear model leaves unexplained.

.. math:: V(z^*) = \mu + W\,y(z^*) + m \cdot \mathcal{W}\Bigl[\frac{\sum_i w_i(z^*)\,A(R_i)^T c_i\,S(-t_i)
          (x_i - c_i S(t_i) A(R_i)(\mu + W z_i))}{\sum_i w_i(z^*)\,A(R_i)^T c_i^2}\Bigr]

The linear model holds what all images say together; the kernel average of the residuals adds how the states
near z* differ from it, as far as half sets agree (the Wiener filter 𝓦) and where anything moves (the mask m).
A kernel average of the images themselves, the same with an empty model, pays for every voxel with the noise
of few images.

The kernel knows how well an image's place is known: its distance is (z_i − z*)ᵀ (Σ_i + h²)⁻¹ (z_i − z*), and
an image whose place is spread over more than the kernel counts for the part that would fall inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.fourier.correlation import fourier_shell_correlation, signal_to_noise
from cryoatlas.fourier.shells import shell_grid
from cryoatlas.fourier.transform import hartley_volume, inverse_hartley_volume
from cryoatlas.geometry.pose import Pose
from cryoatlas.models.basis import BasisVolume
from cryoatlas.models.voxel import PADDING
from cryoatlas.poses.view import View
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.chart import Chart
from cryoatlas.subspace.known_poses import HalfSets
from cryoatlas.subspace.maximization import NormalEquations, sum_of
from cryoatlas.subspace.model import Subspace

MOVING = 0.3
"""Where components together reach this part of their largest strength, residuals count in full."""
BLUR_PX = 1.5
"""Standard deviation of the Gaussian that their strength is smoothed by, px of the components' grid."""
BYTES = 2**30
"""Memory for the sums of the states that one pass over the images serves."""


@dataclass(frozen=True)
class StateModel:
    """What all images say together, and how to ask those near a place for more."""

    maps: HalfSets
    """μ and the components up to the band, on a grid of their own."""
    consensus: Float[Tensor, "box box box"]
    """The map of all images, μ at all frequencies, since z is 0 on average."""
    chart: Chart
    band: float
    """Radius of the frequencies that components have, cycles per box."""
    bandwidth: float
    """h, in the unit of z."""

    def linear(self, z: Float[Tensor, "latent"]) -> Float[Tensor, "box box box"]:
        """μ + W y(z), all frequencies."""
        return self._changed_by(self._motion(self.maps.whole, z))

    def state(self, z: Float[Tensor, "latent"], sums: "StateSums", number: int) -> "State":
        """V(z), from the sums of the state of that number."""
        found = sums.residual(number)
        first, second = (
            half.maps[0] + self._motion(half, z) + residual
            for half, residual in zip(self.maps.halves, found.halves, strict=True)
        )
        fsc = fourier_shell_correlation(first, second)[: int(self.band) + 1]
        whole = self._changed_by(self._motion(self.maps.whole, z) + found.whole)
        return State(whole, (first, second), fsc, sums.images(number))

    def _motion(self, subspace: Subspace, z: Float[Tensor, "latent"]) -> Float[Tensor, "side side side"]:
        """W y(z) on the components' grid."""
        weights = self.chart.weights(z[None].to(subspace.maps))[0]
        return torch.tensordot(weights, subspace.maps[1:], 1)

    def _changed_by(self, low: Float[Tensor, "side side side"]) -> Float[Tensor, "box box box"]:
        return self.consensus + regridded(low, len(self.consensus), int(self.band))


@dataclass(frozen=True)
class State:
    """V at one place."""

    map: Float[Tensor, "box box box"]
    half_maps: tuple[Float[Tensor, "side side side"], Float[Tensor, "side side side"]]
    """Up to the components' band; neither half's maps have seen the other's images."""
    fsc: Float[Tensor, "shell"]
    """Between the half maps, up to the band."""
    images: float
    """How many images of weight 1 would average as well."""


@dataclass(frozen=True)
class Residual:
    """What a state's images say beyond the linear model, on the components' grid, filtered and masked."""

    whole: Float[Tensor, "side side side"]
    halves: tuple[Float[Tensor, "side side side"], Float[Tensor, "side side side"]]
    raw: tuple[Float[Tensor, "side side side"], Float[Tensor, "side side side"]]
    """The halves masked but not filtered."""


def kernel_weights(
    target: Float[Tensor, "state latent"],
    mean: Float[Tensor, "image latent"],
    covariance: Float[Tensor, "image latent latent"],
    bandwidth: float,
) -> Float[Tensor, "state image"]:
    """Weights of images for states: a parabola (Epanechnikov's kernel) of the distance, 0 beyond its reach.

    Args:
        mean, covariance: of each image's z.
        bandwidth: standard deviation of the kernel along each axis, in the unit of z; infinite weighs all
            alike.
    """
    latent = mean.shape[1]
    if bandwidth == float("inf"):
        return mean.new_ones(len(target), len(mean))
    spread = covariance / bandwidth**2 + torch.eye(latent).to(mean)
    root = torch.linalg.cholesky(spread)
    off = (target[:, None] - mean).movedim(0, -1) / bandwidth
    distance = torch.linalg.solve_triangular(root, off, upper=False).square().sum(1)
    inside = root.diagonal(dim1=1, dim2=2).prod(1)
    # The variance of a parabola of radius r in n dimensions is r²/(n + 4) along each axis.
    return ((1 - distance / (latent + 4)).clamp(min=0) / inside[:, None]).T


class StateSums:
    """Sums over images for many states at once, each half set apart.

    Args:
        maps: the linear model, whose residuals are averaged; empty maps give averages of images.
        states: how many.
        band: radius of the frequencies averaged, cycles per box.
    """

    def __init__(self, maps: HalfSets, states: int, band: float) -> None:
        whole = maps.whole
        self.band, self.mask = band, moving_mask(whole)
        self._volumes = [half.basis for half in maps.halves]
        self.equations = [
            [NormalEquations(whole.box_size, whole.pixel_size, 0, like=whole.maps) for _ in range(2)]
            for _ in range(states)
        ]
        self._weight, self._squared = whole.maps.new_zeros(2, states)

    @staticmethod
    def at_once(box_size: int) -> int:
        """States that one pass has memory for, on a grid of this box."""
        return max(1, BYTES // (4 * 4 * (PADDING * box_size + 1) ** 3))

    def add(
        self,
        views: Sequence[View],
        pose: Pose,
        half: Int[Tensor, "image"],
        latent: Float[Tensor, "image component"],
        weights: Float[Tensor, "state image"],
    ) -> None:
        """Add images; those of weight 0 cost nothing.

        Args:
            latent: z of each image, in the components.
            weights: of `kernel_weights`.
        """
        self._weight += weights.sum(1)
        self._squared += weights.square().sum(1)
        phi = torch.cat([latent.new_ones(len(latent), 1), latent], 1)
        for number, volume in enumerate(self._volumes):
            mine = ((half == number) & (weights > 0).any(0)).nonzero().squeeze(-1)
            if len(mine):
                for view in views:
                    self._insert(number, volume, view[mine], pose[mine], phi[mine], weights[:, mine])

    def _insert(
        self,
        number: int,
        volume: BasisVolume,
        view: View,
        pose: Pose,
        phi: Float[Tensor, "image map"],
        weights: Float[Tensor, "state image"],
    ) -> None:
        view = view.inside(self.band)
        power = view.transfer.square()
        left = view.moved_back(pose.shift) - power * view.slices(volume, pose.rotation, phi)
        every = view.rotations(pose.rotation)
        for equations, weight in zip(self.equations, weights, strict=True):
            near = weight.nonzero().squeeze(-1)
            if len(near):
                w = weight[near, None]
                for turned in every:
                    equations[number].insert(
                        (w * left[near])[None], (w * power[near])[None], turned[near], view.half.plane
                    )

    def images(self, number: int) -> float:
        """(Σw)²/Σw² of a state."""
        return float(self._weight[number] ** 2 / self._squared[number].clamp(min=1e-30))

    def residual(self, number: int) -> Residual:
        """The average of a state."""
        first, second = (each.mean_alone() * self.mask for each in self.equations[number])
        whole = sum_of(self.equations[number]).mean_alone() * self.mask
        fsc = fourier_shell_correlation(first, second)
        of_whole = signal_to_noise(fsc)
        of_half = of_whole / 2
        radius = int(self.band)
        return Residual(
            _filtered(whole, of_whole, radius),
            (_filtered(first, of_half, radius), _filtered(second, of_half, radius)),
            (first, second),
        )


def moving_mask(subspace: Subspace) -> Float[Tensor, "side side side"]:
    """1 where components are strong, falling with their strength; 1 everywhere without components."""
    if not subspace.components:
        return torch.ones_like(subspace.maps[0])
    box = subspace.box_size
    radius = shell_grid(box, 3, subspace.maps.device).to(subspace.maps)
    smooth = torch.exp(-2 * (torch.pi * BLUR_PX / box * radius).square())
    power = inverse_hartley_volume(hartley_volume(subspace.maps[1:].square().sum(0)) * smooth)
    strength = power.clamp(min=0).sqrt()
    return (strength / (MOVING * strength.max()).clamp(min=1e-30)).clamp(max=1)


def held_out_errors(sums: StateSums, ladder: int) -> Float[Tensor, "rung"]:
    """How wrong the averages of each rung of a ladder of bandwidths are, by half sets.

    A state's filtered average of one half is compared with the other half's narrowest one, unfiltered, which
    is noisy but of little bias; 1 is what the linear model alone would have. Mean over states.

    Args:
        sums: of states × rungs, the rungs of a state together and the narrowest first.
    """
    errors = []
    for start in range(0, len(sums.equations), ladder):
        found = [sums.residual(start + rung) for rung in range(ladder)]
        narrow = torch.stack(found[0].raw)
        # The other half is what each half is held against.
        off = torch.stack([torch.stack(each.halves) - narrow.flip(0) for each in found])
        nothing = narrow.square().sum().clamp(min=1e-30)
        errors.append(off.square().sum((1, 2, 3, 4)) / nothing)
    return torch.stack(errors).mean(0)


def regridded(
    volume: Float[Tensor, "old old old"], box_size: int, radius: int
) -> Float[Tensor, "new new new"]:
    """A map's frequencies up to a radius, cycles per box, on a grid of the same extent and another box."""
    old = len(volume)
    spectrum = hartley_volume(volume) * (shell_grid(old, 3, volume.device) <= radius)
    reach = min(old, box_size) // 2
    inner = [slice(size // 2 - reach, size // 2 + reach) for size in (old, box_size)]
    new = volume.new_zeros(box_size, box_size, box_size)
    new[inner[1], inner[1], inner[1]] = spectrum[inner[0], inner[0], inner[0]]
    return inverse_hartley_volume(new)


def _filtered(
    volume: Float[Tensor, "side side side"], ratio: Float[Tensor, "shell"], radius: int
) -> Float[Tensor, "side side side"]:
    """Wiener filter s/(1 + s) by shell, 0 beyond a radius."""
    shells = shell_grid(len(volume), 3, volume.device)
    passed = (ratio / (1 + ratio)).to(volume)[shells.clamp(max=len(ratio) - 1)]
    return inverse_hartley_volume(hartley_volume(volume) * passed * (shells <= radius))
