"""Light on an isosurface: what colour each of its points has."""

import numpy as np
import torch
import torch.nn.functional as nn

from cryoatlas.shapes import Array, Float, Tensor

LIGHT = (-0.40, 0.55, 0.73)
"""Towards the light: from the upper left, in front."""
WARM = np.array([1.04, 1.0, 0.94])
FLAT_SEES = 0.20
COOL = np.array([0.86, 0.97, 1.14])


def shade(
    lattice: Float[Tensor, "depth row column"],
    points: Float[Array, "hit 3"],
    level: float,
    colour: Float[Array, "3"],
) -> Float[Array, "hit 3"]:
    """Linear light of each surface point: a warm light, a cool sky, some gloss, dark crevices."""
    at = torch.from_numpy(points)
    normal = -_sampled(_gradient(lattice), at)
    normal = normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True).clamp(min=1e-12)
    openness = _openness(lattice, at, normal, level)[:, None]
    normal = normal.numpy()
    light = np.asarray(LIGHT) / np.linalg.norm(LIGHT)
    halfway = light + np.asarray([0, 0, 1])
    facing = (normal @ light)[:, None]
    lit = np.clip(0.25 + 0.75 * facing, 0, 1) ** 1.5  # wraps a little past the terminator
    sky = 0.5 + 0.5 * normal[:, 1:2]
    gloss = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, 1)[:, None]
    edge = 1 - 0.45 * (1 - np.clip(normal[:, 2:], 0, 1)) ** 3
    depth = 0.70 + 0.30 * points[:, 2:] / (len(lattice) - 1)
    irradiance = WARM * 1.25 * lit * openness**0.7 + COOL * (0.10 + 0.28 * sky) * openness
    linear = irradiance * colour**2.2 * edge + openness * (0.12 * gloss**30 + 0.05 * gloss**6)
    return (linear * depth).astype(np.float32)


def _gradient(lattice: Float[Tensor, "depth row column"]) -> Float[Tensor, "3 depth row column"]:
    """Central differences along x, y, z of the slightly smoothed density."""
    smooth = nn.avg_pool3d(lattice[None, None], 3, stride=1, padding=1)[0, 0]
    return torch.stack(list(torch.gradient(smooth))[::-1])


def _openness(
    lattice: Float[Tensor, "depth row column"],
    points: Float[Tensor, "hit 3"],
    normal: Float[Tensor, "hit 3"],
    level: float,
) -> Float[Array, "hit"]:
    """1 on open surfaces, towards 0 in crevices: how empty the space in front of a point is.

    A distance r above a flat surface, a blur of spread 1.2 r sees 20 % of body; what it sees beyond
    that is shadow.
    """
    body = (lattice > level).to(torch.float32)[None, None]
    shadow = np.zeros(len(points))
    for distance in (2, 4, 8):
        blurred = _blur(body, distance)
        seen = _sampled(blurred[0], points + distance * normal, len(lattice)).numpy()[:, 0]
        shadow += np.clip(seen - FLAT_SEES, 0, None)
    return np.exp(-1.6 * shadow)


def _blur(body: Float[Tensor, "1 1 depth row column"], step: int) -> Float[Tensor, "1 1 d r c"]:
    """A blur of standard deviation 1.2 `step` on a lattice that is coarser by `step`."""
    coarse = nn.avg_pool3d(body, step)
    for _ in range(2):
        coarse = nn.avg_pool3d(coarse, 3, stride=1, padding=1, count_include_pad=True)
    return coarse


def _sampled(
    fields: Float[Tensor, "field d r c"], points: Float[Tensor, "hit 3"], count: int | None = None
) -> Float[Tensor, "hit field"]:
    """Trilinear values of several fields at points given in lattice steps.

    Args:
        count: points of the lattice along an axis, where `fields` are coarser cells of it.
    """
    if count is None:
        normalised, corners = points * (2 / (fields.shape[-1] - 1)) - 1, True
    else:
        normalised, corners = (points + 0.5) * (2 / count) - 1, False
    grid = normalised[None, None, None]
    return nn.grid_sample(fields[None], grid, align_corners=corners)[0, :, 0, 0].T
