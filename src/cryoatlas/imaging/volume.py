"""What a volume is to the rest of the package: a function of frequency (and z)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import fourier_from_hartley, inverse_hartley_volume
from cryoatlas.shapes import Float, Tensor


@runtime_checkable
class Volume(Protocol):
    """A volume V(z), known through its Hartley transform.

    Training, pose search, back-projection and analysis use nothing else, so a neural decoder, a voxel
    grid and a closed-form body are exchangeable.
    """

    box_size: int
    """Side of the box in voxels; it sets the scale of the transform (convention C6)."""
    pixel_size: float
    """Side of a voxel, Å."""
    latent_size: int
    """Dimension of z; 0 for a single volume."""

    def hartley(
        self, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> Float[Tensor, "image pixel"]:
        """Hartley coefficients of V(z) at arbitrary frequencies.

        Args:
            freqs: (kx, ky, kz), Å⁻¹, in the volume's frame; |k| below Nyquist.
            z: the latent of each image, None when `latent_size` is 0.
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

    def fourier(self, freqs: Float[Tensor, "image pixel 3"]) -> Tensor:
        """F(k) = Σ_a w_a exp(−2πi k·x_a − 2π²σ²|k|²), in the scale of convention C6."""
        phase = 2 * torch.pi * (freqs @ self.centres.T)
        envelope = torch.exp(-2 * (torch.pi * self.sigma) ** 2 * freqs.square().sum(-1))
        spectrum = torch.complex(torch.cos(phase) @ self.weights, -torch.sin(phase) @ self.weights)
        return spectrum * envelope / (self.pixel_size**3 * self.box_size)

    def hartley(
        self, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> Float[Tensor, "image pixel"]:
        spectrum = self.fourier(freqs)
        return spectrum.real - spectrum.imag


def voxels(
    volume: Volume, z: Float[Tensor, "latent"] | None = None, *, slabs: int = 8
) -> Float[Tensor, "box box box"]:
    """The real-space map of V(z): every frequency inside the ball of Nyquist radius, inverse transformed.

    Args:
        slabs: planes of constant kz evaluated at a time; bounds the memory.
    """
    box = volume.box_size
    device = z.device if z is not None else None
    grid = frequency_grid(box, 3)
    inside = grid.square().sum(-1) < (box / 2) ** 2
    coefficients = torch.zeros(box, box, box, dtype=torch.get_default_dtype(), device=device)
    for start in range(0, box, slabs):
        part = inside[start : start + slabs]
        freqs = grid[start : start + slabs][part] / (box * volume.pixel_size)
        freqs = freqs.to(coefficients.dtype).to(device)
        values = volume.hartley(freqs[None], None if z is None else z[None])[0]
        coefficients[start : start + slabs][part.to(coefficients.device)] = values
    return inverse_hartley_volume(coefficients)


def fourier_values(
    volume: Volume, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None = None
) -> Tensor:
    """F(k) of any volume from its Hartley transform at ±k."""
    return fourier_from_hartley(volume.hartley(freqs, z), volume.hartley(-freqs, z))
