"""How much is worked on at a time, which bounds the memory; by device, as a GPU is fast on long work only."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Portion:
    """Numbers held at a time in one array."""

    cpu: int
    gpu: int

    def on(self, device: torch.device) -> int:
        """How many a device takes."""
        return self.gpu if device.type == "cuda" else self.cpu

    def rows(self, of_each: int, device: torch.device) -> int:
        """Rows of so many numbers that a device takes, at least one."""
        return max(1, self.on(device) // of_each)
