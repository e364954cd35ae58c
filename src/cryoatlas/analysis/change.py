"""How much of the *change* from state to state a run gets right.

A map's FSC is governed by what stands still: a map without any motion can reach the finest shell. Here
only voxels that change between the true states count, and in them only the deviation from the average.
"""

from dataclasses import dataclass

import numpy as np

from cryoatlas.analysis.truth import Truth
from cryoatlas.shapes import Array, Bool, Float, Int

MOVES = 0.3
"""Voxels whose standard deviation over the images' true maps exceeds this share of the largest one."""


@dataclass(frozen=True)
class MovingPart:
    """The voxels that change between the true states of some images."""

    mask: Bool[Array, "box box box"]

    @classmethod
    def of(cls, truth: Truth, states: Int[Array, "image"]) -> "MovingPart | None":
        """From the true state of each image; None if the maps of all states are the same."""
        names, counts = np.unique(states, return_counts=True)
        mean = squares = np.zeros(1)
        for state, count in zip(names.tolist(), counts / counts.sum(), strict=True):
            map_ = truth.volume(state).astype(np.float64)
            mean, squares = mean + count * map_, squares + count * map_**2
        variance = (squares - mean**2).clip(0)
        # Below the rounding of float32 maps nothing moves.
        if len(names) == 1 or variance.max() <= 1e-12 * squares.max():
            return None
        return cls(np.sqrt(variance) > MOVES * np.sqrt(variance.max()))

    def inside(self, volume: Float[Array, "box box box"]) -> Float[Array, "voxel"]:
        """A map's voxels in the moving part."""
        return volume[self.mask]


def change_correlations(
    found: Float[Array, "image voxel"], true: Float[Array, "image voxel"]
) -> Float[Array, "image"]:
    """For each image, the correlation of found and true deviations from their averages over all images.

    1 if every change is right up to one factor; 0 for maps that do not change.
    """
    deviations = [values.astype(np.float64) - values.mean(0, dtype=np.float64) for values in (found, true)]
    product = (deviations[0] * deviations[1]).sum(1)
    norms = np.linalg.norm(deviations[0], axis=1) * np.linalg.norm(deviations[1], axis=1)
    return np.divide(product, norms, out=np.zeros_like(product), where=norms > 0)
