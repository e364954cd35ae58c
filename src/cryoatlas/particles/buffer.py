"""Images between the disk and their batch."""

import numpy as np
import torch

from cryoatlas.shapes import Array, Bool, Float, Int, Tensor


class ImageBuffer:
    """Holds images by position; each is put in once and taken out once, and its place used again.

    Args:
        count: images of the set.
        capacity: images held at most.
        box_size: side of the images, px.
    """

    def __init__(self, count: int, capacity: int, box_size: int) -> None:
        self._pixels = torch.empty(capacity, box_size, box_size)
        self._slot = np.full(count, -1, np.int32)
        self._free = np.arange(capacity, dtype=np.int32)
        self._free_count = capacity

    def holds(self, positions: Int[Array, "some"]) -> Bool[Array, "some"]:
        """Which of these images are in the buffer."""
        return self._slot[positions] >= 0

    def put(self, positions: Int[Array, "some"], images: Float[Tensor, "some box box"]) -> None:
        """Add images."""
        assert len(positions) <= self._free_count, "orders say how much they need"
        self._free_count -= len(positions)
        slots = self._free[self._free_count : self._free_count + len(positions)]
        self._pixels[torch.from_numpy(slots).long()] = images
        self._slot[positions] = slots

    def take(self, positions: Int[Array, "some"]) -> Float[Tensor, "some box box"]:
        """Remove images, and hand them over in this order."""
        slots = self._slot[positions]
        images = self._pixels[torch.from_numpy(slots).long()]
        self._slot[positions] = -1
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)
        return images
