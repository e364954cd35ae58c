"""The discs of Fourier coefficients that images are compared on.

A `Disc` lists the integer frequencies (kx, ky), in cycles per box, inside a circle. The list is in
raster order and closed under k → −k, so that reversing it negates every frequency: ``h.flip(-1)``
is H(−k). The unpaired row and column of an even box lie outside every disc.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from cryoatlas.shapes import Float, Int, Tensor


def frequency_grid(
    box_size: int, dimensions: int, device: torch.device | None = None
) -> Float[Tensor, "*grid axis"]:
    """Integer frequencies of a centred transform, cycles per box, last axis ordered x, y (, z).

    The array axes are (z,) y, x, so entry [j, i] of a 2-D grid is (kx, ky) = (i, j) − box // 2.
    """
    axis = torch.arange(box_size, dtype=torch.float64, device=device) - box_size // 2
    grids = torch.meshgrid(*[axis] * dimensions, indexing="ij")
    return torch.stack(grids[::-1], -1)


@dataclass(frozen=True)
class Disc:
    """Frequencies 0 ≤ |k| < `radius` (cycles per box) of a `box_size` image.

    `radius` defaults to half the box: everything up to, and without, Nyquist.
    """

    box_size: int
    radius: float | None = None

    def __post_init__(self) -> None:
        limit = self.box_size / 2
        if self.radius is not None and not 0 < self.radius <= limit:
            raise ValueError(
                f"disc radius must lie in (0, {limit}] for a box of {self.box_size} px, got {self.radius}"
            )

    @cached_property
    def _inside(self) -> Tensor:
        limit = self.box_size / 2 if self.radius is None else self.radius
        grid = frequency_grid(self.box_size, 2)
        return grid.square().sum(-1) < limit**2

    @cached_property
    def frequencies(self) -> Float[Tensor, "pixel 2"]:
        """(kx, ky) in cycles per box, float64."""
        return frequency_grid(self.box_size, 2)[self._inside]

    @cached_property
    def indices(self) -> Int[Tensor, "pixel"]:
        """Positions in the flattened centred image transform."""
        return self._inside.flatten().nonzero().squeeze(-1)

    @cached_property
    def shells(self) -> Int[Tensor, "pixel"]:
        """Ring number of each coefficient, round(|k|)."""
        return torch.linalg.vector_norm(self.frequencies, dim=-1).round().long()

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, coefficients: Float[Tensor, "*batch box box"]) -> Float[Tensor, "*batch pixel"]:
        """The coefficients of centred transforms that lie inside the disc."""
        return coefficients.flatten(-2)[..., self.indices.to(coefficients.device)]

    def scatter(self, inside: Float[Tensor, "*batch pixel"]) -> Float[Tensor, "*batch box box"]:
        """Centred transforms that are zero outside the disc: the adjoint of `gather`."""
        full = inside.new_zeros(*inside.shape[:-1], self.box_size**2)
        full[..., self.indices.to(inside.device)] = inside
        return full.unflatten(-1, (self.box_size, self.box_size))

    def within(self, radius: float) -> Int[Tensor, "some"]:
        """Positions, in this disc's list, of the coefficients with |k| < radius (closed under k → −k)."""
        return (self.frequencies.square().sum(-1) < radius**2).nonzero().squeeze(-1)
