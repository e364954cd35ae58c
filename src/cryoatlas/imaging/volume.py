"""What a volume is to the rest of the package: a function of frequency (and z)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import inverse_hartley_volume
from cryoatlas.shapes import Complex, Float, Tensor


@runtime_checkable
class Volume(Protocol):
    """A volume V(z), known through its Hartley transform.

    Training, pose search, back-projection and analysis use nothing else, so a neural decoder, a voxel
    grid and a closed-form body are exchangeable.
    """

    @property
    def box_size(self) -> int:
        """Side of the box in voxels; it sets the scale of the transform (convention C6)."""
        ...

    @property
    def pixel_size(self) -> float:
        """Side of a voxel, Å."""
        ...

    @property
    def latent_size(self) -> int:
        """Dimension of z; 0 for a single volume."""
        ...

    def hartley(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> Float[Tensor, "image pixel"]:
        """Hartley coefficients H(k) of V(z) at arbitrary frequencies.

        Args:
            freqs: (kx, ky, kz), Å⁻¹, in the volume's frame; |k| below Nyquist. One row serves the z of
                all images, which a volume may turn into less work.
            z: the latent of each image, None when `latent_size` is 0.

        Returns:
            A row for each image, also from a volume that takes no notice of z.
        """
        ...

    def hartley_pair(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) and H(−k), which together are the Fourier coefficient F(k).

        Slices and maps hold every frequency with its opposite, so this is what the forward model
        calls; a volume that can share work between the two halves its cost here.
        """
        ...


@dataclass(frozen=True)
class GaussianBody:
    """Equal Gaussians at given points: a `Volume` whose transform, slices and shifts have closed forms.

    The density is Σ_a w_a (2πσ²)^(−3/2) exp(−|x − x_a|²/2σ²) per Å³, sampled on voxels of side
    `pixel_size`; the voxel values sum to Σ_a w_a / pixel_size³.
    """

    centres: Float[Tensor, "atom 3"]
    """Positions x, y, z, Å, from the centre of the box."""
    weights: Float[Tensor, "atom"]
    sigma: float
    """Standard deviation of every Gaussian, Å."""
    box_size: int
    pixel_size: float
    latent_size: int = 0

    def fourier(self, freqs: Float[Tensor, "#image pixel 3"]) -> Complex[Tensor, "#image pixel"]:
        """F(k) = Σ_a w_a exp(−2πi k·x_a − 2π²σ²|k|²), in the scale of convention C6."""
        spectrum = gaussian_transform(freqs, self.centres, self.weights, self.sigma)
        return spectrum / (self.pixel_size**3 * self.box_size)

    def hartley_pair(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) = Re F − Im F and H(−k) = Re F + Im F."""
        spectrum = self.fourier(freqs)
        forward, backward = spectrum.real - spectrum.imag, spectrum.real + spectrum.imag
        return for_each_image(forward, z), for_each_image(backward, z)

    def hartley(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> Float[Tensor, "image pixel"]:
        """H(k) = Re F(k) − Im F(k)."""
        return self.hartley_pair(freqs, z)[0]


def gaussian_transform(
    freqs: Float[Tensor, "#image pixel 3"],
    centres: Float[Tensor, "*image atom 3"],
    weights: Float[Tensor, "atom"],
    sigma: float,
) -> Complex[Tensor, "#image pixel"]:
    """Σ_a w_a exp(−2πi k·x_a − 2π²σ²|k|²), of one set of centres or of one for each image."""
    phase = 2 * torch.pi * (freqs @ centres.mT)
    envelope = torch.exp(-2 * (torch.pi * sigma) ** 2 * freqs.square().sum(-1))
    return torch.complex(torch.cos(phase) @ weights, -torch.sin(phase) @ weights) * envelope


def for_each_image(
    values: Float[Tensor, "#image pixel"], z: Float[Tensor, "image latent"] | None
) -> Float[Tensor, "#image pixel"]:
    """What does not depend on z, once for each image; a view, not a copy."""
    return values if z is None else values.expand(len(z), -1)


def voxels(
    volume: Volume,
    z: Float[Tensor, "latent"] | None = None,
    *,
    radius: float | None = None,
    like: Tensor | None = None,
    chunk: int = 65536,
) -> Float[Tensor, "box box box"]:
    """The real-space map of V(z): all frequencies below Nyquist, inverse transformed.

    Args:
        z: which volume; None when `volume.latent_size` is 0.
        radius: frequencies from here on are left out, cycles per box; default half the box.
        like: a tensor with the dtype and device to evaluate in; default that of z, or the default.
        chunk: frequencies evaluated at a time; bounds the memory.
    """
    box = volume.box_size
    like = torch.empty(0) if like is None and z is None else (z if like is None else like)
    grid = frequency_grid(box, 3).flatten(0, 2)
    limit = box / 2 if radius is None else min(radius, box / 2)
    inside = (grid.square().sum(-1) < limit**2).nonzero().squeeze(-1)
    # Raster order lists k and −k symmetrically, so the first half and the centre determine the rest.
    half = len(inside) // 2 + 1
    freqs = (grid[inside[:half]] / (box * volume.pixel_size)).to(like)
    latent = None if z is None else z[None].to(like)
    pairs = [volume.hartley_pair(part[None], latent) for part in freqs.split(chunk)]
    forward, backward = (torch.cat([pair[i][0] for pair in pairs]) for i in (0, 1))
    coefficients = torch.zeros(box**3, dtype=forward.dtype, device=forward.device)
    inside = inside.to(forward.device)
    coefficients[inside[:half]] = forward
    coefficients[inside.flip(0)[:half]] = backward
    return inverse_hartley_volume(coefficients.reshape(box, box, box))
