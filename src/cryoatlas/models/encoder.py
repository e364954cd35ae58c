r"""Encoders q_ξ(z | X̂): a Gaussian with diagonal covariance for every image (eq. 9).

`ImageEncoder` is the paper's: an MLP over the image's coefficients. It has to learn from scratch how
every state looks from every direction. Where the pose is known that is wasted: `VolumeEncoder` first
carries the image into the volume's frame, where one state has one look. Its first linear layer then
holds volumes W_k, and its inputs to the layers above are the inner products ⟨ĝ A(R) W_k, X̂ − ĝ A(R) μ̂⟩/σ²,
which for a linear model of the heterogeneity are the sufficient statistics of z.

Images of one particle, its views, stand in adjacent rows, and have one z. `ImageEncoder` then is the
paper's encoder for tilt pairs: an MLP takes each image to features, and a second one takes the features of
all views to z. The first is one network for all views, as in the authors' program: where all orientations
are equally frequent so are all tilted ones, and images of every view look alike. `VolumeEncoder` adds up what
is carried into the volume's frame.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.distributions import Independent, Normal

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.models.config import EncoderConfig
from cryoatlas.models.mlp import HiddenLayers, reduced_precision
from cryoatlas.shapes import Float, Tensor


class GaussianHead(nn.Module):
    """Hidden layers that end in the mean and standard deviation of q(z | X)."""

    def __init__(self, config: EncoderConfig, inputs: int, latent_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, config.width)
        self.hidden = HiddenLayers(config.layers, config.width, residual=config.residual)
        self.last = nn.Linear(config.width, 2 * latent_size)

    def forward(self, features: Float[Tensor, "image feature"]) -> Independent:
        """Batch shape (image,), event shape (latent,)."""
        with reduced_precision(features):
            output = self.last(self.hidden(torch.relu(self.first(features)))).float()
        mean, log_std = output.chunk(2, -1)
        return Independent(
            Normal(mean, log_std.clamp(-8, 4).exp(), validate_args=False), 1, validate_args=False
        )


class ImageFeatures(nn.Module):
    """The first layers of the encoder of several views: from an image to as many features as they are wide.

    Two fewer than those of the encoder of single images, for the two that join the views: in the paper 8, not
    10.
    """

    def __init__(self, config: EncoderConfig, pixels: int) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, config.width)
        self.hidden = HiddenLayers(max(0, config.layers - 2), config.width, residual=config.residual)

    def forward(self, image: Float[Tensor, "image pixel"]) -> Float[Tensor, "image feature"]:
        """Features of each image, by itself."""
        with reduced_precision(image):
            return self.hidden(torch.relu(self.first(image)))


class ImageEncoder(nn.Module):
    """The paper's encoder: an MLP over the coefficients of a centred, phase-flipped image, or an MLP over the
    features that another one finds in each of a particle's images."""

    def __init__(self, config: EncoderConfig, pixels: int, latent_size: int, views: int = 1) -> None:
        super().__init__()
        self.views = views
        self.features = None if views == 1 else ImageFeatures(config, pixels)
        if self.features is None:
            self.head = GaussianHead(config, pixels, latent_size)
        else:
            self.head = GaussianHead(replace(config, layers=0), views * config.width, latent_size)

    def forward(
        self, centred: Float[Tensor, "image pixel"], ctf: Float[Tensor, "#image #pixel"]
    ) -> Independent:
        """q(z | X) of each particle from S(−t)X̂ and the CTF of its images."""
        flipped = centred * torch.where(ctf < 0, -1.0, 1.0)
        if self.features is None:
            return self.head(flipped)
        return self.head(self.features(flipped).unflatten(0, (-1, self.views)).flatten(1))


class VolumeEncoder(nn.Module):
    """An MLP over the back-projected residual of a particle's images, in a ball of low frequencies."""

    ball: Tensor

    def __init__(
        self, config: EncoderConfig, box_size: int, pixel_size: float, latent_size: int, views: int = 1
    ) -> None:
        super().__init__()
        self.views = views
        self.radius = max(2, round(config.radius * box_size / 2))
        self.scale = box_size * pixel_size / self.radius
        side = 2 * self.radius + 1
        inside = frequency_grid(side, 3).norm(dim=-1) <= self.radius
        self.register_buffer("ball", inside.flatten().nonzero().squeeze(-1))
        self.head = GaussianHead(config, len(self.ball), latent_size)

    def forward(
        self, weighted: Float[Tensor, "image pixel"], freqs: Float[Tensor, "image pixel 3"]
    ) -> Independent:
        """q(z | X) of each particle.

        Args:
            weighted: a ĝ (S(−t)X̂ − ĝ A(R) μ̂)/σ², a the amplitude expected of the signal.
            freqs: where each coefficient lies in the volume, Å⁻¹.
        """
        side = 2 * self.radius + 1
        # All views of a particle go into one volume, where they add up.
        weighted = weighted.unflatten(0, (-1, self.views)).flatten(1)
        freqs = freqs.unflatten(0, (-1, self.views)).flatten(1, 2)
        # ±1 at the faces of the grid; what lies beyond is left out, as grid_sample's zero padding does.
        where = (freqs * self.scale)[:, None, None]
        empty = weighted.new_empty(1).expand(len(weighted), 1, side, side, side)
        volume, _ = torch.ops.aten.grid_sampler_3d_backward(
            weighted[:, None, None, None].contiguous(), empty, where, 0, 0, True, [True, False]
        )
        return self.head(volume.flatten(1)[:, self.ball])
