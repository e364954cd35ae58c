r"""Volumes that are weighted sums of a few maps, and such sums as stand-ins for any volume of many z.

A pose search asks for V(z_i) at some hundred thousand frequencies for every image i. Where the volumes
of a batch of images are near a space of few dimensions, as they are whenever z moves them smoothly, it
is cheaper to evaluate V at a few z and to weigh the maps:

.. math:: V(z_i) \approx \sum_k \varphi_{ik} V(z_{j_k})

with the j_k images of the batch (an interpolative decomposition). Because the terms are volumes of the
model itself, no mean and no modes need be stored, and images whose volume was chosen have it exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cryoatlas.imaging.volume import Volume, voxels
from cryoatlas.models.voxel import interpolate, interpolating_grid
from cryoatlas.shapes import Float, Int, Tensor

COMPARED = 2048
"""Frequencies, each with its opposite, on which the volumes of a batch are compared."""
AT_ONCE = 2**19
"""Values asked of a volume at a time; bounds the memory of networks."""


@dataclass(frozen=True)
class BasisVolume:
    """V(φ) = Σ_k φ_k B_k as a `Volume` whose z are the weights φ; slices by trilinear interpolation."""

    grids: Float[Tensor, "latent side side side"]
    """Of each B_k what `VoxelVolume.grid` is."""
    box_size: int
    pixel_size: float

    @classmethod
    def from_maps(cls, maps: Float[Tensor, "latent box box box"], pixel_size: float) -> "BasisVolume":
        """The interpolating grids of real-space maps."""
        grids = interpolating_grid(maps)
        # The values of all maps at a point lie together, which halves the time of interpolation.
        together = grids[None].contiguous(memory_format=torch.channels_last_3d)[0]
        return cls(together, maps.shape[-1], pixel_size)

    @property
    def latent_size(self) -> int:
        """How many maps there are to weigh."""
        return len(self.grids)

    def hartley(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> Float[Tensor, "image pixel"]:
        """H(k). A single row of frequencies is interpolated once for all images."""
        assert z is not None, "a sum of maps needs their weights"
        sampled = interpolate(self.grids, freqs, self.pixel_size)
        if len(freqs) == 1:
            return z @ sampled[:, 0]
        return torch.einsum("ik,kip->ip", z, sampled)

    def hartley_pair(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) and H(−k), two look-ups."""
        forward, backward = self.hartley(torch.cat([freqs, -freqs], 1), z).chunk(2, -1)
        return forward, backward


@dataclass(frozen=True)
class StandIn:
    """A sum of maps in place of the volumes of some images."""

    volume: BasisVolume
    z: Float[Tensor, "image latent"]
    """φ, the weights of the maps in each image's volume: the z that `volume` wants."""
    chosen: Int[Tensor, "latent"]
    """The images whose volumes the maps are."""
    error: Float[Tensor, "image"]
    """Root-mean-square error of slices in all directions, as a part of the slices' own, inside the band;
    without that of interpolating the maps."""


@torch.no_grad()
def interpolate_volumes(
    volume: Volume,
    z: Float[Tensor, "image latent"],
    *,
    band: float,
    tolerance: float,
    most: int,
    map_of: Callable[[Float[Tensor, "latent"]], Float[Tensor, "box box box"]] | None = None,
) -> StandIn:
    """The fewest of the images' own volumes, found greedily, whose sums come near all of them.

    Args:
        volume: evaluated for every image at `COMPARED` frequencies, and for the chosen ones everywhere.
        band: radius of the frequencies that matter, cycles per box.
        tolerance: largest `StandIn.error` aimed at.
        most: maps to stop at, whatever the error then is.
        map_of: gives V(z) in real space. By default `imaging.volume.voxels` below `band`; a volume that is
            itself interpolated knows better (`Decoder.map`).
    """
    values = _compared(volume, z, band)
    chosen = _spanning(values, tolerance, most)
    basis = values[chosen]
    # In float64, as volumes that differ by little are much alike.
    weights = torch.linalg.lstsq(basis.T, values.T).solution.T
    error = (values - weights @ basis).norm(dim=1) / _norms(values)
    make_map = map_of or partial(voxels, volume, radius=band)
    maps = torch.stack([make_map(z[index]) for index in chosen])
    stand_in = BasisVolume.from_maps(maps, volume.pixel_size)
    return StandIn(stand_in, weights.to(maps), chosen, error.to(maps))


def slice_points(count: int, radius: float, *, like: Tensor) -> Float[Tensor, "point 3"]:
    """Points spread in a ball as those of its central slices in all directions are together.

    Their directions are even on the sphere and their distances even in area, so that sums of squares over
    them are to those over slices, on average, as their numbers are. A fixed sequence of low discrepancy.

    Args:
        radius: of the ball, in any unit.
    """
    number = torch.arange(count, dtype=torch.float64) + 0.5
    # Powers of the inverse of the root of x⁴ = x + 1: the generalised golden ratio of three dimensions.
    ratio = torch.tensor([1, 2, 3]) * -torch.log(torch.tensor(1.2207440846057596, dtype=torch.float64))
    height, turn, area = torch.remainder(number[:, None] * ratio.exp(), 1).unbind(1)
    height, turn = 2 * height - 1, 2 * torch.pi * turn
    across = (1 - height.square()).sqrt()
    direction = torch.stack([across * turn.cos(), across * turn.sin(), height], 1)
    return (radius * area.sqrt()[:, None] * direction).to(like)


def _compared(volume: Volume, z: Float[Tensor, "image latent"], band: float) -> Float[Tensor, "image point"]:
    """H of every image's volume at the same `COMPARED` frequencies and their opposites, float64."""
    unit = 1 / (volume.box_size * volume.pixel_size)
    freqs = slice_points(COMPARED, band * unit, like=z)[None]
    some = z.split(max(1, AT_ONCE // COMPARED))
    return torch.cat([torch.cat(volume.hartley_pair(freqs, part), 1) for part in some]).double()


def _spanning(values: Float[Tensor, "image point"], tolerance: float, most: int) -> Int[Tensor, "chosen"]:
    """Rows whose span is within `tolerance` of every row: a QR decomposition with pivots, stopped early.

    The row that is farthest from the span of those chosen, in parts of its own length, is the next.
    """
    norms = _norms(values)
    left = values / norms[:, None]
    chosen: list[int] = []
    while len(chosen) < min(most, len(values)):
        distance = left.norm(dim=1)
        farthest = int(distance.argmax())
        if chosen and float(distance[farthest]) <= max(tolerance, torch.finfo(torch.float32).eps):
            break
        chosen.append(farthest)
        direction = left[farthest] / distance[farthest].clamp(min=torch.finfo(norms.dtype).tiny)
        left = left - torch.outer(left @ direction, direction)
    return torch.tensor(chosen, device=values.device)


def _norms(values: Float[Tensor, "image point"]) -> Float[Tensor, "image"]:
    """Lengths to divide by: an empty volume counts as one of length 1."""
    norms = values.norm(dim=1)
    return torch.where(norms > 0, norms, 1.0)
