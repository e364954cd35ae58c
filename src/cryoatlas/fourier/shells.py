"""Averages over rings and spherical shells of integer radius."""

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.shapes import Float, Int, Tensor


def shell_grid(box_size: int, dimensions: int, device: torch.device | None = None) -> Int[Tensor, "*grid"]:
    """Shell number round(|k|) of every entry of a centred transform."""
    return torch.linalg.vector_norm(frequency_grid(box_size, dimensions, device), dim=-1).round().long()


def shell_sum(
    values: Float[Tensor, "*grid"], shells: Int[Tensor, "*grid"], count: int
) -> Float[Tensor, "shell"]:
    """Sum of `values` over each of the first `count` shells; entries of higher shells are left out."""
    flat = shells.flatten().clamp(max=count)
    total = values.new_zeros(count + 1).index_add_(0, flat, values.flatten())
    return total[:count]


def shell_mean(
    values: Float[Tensor, "*grid"], shells: Int[Tensor, "*grid"], count: int
) -> Float[Tensor, "shell"]:
    """Mean of `values` over each of the first `count` shells; empty shells give 0."""
    population = shell_sum(torch.ones_like(values), shells, count)
    return shell_sum(values, shells, count) / population.clamp(min=1)


def interpolate_shells(
    values: Float[Tensor, "shell"], radius: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Values given by shell at radii between the shells, linear; constant beyond the last shell."""
    low = radius.long().clamp(max=len(values) - 2)
    return torch.lerp(values[low], values[low + 1], (radius - low).to(values).clamp(0, 1))
