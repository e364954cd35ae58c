r"""The decoder p_θ(V̂ | k, z) of eq. 6–8: a coordinate network over frequency, a `Volume`."""

import torch
from torch import nn

from cryoatlas.imaging.projection import central_slices
from cryoatlas.models.config import DecoderConfig
from cryoatlas.models.encoding import build_encoding
from cryoatlas.models.mlp import HiddenLayers, reduced_precision
from cryoatlas.models.voxel import PADDING, VoxelVolume
from cryoatlas.shapes import Float, Tensor


class Decoder(nn.Module):
    """V̂(k, z) = μ̂(k) + a(|k|) · network(k, z).

    μ̂ is the consensus map on a grid, a(|k|) the amplitude expected of the network's part in each
    shell: the network's outputs are then of order one at every frequency, although transforms of
    molecules span orders of magnitude. With `DecoderConfig.consensus` off, μ̂ = 0 and, as in the paper,
    the network alone is the volume.

    With `DecoderConfig.friedel` the network gives the even and the odd part of the Hartley transform
    for k in one half-space, which is H(k) and H(−k) for one evaluation instead of two.
    """

    consensus: Tensor
    amplitude: Tensor

    def __init__(
        self, config: DecoderConfig, box_size: int, pixel_size: float, latent_size: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.box_size, self.pixel_size, self.latent_size = box_size, pixel_size, latent_size
        self.encoding = build_encoding(config.encoding, box_size, config.features, seed)
        self.first = nn.Linear(self.encoding.size, config.width)
        # z meets the first layer as a term of its own, one for each image rather than for each pixel.
        self.first_latent = nn.Linear(latent_size, config.width, bias=False) if latent_size else None
        self.hidden = HiddenLayers(config.layers, config.width, residual=config.residual)
        self.last = nn.Linear(config.width, 2 if config.friedel else 1)
        side = PADDING * box_size + 1
        self.register_buffer("consensus", torch.zeros((side,) * 3 if config.consensus else (0,) * 3))
        self.register_buffer("amplitude", torch.ones(box_size // 2 + 2))

    def start_from(
        self, amplitude: Float[Tensor, "shell"], consensus: Float[Tensor, "box box box"] | None = None
    ) -> None:
        """Set what the network starts from.

        Args:
            amplitude: expected root-mean-square of the network's part by shell, shells 0 … box // 2.
            consensus: real-space map μ; wanted exactly when `config.consensus` is on.
        """
        if (consensus is not None) != self.config.consensus:
            raise ValueError(
                f"config.consensus is {self.config.consensus}, consensus map given: {consensus is not None}"
            )
        self.amplitude.copy_(torch.cat([amplitude, amplitude[-1:]]))
        if consensus is not None:
            self.consensus.copy_(VoxelVolume.from_map(consensus, self.pixel_size).grid)

    def consensus_slices(
        self, plane: Float[Tensor, "#image pixel 2"], rotation: Float[Tensor, "image 3 3"]
    ) -> Float[Tensor, "image pixel"]:
        """Slices of the consensus map alone; 0 where the decoder has none."""
        if not self.config.consensus:
            return plane.new_zeros(len(rotation), plane.shape[-2])
        return central_slices(self._grid(), plane, rotation)

    def hartley(
        self, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> Float[Tensor, "image pixel"]:
        """H(k) alone; costs as much as the pair when `config.friedel` is on."""
        if self.config.friedel:
            return self.hartley_pair(freqs, z)[0]
        network = self._amplitude_at(freqs) * self._network(freqs, z)[..., 0]
        return network + self._grid().hartley(freqs) if self.config.consensus else network

    def hartley_pair(
        self, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None = None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) and H(−k)."""
        if self.config.friedel:
            side = torch.where(freqs[..., 2] < 0, -1.0, 1.0)
            even, odd = self._network(side[..., None] * freqs, z).unbind(-1)
            forward, backward = even + side * odd, even - side * odd
        else:
            forward, backward = self._network(torch.cat([freqs, -freqs], 1), z)[..., 0].chunk(2, -1)
        amplitude = self._amplitude_at(freqs)
        forward, backward = amplitude * forward, amplitude * backward
        if not self.config.consensus:
            return forward, backward
        mean, mean_opposite = self._grid().hartley_pair(freqs)
        return mean + forward, mean_opposite + backward

    def _network(
        self, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> Float[Tensor, "image pixel output"]:
        features = self.encoding(freqs * self.pixel_size)
        with reduced_precision(features):
            x = self.first(features)
            if self.first_latent is not None:
                x = x + self.first_latent(z)[:, None]
            return self.last(self.hidden(torch.relu(x))).float()

    def _grid(self) -> VoxelVolume:
        return VoxelVolume(self.consensus, self.box_size, self.pixel_size)

    def _amplitude_at(self, freqs: Float[Tensor, "image pixel 3"]) -> Float[Tensor, "image pixel"]:
        radius = freqs.norm(dim=-1) * (self.box_size * self.pixel_size)
        low = radius.long().clamp(max=len(self.amplitude) - 2)
        return torch.lerp(self.amplitude[low], self.amplitude[low + 1], (radius - low).clamp(0, 1))
