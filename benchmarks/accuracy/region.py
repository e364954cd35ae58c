"""The region that moves, and how well a map is right inside it.

Most of a molecule stands still, and an average over all images is right there. Inside the moving
region only a method that finds the motion can be.
"""

import numpy as np

from cryoatlas.analysis.truth import Truth
from cryoatlas.shapes import Array, Bool, Float

THRESHOLD = 0.1
"""Voxels whose standard deviation over the states exceeds this part of the largest belong to it."""


def moving_region(truth: Truth) -> Bool[Array, "box box box"]:
    """Where the true maps differ."""
    maps = np.stack([truth.volume(int(state)) for state in np.unique(truth.states)])
    spread = maps.std(0)
    return spread > THRESHOLD * spread.max()


def region_correlation(
    first: Float[Array, "box box box"],
    second: Float[Array, "box box box"],
    region: Bool[Array, "box box box"],
) -> float:
    """Pearson correlation of two maps over the voxels of a region."""
    return float(np.corrcoef(first[region], second[region])[0, 1])
