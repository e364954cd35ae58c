r"""How much a prediction can change inside a cell of the grids: what makes the search's bound one.

The printed bound judges a cell by the pose at its centre. But a better pose may lie beside it: on
noiseless images the cell that holds the true pose is then thrown away whenever its centre fits worse,
inside the band, than some other pose fits over all frequencies. With ‖c (S(t')h(R') − S(t)h(R))‖ ≤ δ for
all poses of the cell, the triangle inequality gives what holds for each of them: the misfit is at
least ½ max(0, √(2E) − δ)², E the misfit of the centre.

A turn by α moves the point Rᵀk by at most α|k|, a shift by d changes a phase by at most 2π|k|d, so

.. math:: \delta^2 \le \sum_k c_k^2 |k|^2 \bigl(\alpha\,G(|k|) + 2\pi d\,M(|k|)\bigr)^2

with G and M the largest gradient and the largest modulus of V̂ on a shell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.view import HalfDisc, View, to_spectrum
from cryoatlas.shapes import Float, Int, Tensor

STEP = 0.5
"""Of the central difference, in cycles per box: transforms of what fits the box are smooth on that scale."""


@dataclass(frozen=True)
class Steepness:
    """Largest |∇V̂| (per cycle per box) and |V̂| by shell, scaled as `HalfDisc.spectrum` scales."""

    gradient: Float[Tensor, "shell"]
    modulus: Float[Tensor, "shell"]

    @classmethod
    def of(cls, volume: Volume, half: HalfDisc, z: Float[Tensor, "latent"] | None = None) -> "Steepness":
        """Measured at every lattice point inside the sphere of the disc's radius."""
        like, reach = half.plane, float(half.radius.max())
        side = 2 * math.ceil(reach) + 1
        points = frequency_grid(side, 3).flatten(0, 2)
        points = points[: len(points) // 2].to(like)
        points = points[points.norm(dim=1) <= reach]
        around = STEP * torch.cat([torch.zeros(1, 3), torch.eye(3), -torch.eye(3)]).to(like)
        unit = 1 / (half.box_size * volume.pixel_size)
        freqs = (points[:, None] + around).flatten(0, 1) * unit
        forward, backward = volume.hartley_pair(freqs[None], None if z is None else z[None])
        values = to_spectrum(forward, backward)[0].unflatten(0, (len(points), 7))
        slope = (values[:, 1:4] - values[:, 4:]) / (2 * STEP)
        shell = points.norm(dim=1).ceil().long()
        return cls(
            _largest(slope.abs().square().sum(1).sqrt(), shell, side // 2 + 1),
            _largest(values[:, 0].abs(), shell, side // 2 + 1),
        )

    def change(self, views: Sequence[View], band: float, turn: float, shift: float) -> Float[Tensor, "image"]:
        """δ of every image for turns up to `turn` (radians) and shifts up to `shift` (Å).

        Args:
            band: radius of the frequencies compared, cycles per box.
        """
        squared = torch.zeros(len(views[0]), device=self.gradient.device)
        for view in views:
            count = view.half.count(band)
            radius = view.half.radius[:count]
            # A point between two shells is held against the larger of both.
            shell = radius.ceil().long()
            inner = (shell - 1).clamp(min=0)
            gradient = torch.maximum(self.gradient[shell], self.gradient[inner])
            modulus = torch.maximum(self.modulus[shell], self.modulus[inner])
            moved = 2 * math.pi * shift * view.half.plane[:count].norm(dim=1) * modulus
            largest = (turn * radius * gradient + moved).square()
            squared = squared + view.transfer[:, :count].square() @ largest
        return squared.sqrt()


def _largest(
    values: Float[Tensor, "point"], shell: Int[Tensor, "point"], count: int
) -> Float[Tensor, "shell"]:
    return values.new_zeros(count).scatter_reduce(0, shell, values, "amax")
