"""Encoder, decoder and noise model together: the paper's variational auto-encoder."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributions import Independent, Normal

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.contrast import fit_contrast
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import slice_frequencies
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.decoder import Decoder
from cryoatlas.models.encoder import ImageEncoder, VolumeEncoder
from cryoatlas.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What fixes the sizes of a `VAE`; stored with its checkpoints."""

    box_size: int
    pixel_size: float
    latent: int
    encoder: EncoderConfig
    decoder: DecoderConfig
    seed: int
    views: int = 1
    """Images of each particle; checkpoints of before tilt pairs do not say."""


class VAE(nn.Module):
    """q(z | X), p(V | k, z) and p(X | V); without an encoder when the latent has dimension 0."""

    noise_variance: Tensor
    least_noise: Tensor
    contrast_variance: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.disc = Disc(shape.box_size)
        self.decoder = Decoder(shape.decoder, shape.box_size, shape.pixel_size, shape.latent, shape.seed)
        self.encoder = self._build_encoder(shape) if shape.latent else None
        self.register_buffer("noise_variance", torch.ones(shape.box_size // 2 + 1))
        # No shell is taken to be quieter than this.
        self.register_buffer("least_noise", torch.zeros(shape.box_size // 2 + 1))
        # τ² of `imaging.contrast`; with 0 all images have contrast 1.
        self.register_buffer("contrast_variance", torch.zeros(()))

    @property
    def noise(self) -> NoiseModel:
        """The noise of the images, by shell."""
        return NoiseModel(self.noise_variance)

    @property
    def prior(self) -> Independent:
        """p(z) = N(0, I)."""
        zero = torch.zeros(self.shape.latent, device=self.noise_variance.device)
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)

    def encode(
        self,
        centred: Float[Tensor, "image pixel"],
        ctf: Float[Tensor, "#image #pixel"],
        plane: Float[Tensor, "#image pixel 2"],
        rotation: Float[Tensor, "image 3 3"],
    ) -> Independent | None:
        """q(z | X) of particles from their centred images; None for a single volume.

        A row for each image, those of a particle adjacent; the posterior has one for each particle.
        """
        if self.encoder is None:
            return None
        if isinstance(self.encoder, ImageEncoder):
            return self.encoder(centred, ctf)
        freqs = slice_frequencies(plane, rotation)
        mean = ctf * self.decoder.consensus_slices(plane, rotation)
        precision = 1 / self.noise.on(self.disc)
        contrast = fit_contrast(centred, mean, precision, self.contrast_variance).mean
        residual = centred - contrast[:, None] * mean
        weight = self.decoder.network.amplitude[self.disc.shells] * precision
        return self.encoder(weight * ctf * residual, freqs)

    def _build_encoder(self, shape: Shape) -> ImageEncoder | VolumeEncoder:
        if shape.encoder.input == "image":
            return ImageEncoder(shape.encoder, len(self.disc), shape.latent, shape.views)
        return VolumeEncoder(shape.encoder, shape.box_size, shape.pixel_size, shape.latent, shape.views)


def build_vae(shape: Shape) -> VAE:
    """A `VAE` whose initial weights depend on `shape.seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        return VAE(shape)
