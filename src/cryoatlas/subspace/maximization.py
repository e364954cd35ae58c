r"""The M-step: maps solved from images whose poses and latents are known up to a posterior.

With φ = (1, z) the model of an image is Σ_k φ_k c S(t) A(R) W_k, W_0 being the mean map μ. What maximises the
expected log posterior solves, voxel by voxel of the padded grid,

.. math:: \sum_l \Bigl( \bigl\langle \phi_k \phi_l\, c^2 \bigr\rangle + \delta_{kl} / \tau_k^2 \Bigr) W_l
          = \bigl\langle \phi_k\, c\, S(-t) x \bigr\rangle

with the sums over images, hypotheses and latents put where A(R)ᵀ puts them, and τ_k² the variance expected of
each map's coefficients, shell by shell.
"""

import math
from collections.abc import Sequence

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.shells import interpolate_shells, shell_grid, shell_mean
from cryoatlas.imaging.projection import slice_frequencies
from cryoatlas.models.voxel import PADDING, fold, map_of_grid, scatter_to_grid
from cryoatlas.shapes import Complex, Float, Int, Tensor

FLOOR = 1e-3
"""Where no image has measured anything the equations get this part of the mean weight of the shell."""
MARGIN_PX = 4
"""The box of maps up to a band reaches this far beyond twice the band."""
AGREEMENT = 0.143
"""Half maps count as known up to the first shell whose correlation is lower."""
LEAST_BAND = 8.0
"""Cycles per box; less does not fix a pose."""
LEAST = 1e-30
"""For shells in which nothing at all was measured, such as k = 0."""


