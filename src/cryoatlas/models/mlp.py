"""Fully connected hidden layers, plain (the paper) or residual."""

import torch
from torch import nn

from cryoatlas.shapes import Float, Tensor


def reduced_precision(like: Tensor) -> torch.autocast:
    """bfloat16 for matrix products where the device is fast at it: on GPUs, nowhere on CPUs.

    Only networks run under it. Phases and frequencies need float32: a phase of 80 radians in bfloat16
    is off by a quarter.
    """
    return torch.autocast(like.device.type, torch.bfloat16, enabled=like.is_cuda)


class HiddenLayers(nn.Module):
    """`count` layers of ReLU units, each optionally added to its own input."""

    def __init__(self, count: int, width: int, *, residual: bool) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        self.residual = residual

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        for linear in self.linears:
            y = torch.relu(linear(x))
            x = x + y if self.residual else y
        return x
