r"""V(z) = μ + Σ_k z_k W_k on small grids: what the subspace engine knows of the molecule."""

from dataclasses import dataclass
from functools import cached_property

import torch

from cryoatlas.fourier.mask import soft_ball
from cryoatlas.fourier.shells import shell_grid, shell_mean
from cryoatlas.fourier.transform import hartley_volume, inverse_hartley_volume
from cryoatlas.models.basis import BasisVolume
from cryoatlas.poses.view import View
from cryoatlas.shapes import Complex, Float, Tensor

SUPPORT = 0.42
"""Radius of the ball that maps live in, as a part of the box: where images are not windowed away."""
SUPPORT_EDGE_PX = 3.0


@dataclass(frozen=True)
class Subspace:
    """Maps whose weighted sums are the states: weight 1 for the mean, z for the components."""

    maps: Float[Tensor, "map box box box"]
    """μ, then W_1 … W_K, scaled so that z ~ N(0, I)."""
    pixel_size: float
    """Å."""

    @property
    def components(self) -> int:
        """K."""
        return len(self.maps) - 1

    @property
    def box_size(self) -> int:
        """Of the maps, px."""
        return self.maps.shape[-1]

    @cached_property
    def basis(self) -> BasisVolume:
        """The maps, ready to be weighed and cut."""
        return BasisVolume.from_maps(self.maps, self.pixel_size)

    def slices(
        self, view: View, rotation: Float[Tensor, "rotation 3 3"], count: int
    ) -> Complex[Tensor, "map rotation kept"]:
        """Slices of every map, the first `count` coefficients of each."""
        return view.slices_of_each(self.basis, rotation, torch.eye(len(self.maps)).to(self.maps), count)

    def with_random_components(self, components: int, share: float, generator: torch.Generator) -> "Subspace":
        """More components of random phases with the mean's spectrum.

        Args:
            components: K afterwards.
            share: amplitude of each new one as a part of the mean's.
            generator: on the CPU.
        """
        spectrum = mean_square(self.maps[0]).sqrt()
        shells = shell_grid(self.box_size, 3).clamp(max=len(spectrum) - 1)
        extent = self.maps[0].abs() / self.maps[0].abs().max()
        new = []
        for _ in range(components - self.components):
            noise = torch.randn(shells.shape, generator=generator).to(spectrum)
            smooth = inverse_hartley_volume(noise * spectrum[shells.to(spectrum.device)])
            inside = smooth * extent.sqrt()
            new.append(share * inside * self.maps[0].norm() / inside.norm())
        return Subspace(torch.cat([self.maps, torch.stack(new)]), self.pixel_size)

    def in_support(self) -> "Subspace":
        """The same inside the ball that maps live in, 0 outside."""
        edge = min(SUPPORT_EDGE_PX, self.box_size / 8)
        ball = soft_ball(self.box_size, 3, SUPPORT * self.box_size, edge).to(self.maps)
        return Subspace(self.maps * ball, self.pixel_size)

    def averaged_over_directions(self) -> "Subspace":
        """The mean map as a ball of the same radial profile, without components."""
        spectrum = hartley_volume(self.maps[0])
        shells = shell_grid(self.box_size, 3, spectrum.device)
        count = self.box_size // 2 + 1
        profile = shell_mean(spectrum, shells, count)
        ball = profile[shells.clamp(max=count - 1)] * (shells < count)
        return Subspace(inverse_hartley_volume(ball)[None], self.pixel_size)


def mean_square(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "shell"]:
    """Mean square of the Hartley coefficients of a map by shell, 0 … box // 2."""
    count = volume.shape[-1] // 2 + 1
    return shell_mean(hartley_volume(volume).square(), shell_grid(volume.shape[-1], 3, volume.device), count)