class NormalEquations:
    """The sums of the M-step on the padded grid of a box, for μ and K components."""

    def __init__(self, box_size: int, pixel_size: float, components: int, *, like: Tensor | None = None):
        like = torch.empty(0) if like is None else like
        side = PADDING * box_size + 1
        self.box_size, self.pixel_size, self.maps = box_size, pixel_size, components + 1
        self.pairs: Int[Tensor, "2 pair"] = torch.tril_indices(self.maps, self.maps)
        self.sums = like.new_zeros(self.maps + self.pairs.shape[1], side, side, side)
        """Right-hand sides, then the matrix's lower triangle row by row."""

    @classmethod
    def up_to(
        cls, band: float, box_size: int, pixel_size: float, components: int, *, like: Tensor
    ) -> "NormalEquations":
        """On the smallest grid that has a band with a margin, of the extent of a box.

        Args:
            band: cycles per box.
            box_size: of the images, px.
            pixel_size: of the images, Å.
        """
        box = min(box_size, 2 * round(band) + MARGIN_PX)
        return cls(box, box_size * pixel_size / box, components, like=like)

    def insert(
        self,
        values: Complex[Tensor, "map slice kept"],
        weights: Float[Tensor, "pair slice kept"],
        rotation: Float[Tensor, "slice 3 3"],
        plane: Float[Tensor, "kept 2"],
    ) -> None:
        """Add sums on half-planes of slices.

        Args:
            values: ⟨φ_k c S(−t) x⟩, as `HalfDisc.spectrum` scales: √2 F, which goes to k and −k as H.
            weights: ⟨φ_k φ_l c²⟩ for the pairs of `pairs`.
            rotation: R of each slice.
            plane: (kx, ky) of the coefficients, Å⁻¹.
        """
        freqs = slice_frequencies(plane[None], rotation.to(plane))
        forward, backward = values.real - values.imag, values.real + values.imag
        both = torch.cat([forward, backward], -1) / math.sqrt(2)
        channels = torch.cat([both, torch.cat([weights, weights], -1)])
        self.sums += scatter_to_grid(channels, torch.cat([freqs, -freqs], 1), self.box_size, self.pixel_size)

    def fade(self, share: float) -> None:
        """Let what was added so far count for a share of it."""
        self.sums *= share

    def less(self, some: "NormalEquations") -> "NormalEquations":
        """The sums without those of some of their images."""
        rest = NormalEquations(self.box_size, self.pixel_size, self.maps - 1, like=self.sums)
        torch.sub(self.sums, some.sums, out=rest.sums)
        return rest

    def around(self, mean: "NormalEquations", variance: Float[Tensor, "shell"]) -> "NormalEquations":
        """The equations of what a map differs by from the mean of other sums; neither has components.

        Args:
            variance: τ² of that mean, as for `solve`.
        """
        right, weight = mean.sums
        grid = frequency_grid(len(right), 3, right.device).to(right)
        radius = torch.linalg.vector_norm(grid, dim=-1) / PADDING
        precision = 1 / interpolate_shells(variance.to(right), radius).clamp(min=LEAST) / PADDING**3
        expected = right / (weight + precision) * (radius < len(variance) - 0.5)
        differing = NormalEquations(self.box_size, self.pixel_size, 0, like=self.sums)
        differing.sums[0] = self.sums[0] - self.sums[1] * expected
        differing.sums[1] = self.sums[1]
        return differing

    def mean_alone(self) -> Float[Tensor, "box box box"]:
        """μ as if there were no components and no prior: what half maps are compared by."""
        right, weight = fold(self.sums)[[0, self.maps]]
        floor = (FLOOR * self._shell_means(weight[None])[0]).clamp(min=LEAST)
        return map_of_grid(torch.where(self._radius < self.box_size / 2, right / (weight + floor), 0.0))

    def solve(self, variance: Float[Tensor, "map shell"]) -> Float[Tensor, "map box box box"]:
        """μ and the components.

        Args:
            variance: τ_k² by shell of the unpadded box, as of Hartley coefficients of a map; beyond the last
                shell given, maps are zero.
        """
        folded = fold(self.sums)
        inside = self._radius < min(variance.shape[1] - 0.5, self.box_size / 2)
        right = folded[: self.maps, inside].T
        matrix = right.new_zeros(len(right), self.maps, self.maps)
        rows, columns = self.pairs
        matrix[:, rows, columns] = folded[self.maps :, inside].T
        matrix[:, columns, rows] = folded[self.maps :, inside].T
        matrix += torch.diag_embed(self._precision(variance.to(right))[:, inside].T)
        solved = torch.linalg.solve(matrix, right[..., None])[..., 0]
        grids = folded.new_zeros(self.maps, *inside.shape)
        grids[:, inside] = solved.T
        return torch.stack([map_of_grid(grid) for grid in grids])

    def signal(self, fsc: Float[Tensor, "shell"]) -> Float[Tensor, "shell"]:
        """τ² of the mean map by shell of the unpadded box, if half maps of such equations agree so well.

        What the two halves share over what they do not is the signal-to-noise ratio of one; the noise is one
        over the weight of a coefficient of the box, which is that of PADDING³ of the padded grid. Good to a
        factor of two: neighbours on that grid are correlated by interpolation.
        """
        by_shell = torch.arange(len(fsc), device=self.sums.device)
        weight = self._shell_means(fold(self.sums)[self.maps][None])[0]
        axis = weight[len(weight) // 2, len(weight) // 2, len(weight) // 2 :]
        ratio = (fsc / (1 - fsc).clamp(min=1e-6)).clamp(min=0).to(weight)
        return ratio / (PADDING**3 * axis[(PADDING * by_shell).clamp(max=len(axis) - 1)].clamp(min=1e-30))

    def _precision(self, variance: Float[Tensor, "map shell"]) -> Float[Tensor, "map *grid"]:
        """1/τ² at every point of the padded grid, not below a floor.

        A coefficient of the box stands for PADDING³ of the padded grid, which share its precision.
        """
        weight = fold(self.sums)[self.maps :][self.pairs[0] == self.pairs[1]]
        floor = FLOOR * self._shell_means(weight)
        by_shell = torch.stack(
            [1 / interpolate_shells(each, self._radius).clamp(min=1e-30) for each in variance]
        )
        return torch.maximum(by_shell / PADDING**3, floor.clamp(min=LEAST))

    def _shell_means(self, values: Float[Tensor, "map *grid"]) -> Float[Tensor, "map *grid"]:
        shells = shell_grid(PADDING * self.box_size, 3, values.device)
        count = PADDING * self.box_size // 2 + 1
        means = torch.stack([shell_mean(each, shells, count) for each in values])
        return means[:, shells.clamp(max=count - 1)]

    @property
    def _radius(self) -> Float[Tensor, "*grid"]:
        """Cycles per unpadded box."""
        grid = frequency_grid(PADDING * self.box_size, 3, self.sums.device).to(self.sums)
        return torch.linalg.vector_norm(grid, dim=-1) / PADDING


def sum_of(parts: Sequence[NormalEquations]) -> NormalEquations:
    """The sums over several sets of images."""
    first = parts[0]
    total = NormalEquations(first.box_size, first.pixel_size, first.maps - 1, like=first.sums)
    for part in parts:
        total.sums += part.sums
    return total


def known_band(fsc: Float[Tensor, "shell"]) -> float:
    """Radius up to which half maps agree, cycles per box."""
    below = (fsc[1:] < AGREEMENT).nonzero()
    first = int(below[0]) + 1 if len(below) else len(fsc) - 1
    return max(LEAST_BAND, float(first))
