"""Fully connected hidden layers, plain (the paper) or residual."""

import torch
from torch import nn

from cryoatlas.shapes import Float, Tensor


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
