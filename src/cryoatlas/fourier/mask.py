"""Soft-edged real-space masks."""

import math

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.shapes import Float, Tensor


def soft_ball(box_size: int, dimensions: int, radius: float, edge: float) -> Float[Tensor, "*grid"]:
    """1 inside `radius` px, a raised-cosine edge of width `edge` px, 0 beyond; float64.

    Two dimensions give the window that images are multiplied by, three a spherical solvent mask.
    """
    distance = torch.linalg.vector_norm(frequency_grid(box_size, dimensions), dim=-1)
    ramp = ((distance - radius) / max(edge, 1e-9)).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * ramp))
