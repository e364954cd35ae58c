r"""Positional encodings of k as one matrix product and one sine and cosine.

A feature sin(2πk·x), cos(2πk·x) over frequency is a pair of points at ±x in real space; an encoding
is a choice of such points x.
"""

import math

import torch
from torch import nn

from cryoatlas.models.config import Encoding
from cryoatlas.shapes import Float, Tensor


class PositionalEncoding(nn.Module):
    """sin and cos of 2πk·x for a fixed set of points x."""

    points: Tensor

    def __init__(self, points: Float[Tensor, "point 3"]) -> None:
        super().__init__()
        self.register_buffer("points", points.float())

    @property
    def size(self) -> int:
        """Number of outputs, two for each point."""
        return 2 * len(self.points)

    def forward(self, k: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch feature"]:
        """Features of frequencies k in cycles per pixel, |k| ≤ ½."""
        phase = k @ (2 * math.pi * self.points.T)
        return torch.cat([phase.sin(), phase.cos()], -1)


def geometric_points(box_size: int, *, lowpass: bool = False) -> Float[Tensor, "point 3"]:
    """Equation 7: D/2 points on each axis, at distances in geometric series from 1 px to D/2 px.

    The paper writes sin(kⱼ D π (2/D)^(2i/D)) with k in ±½, i = 1 … D/2: a point at D/2·(2/D)^(2i/D) px.

    Args:
        lowpass: the paper's variant for noisy data, without the tenth of the features that vary
            fastest with k.
    """
    count = box_size // 2
    distance = (box_size / 2) * (2 / box_size) ** (torch.arange(1, count + 1, dtype=torch.float64) / count)
    if lowpass:
        distance = distance[math.ceil(0.1 * count) :]
    return torch.cat([distance[:, None] * axis for axis in torch.eye(3, dtype=torch.float64)])


def ball_points(count: int, radius_px: float, generator: torch.Generator) -> Float[Tensor, "point 3"]:
    """Points uniform in a ball: the encoding spends its features where the particle can be."""
    direction = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    return radius_px * torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / 3) * direction


BALL_RADIUS = 0.4
"""Radius of the `ball` encoding as a fraction of the box: particles are boxed with some room around them."""


def build_encoding(kind: Encoding, box_size: int, features: int, seed: int) -> PositionalEncoding:
    """The encoding of a `DecoderConfig`; the `ball` is the same for the same seed."""
    if kind == "ball":
        generator = torch.Generator().manual_seed(seed)
        count = features or round(1.5 * box_size)
        return PositionalEncoding(ball_points(count, BALL_RADIUS * box_size, generator))
    return PositionalEncoding(geometric_points(box_size, lowpass=kind == "geometric_lowpass"))
