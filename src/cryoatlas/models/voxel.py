r"""Volumes on a grid: slicing by linear interpolation, and back-projection, its exact adjoint.

The grid holds the Hartley transform of the map zero-padded to twice its box. Linear interpolation
in Fourier space multiplies the map by sinc²(x/P) along each axis (P the padded box); maps are divided
by it before slicing and after back-projection ("gridding correction").
"""

from dataclasses import dataclass

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.shells import interpolate_shells, shell_grid, shell_mean
from cryoatlas.fourier.transform import hartley_volume, inverse_hartley_volume
from cryoatlas.imaging.volume import for_each_image
from cryoatlas.shapes import Float, Tensor

PADDING = 2
CHANNELS_AT_ONCE = 2
"""Grids scattered into together; more fall out of a CPU's cache: nine take 1.6 times as long as by twos."""


@dataclass(frozen=True)
class VoxelVolume:
    """A map as a `Volume`: slices by trilinear interpolation in its padded Hartley transform."""

    grid: Float[Tensor, "side side side"]
    """Hartley coefficients at k = −P/2 … P/2 in steps of one cycle per padded box, both ends included."""
    box_size: int
    pixel_size: float
    latent_size: int = 0

    @classmethod
    def from_map(cls, volume: Float[Tensor, "box box box"], pixel_size: float) -> "VoxelVolume":
        """The interpolating grid of a real-space map."""
        return cls(interpolating_grid(volume), volume.shape[-1], pixel_size)

    def to(self, *args: object, **kwargs: object) -> "VoxelVolume":
        """Move or convert the grid, as `Tensor.to`."""
        return VoxelVolume(self.grid.to(*args, **kwargs), self.box_size, self.pixel_size)  # type: ignore[arg-type]

    def map(self) -> Float[Tensor, "box box box"]:
        """The real-space map that the grid was made of.

        Not what `voxels` would give: interpolation blurs between the nodes of the grid, which the
        gridding correction undoes, but not on them, where `voxels` looks.
        """
        padded = inverse_hartley_volume(self.grid[:-1, :-1, :-1]) / PADDING
        return _crop(padded, self.box_size) * gridding_correction(self.box_size).to(padded)

    def hartley(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> Float[Tensor, "image pixel"]:
        """H(k), linearly interpolated; 0 beyond the padded grid."""
        return for_each_image(interpolate(self.grid[None], freqs, self.pixel_size)[0], z)

    def hartley_pair(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) and H(−k), two look-ups."""
        both = self.hartley(torch.cat([freqs, -freqs], 1), z)
        forward, backward = both.chunk(2, -1)
        return forward, backward


class Backprojector:
    """Accumulates Σᵢ wᵢ A(Rᵢ)ᵀ [ĝᵢ S(−tᵢ)X̂ᵢ / σ²] and Σᵢ wᵢ A(Rᵢ)ᵀ [ĝᵢ² / σ²] and solves for the map.

    The two sums are the right-hand side and the diagonal of the normal equations of eq. 2 on the
    padded grid, so `solve` is the maximum-a-posteriori map for a Gaussian prior on every shell.
    """

    def __init__(self, box_size: int, pixel_size: float, *, like: Tensor | None = None) -> None:
        side = PADDING * box_size + 1
        like = torch.empty(0) if like is None else like
        self.box_size, self.pixel_size = box_size, pixel_size
        self.sums = like.new_zeros(2, side, side, side)

    def add(
        self,
        centred: Float[Tensor, "image pixel"],
        freqs: Float[Tensor, "image pixel 3"],
        ctf: Float[Tensor, "#image #pixel"],
        precision: Float[Tensor, "#image #pixel"],
    ) -> None:
        """Add images.

        Args:
            centred: Hartley coefficients with the shift undone.
            freqs: where each coefficient lies in the volume, Å⁻¹ (`slice_frequencies`).
            ctf: ĝ, or ones.
            precision: weight over noise variance, w/σ².
        """
        weighted = torch.stack([ctf * precision * centred, (ctf**2 * precision).expand_as(centred)])
        self.sums += scatter_to_grid(weighted, freqs, self.box_size, self.pixel_size)

    def __add__(self, other: "Backprojector") -> "Backprojector":
        total = Backprojector(self.box_size, self.pixel_size, like=self.sums)
        total.sums = self.sums + other.sums
        return total

    def solve(self, signal_to_noise: Float[Tensor, "shell"] | None = None) -> Float[Tensor, "box box box"]:
        """The real-space map.

        Args:
            signal_to_noise: of the map by shell of the unpadded box (`fourier.correlation`); sets the
                Wiener filter. None filters only what is not measured: a floor of a thousandth of the
                mean weight.
        """
        padded_box = PADDING * self.box_size
        numerator, weight = fold(self.sums)
        grid = frequency_grid(padded_box, 3, weight.device)
        radius = torch.linalg.vector_norm(grid, dim=-1).to(weight) / PADDING
        shells, count = shell_grid(padded_box, 3, weight.device), padded_box // 2 + 1
        mean_weight = shell_mean(weight, shells, count)
        prior = 1e-3 * mean_weight.clamp(min=1e-3 * float(mean_weight.max()) + 1e-30)
        if signal_to_noise is not None:
            ratio = interpolate_shells(
                signal_to_noise.to(weight), torch.arange(count, device=weight.device) / PADDING
            )
            prior = torch.maximum(prior, mean_weight / ratio.clamp(min=1e-3))
        solved = numerator / (weight + prior[shells.clamp(max=count - 1)])
        return map_of_grid(solved * (radius < self.box_size / 2))


def scatter_to_grid(
    values: Float[Tensor, "channel image pixel"],
    freqs: Float[Tensor, "image pixel 3"],
    box_size: int,
    pixel_size: float,
) -> Float[Tensor, "channel side side side"]:
    """Add values up on the padded grid of a box, at given frequencies: the transpose of interpolation."""
    side = PADDING * box_size + 1
    where = _grid_coordinates(freqs, pixel_size)[None, None]

    def scattered(some: Float[Tensor, "channel image pixel"]) -> Float[Tensor, "channel side side side"]:
        empty = some.new_empty(1).expand(1, len(some), side, side, side)
        # The transpose of grid_sample is the first output of its own backward pass.
        adjoint, _ = torch.ops.aten.grid_sampler_3d_backward(
            some[None, :, None].contiguous(), empty, where, 0, 0, True, [True, False]
        )
        return adjoint[0]

    return torch.cat([scattered(some) for some in values.split(CHANNELS_AT_ONCE)])


def map_of_grid(grid: Float[Tensor, "padded padded padded"]) -> Float[Tensor, "box box box"]:
    """The real-space map of coefficients solved for on the padded grid, its repeated faces folded in."""
    box_size = len(grid) // PADDING
    padded = inverse_hartley_volume(grid / PADDING)
    return _crop(padded, box_size) / gridding_correction(box_size).to(padded)


def interpolating_grid(maps: Float[Tensor, "*map box box box"]) -> Float[Tensor, "*map side side side"]:
    """Hartley coefficients of maps at k = −P/2 … P/2, such that `interpolate` gives their slices."""
    box = maps.shape[-1]
    padded = _pad(maps / gridding_correction(box).to(maps), PADDING * box)
    # C6 divides by the box of the map, not by the padded one.
    grid = PADDING * hartley_volume(padded)
    for axis in (-3, -2, -1):
        grid = torch.cat([grid, grid.narrow(axis, 0, 1)], axis)
    return grid


def interpolate(
    grids: Float[Tensor, "map side side side"], freqs: Float[Tensor, "image pixel 3"], pixel_size: float
) -> Float[Tensor, "map image pixel"]:
    """H(k) of every map by trilinear interpolation; 0 beyond the padded grid."""
    where = _grid_coordinates(freqs, pixel_size)[None, None]
    return torch.nn.functional.grid_sample(grids[None], where, align_corners=True)[0, :, 0]


def gridding_correction(box_size: int) -> Float[Tensor, "box box box"]:
    """sinc²(x/P) along each axis: what linear interpolation on the padded grid multiplies the map by."""
    axis = (torch.arange(box_size, dtype=torch.float64) - box_size // 2) / (PADDING * box_size)
    window = torch.sinc(axis) ** 2
    return window[:, None, None] * window[None, :, None] * window[None, None, :]


def _grid_coordinates(
    freqs: Float[Tensor, "image pixel 3"], pixel_size: float
) -> Float[Tensor, "image pixel 3"]:
    """Frequencies in units that `grid_sample` wants: ±1 at ±½ cycle per pixel."""
    return freqs * (2 * pixel_size)


def fold(sums: Float[Tensor, "channel side side side"]) -> Float[Tensor, "channel box box box"]:
    """Drop the far faces, which repeat the near ones, adding what was accumulated on them."""
    for axis in (1, 2, 3):
        last = sums.shape[axis] - 1
        near = sums.narrow(axis, 0, 1) + sums.narrow(axis, last, 1)
        sums = torch.cat([near, sums.narrow(axis, 1, last - 1)], axis)
    return sums


def _pad(maps: Float[Tensor, "*map box box box"], size: int) -> Float[Tensor, "*map size size size"]:
    start = size // 2 - maps.shape[-1] // 2
    padded = maps.new_zeros(*maps.shape[:-3], size, size, size)
    region = slice(start, start + maps.shape[-1])
    padded[..., region, region, region] = maps
    return padded


def _crop(padded: Float[Tensor, "size size size"], box: int) -> Float[Tensor, "box box box"]:
    region = slice(padded.shape[-1] // 2 - box // 2, padded.shape[-1] // 2 - box // 2 + box)
    return padded[region, region, region]
