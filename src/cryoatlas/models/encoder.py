r"""The encoder q_ξ(z | X̂) of eq. 9: a Gaussian with diagonal covariance for every image."""

import torch
from torch import nn
from torch.distributions import Independent, Normal

from cryoatlas.models.config import EncoderConfig
from cryoatlas.models.mlp import HiddenLayers
from cryoatlas.shapes import Float, Tensor


class Encoder(nn.Module):
    """An MLP over the Hartley coefficients of an image; its output is a distribution.

    The image should be centred (S(−t) applied) and phase-flipped: then one state seen from one
    direction looks alike whatever its shift and defocus.
    """

    def __init__(self, config: EncoderConfig, pixels: int, latent_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, config.width)
        self.hidden = HiddenLayers(config.layers, config.width, residual=config.residual)
        self.last = nn.Linear(config.width, 2 * latent_size)
        # Small first outputs: the posterior starts near the prior N(0, I) instead of at random places.
        nn.init.normal_(self.last.weight, std=0.1 / config.width**0.5)
        nn.init.zeros_(self.last.bias)

    def forward(self, images: Float[Tensor, "image pixel"]) -> Independent:
        """q(z | X), batch shape (image,), event shape (latent,)."""
        mean, log_std = self.last(self.hidden(torch.relu(self.first(images)))).chunk(2, -1)
        return Independent(
            Normal(mean, log_std.clamp(-8, 4).exp(), validate_args=False), 1, validate_args=False
        )
