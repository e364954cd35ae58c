r"""How much a prediction can change inside a cell of the grids: what makes the search's bound one.

The printed bound judges a cell by the pose at its centre. But a better pose may lie beside it: on
noiseless images the cell that holds the true pose is then thrown away whenever its centre fits worse,
inside the band, than some other pose fits over all frequencies. With ‖c (S(t')h(R') − S(t)h(R))‖ ≤ δ for
all poses of the cell, the triangle inequality gives what holds for each of them: the misfit is at
least ½ max(0, √(2E) − δ)², E the misfit of the centre.

A turn by α moves the point Rᵀk by at most α|k|, a shift by d changes a phase by at most 2π|k|d, so

.. math:: \delta^2 \le \sum_k c_k^2 |k|^2 \bigl(\alpha\,G(|k|) + 2\pi d\,M(|k|)\bigr)^2

with G and M the largest gradient and the largest modulus of V̂ on a shell. Images with volumes of their
own have G and M of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.view import POINTS_AT_ONCE, HalfDisc, Latent, View, as_rows, spectrum_at
from cryoatlas.shapes import Float, Tensor

STEP = 0.5
"""Of the central difference, in cycles per box: transforms of what fits the box are smooth on that scale."""


@dataclass(frozen=True)
class Steepness:
    """Largest |∇V̂| (per cycle per box) and |V̂| by shell, scaled as `HalfDisc.spectrum` scales."""

    gradient: Float[Tensor, "#image shell"]
    modulus: Float[Tensor, "#image shell"]
    evaluations: int
    """Frequencies, each with its opposite, at which V(z) was asked for, all z together."""

    @classmethod
    def of(
        cls, volume: Volume, half: HalfDisc, z: Latent | None = None, band: float | None = None
    ) -> "Steepness":
        """Measured at every lattice point in the ball of the disc's radius, or up to the shell of `band`.

        A row for each z; one where all images share it.
        """
        like = half.plane
        latent = as_rows(z)
        reach = float(half.radius.max())
        points = _half_ball(reach if band is None else min(reach, float(math.ceil(band)))).to(like)
        shell = points.norm(dim=1).ceil().long()
        count = int(shell.max()) + 1
        gradient = like.new_zeros(1 if latent is None else len(latent), count)
        modulus = gradient.clone()
        unit = 1 / (half.box_size * volume.pixel_size)
        around = STEP * torch.cat([torch.zeros(1, 3), torch.eye(3), -torch.eye(3)]).to(like)
        some = POINTS_AT_ONCE.rows(len(around) * len(gradient), points.device)
        for part, where in zip(points.split(some), shell.split(some), strict=True):
            freqs = (part[:, None] + around).flatten(0, 1) * unit
            values = spectrum_at(volume, freqs[None], latent).unflatten(1, (len(part), len(around)))
            slope = (values[..., 1:4] - values[..., 4:]) / (2 * STEP)
            where = where.expand(len(gradient), -1)
            gradient.scatter_reduce_(1, where, slope.abs().square().sum(-1).sqrt(), "amax")
            modulus.scatter_reduce_(1, where, values[..., 0].abs(), "amax")
        return cls(gradient, modulus, len(points) * len(around) * len(gradient))

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
            gradient = torch.maximum(self.gradient[:, shell], self.gradient[:, inner])
            modulus = torch.maximum(self.modulus[:, shell], self.modulus[:, inner])
            moved = 2 * math.pi * shift * view.half.plane[:count].norm(dim=1) * modulus
            largest = (turn * radius * gradient + moved).square()
            squared = squared + torch.linalg.vecdot(view.transfer[:, :count].square(), largest)
        return squared.sqrt()


def _half_ball(radius: float) -> Float[Tensor, "point 3"]:
    """One of each pair k, −k of lattice points in a ball, without its centre; cycles per box."""
    points = frequency_grid(2 * math.ceil(radius) + 1, 3).flatten(0, 2)
    points = points[: len(points) // 2]
    return points[points.norm(dim=1) <= radius]
