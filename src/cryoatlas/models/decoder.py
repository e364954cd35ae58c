r"""The decoder p_θ(V̂ | k, z) of eq. 6–8: a coordinate network over frequency, a `Volume`."""

import torch
from torch import nn

from cryoatlas.fourier.shells import interpolate_shells
from cryoatlas.imaging.projection import central_slices
from cryoatlas.imaging.volume import voxels
from cryoatlas.models.config import DecoderConfig
from cryoatlas.models.encoding import build_encoding
from cryoatlas.models.mlp import HiddenLayers, reduced_precision
from cryoatlas.models.voxel import PADDING, VoxelVolume
from cryoatlas.shapes import Float, Tensor

HALF_SPACE = (0.4816, 0.3089, 0.8202)
"""Normal of the plane that parts k from −k. In general position, so that no lattice point but k = 0
lies on it; there the sign is 0, and with it the odd part."""


class CoordinateNetwork(nn.Module):
    """a(|k|) · MLP(k, z): the paper's network, times the amplitude expected of it in each shell.

    With the amplitude the network's outputs are of order one at every frequency, although transforms
    of molecules span orders of magnitude; the paper has a = 1.

    With `DecoderConfig.friedel` the network gives the even and the odd part of the Hartley transform
    for k in one half-space, which is H(k) and H(−k) for one evaluation instead of two.
    """

    amplitude: Tensor

    def __init__(
        self, config: DecoderConfig, box_size: int, pixel_size: float, latent_size: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.friedel = config.friedel
        self.box_size, self.pixel_size, self.latent_size = box_size, pixel_size, latent_size
        self.encoding = build_encoding(config.encoding, box_size, config.features, seed)
        self.first = nn.Linear(self.encoding.size, config.width)
        # z meets the first layer as a term of its own, one for each image rather than for each pixel.
        self.first_latent = nn.Linear(latent_size, config.width, bias=False) if latent_size else None
        self.hidden = HiddenLayers(config.layers, config.width, residual=config.residual)
        self.last = nn.Linear(config.width, 2 if config.friedel else 1)
        self.register_buffer("amplitude", torch.ones(box_size // 2 + 2))

    def hartley(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> Float[Tensor, "image pixel"]:
        """H(k) alone; costs as much as the pair with `friedel`."""
        if self.friedel:
            return self.hartley_pair(freqs, z)[0]
        return self._amplitude_at(freqs) * self._mlp(freqs, z)[..., 0]

    def hartley_pair(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) and H(−k)."""
        amplitude = self._amplitude_at(freqs)
        if self.friedel:
            side = torch.sign(freqs @ freqs.new_tensor(HALF_SPACE))
            even, odd = self._mlp(side[..., None] * freqs, z).unbind(-1)
            return amplitude * (even + side * odd), amplitude * (even - side * odd)
        forward, backward = self._mlp(torch.cat([freqs, -freqs], 1), z)[..., 0].chunk(2, -1)
        return amplitude * forward, amplitude * backward

    def _mlp(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> Float[Tensor, "image pixel output"]:
        features = self.encoding(freqs * self.pixel_size)
        with reduced_precision(features):
            x = self.first(features)
            if self.first_latent is not None:
                # A single row of frequencies is encoded once for all z.
                x = x + self.first_latent(z)[:, None]
            elif z is not None:
                x = x.expand(len(z), -1, -1)
            return self.last(self.hidden(torch.relu(x))).float()

    def _amplitude_at(self, freqs: Float[Tensor, "image pixel 3"]) -> Float[Tensor, "image pixel"]:
        radius = freqs.norm(dim=-1) * (self.box_size * self.pixel_size)
        return interpolate_shells(self.amplitude, radius)


class Decoder(nn.Module):
    """V̂(k, z) = μ̂(k) + network(k, z), with μ̂ the consensus map on a grid.

    With `DecoderConfig.consensus` off, μ̂ is left out and, as in the paper, the network alone is the
    volume.
    """

    consensus: Tensor

    def __init__(
        self, config: DecoderConfig, box_size: int, pixel_size: float, latent_size: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.box_size, self.pixel_size, self.latent_size = box_size, pixel_size, latent_size
        self.network = CoordinateNetwork(config, box_size, pixel_size, latent_size, seed)
        side = PADDING * box_size + 1 if config.consensus else 0
        self.register_buffer("consensus", torch.zeros(side, side, side))

    @property
    def mean(self) -> VoxelVolume | None:
        """μ, None without one."""
        return VoxelVolume(self.consensus, self.box_size, self.pixel_size) if len(self.consensus) else None

    def expect(self, amplitude: Float[Tensor, "shell"]) -> None:
        """Set the root-mean-square expected of the network's part by shell, shells 0 … box // 2."""
        self.network.amplitude.copy_(torch.cat([amplitude, amplitude[-1:]]))

    def start_from(self, amplitude: Float[Tensor, "shell"], consensus: Float[Tensor, "box box box"]) -> None:
        """Set what the network starts from; for decoders with a consensus map.

        Args:
            amplitude: expected root-mean-square of the network's part by shell, shells 0 … box // 2.
            consensus: real-space map μ.
        """
        if self.mean is None:
            raise ValueError(
                "this decoder was configured without a consensus map (config.consensus is False)"
            )
        self.expect(amplitude)
        self.consensus.copy_(VoxelVolume.from_map(consensus, self.pixel_size).grid)

    def consensus_slices(
        self, plane: Float[Tensor, "#image pixel 2"], rotation: Float[Tensor, "image 3 3"]
    ) -> Float[Tensor, "image pixel"]:
        """Slices of μ alone; 0 without one."""
        if self.mean is None:
            return plane.new_zeros(len(rotation), plane.shape[-2])
        return central_slices(self.mean, plane, rotation)

    def hartley(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> Float[Tensor, "image pixel"]:
        """H(k)."""
        value = self.network.hartley(freqs, z)
        return value if self.mean is None else value + self.mean.hartley(freqs)

    def hartley_pair(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) and H(−k)."""
        forward, backward = self.network.hartley_pair(freqs, z)
        if self.mean is None:
            return forward, backward
        mean_forward, mean_backward = self.mean.hartley_pair(freqs)
        return mean_forward + forward, mean_backward + backward

    def map(
        self, z: Float[Tensor, "latent"] | None = None, radius: float | None = None
    ) -> Float[Tensor, "box box box"]:
        """V(z) in real space; of the network's part the frequencies below `radius`, cycles per box."""
        network = voxels(self.network, z, radius=radius, like=self.network.amplitude)
        return network if self.mean is None else network + self.mean.map()
