"""Pictures of maps: an orthographic renderer of isosurfaces, with no graphics library.

A map is interpolated once onto a lattice that is turned towards the viewer; along each line of sight
the first crossing of the level is found between two lattice planes; the gradient gives the normal,
blurred occupancy in front of the surface gives the soft shadow of crevices. The viewer sits at +z of
the turned frame, x points right and y up, so that the hand of the map is the hand in the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as nn

from cryoatlas.analysis.shading import shade
from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import VOLUME_AXES, fourier, inverse_fourier
from cryoatlas.shapes import Array, Float, Int, Tensor

BLUE = (0.42, 0.60, 0.76)
ENCLOSED = 0.8
"""Share of the body's density inside the automatic level."""
SMALLEST_LATTICE, LARGEST_LATTICE, PIXELS_PER_POINT = 48, 128, 2.5
"""Points of the turned lattice along each axis of the visible cube, in multiples of 8."""
PREVIEW_LATTICE = 32
"""Points along each axis when sides are compared."""
SUPERSAMPLING = 2
INTERPOLATED_BOX = 120
"""Smaller maps are first interpolated (by padding their transform) to about this box."""


@dataclass(frozen=True)
class Camera:
    """What part of a map is seen, and from where."""

    rotation: Float[Array, "3 3"]
    """Takes map coordinates to the viewer's: x right, y up, z towards the viewer."""
    centre: Float[Array, "3"]
    """The point x, y, z of the map in the middle of the picture, voxels from the centre of the box."""
    radius: float
    """Half the width of the picture, voxels."""

    @classmethod
    def around(cls, volumes: Sequence[Float[Array, "box box box"]], level: float) -> "Camera":
        """Frames everything that is above `level` in any of the volumes, from the side that shows most.

        That is where their projections differ most, so that the motion from the first to the last is
        across the picture and not along the line of sight; of a single volume, its broadest side. The
        body's longest extent is upright.
        """
        box = volumes[0].shape[-1]
        union = np.max(volumes, axis=0)
        inside = union > level
        if not inside.any():
            return cls(np.eye(3), np.zeros(3), box / 2)
        points = frequency_grid(box, 3).numpy()[inside]
        weights = np.asarray(union, dtype=np.float64)[inside] - level
        centred = points - np.average(points, axis=0, weights=weights)
        _, axes = np.linalg.eigh(centred.T @ (weights[:, None] * centred))
        # Towards the longer tail, so that the same body is always shown the same way up.
        axes = axes * np.where((weights[:, None] * (centred @ axes) ** 3).sum(0) < 0, -1, 1)
        changes = [last - first for first, last in pairwise(volumes)]
        if len(volumes) > 1:
            changes.append(volumes[-1] - volumes[0])
        towards = _most_telling(axes.T, changes)
        # A few specks of noise far out do not count.
        centre = np.quantile(points, [0.001, 0.999], axis=0).mean(0)
        radius = np.quantile(np.linalg.norm(points - centre, axis=1), 0.999)
        return cls(_upright(towards, centred, weights), centre, float(radius) + 2)

    def turned(self, degrees: float) -> "Camera":
        """The view after the body has turned about the picture's upright axis."""
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return Camera(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ self.rotation, self.centre, self.radius)


def automatic_level(volume: Float[Array, "box box box"]) -> float:
    """The density level whose surface encloses 80 % of what stands out of the solvent.

    The solvent's level is the median of all voxels and its spread their median deviation from it;
    what lies within four spreads, or within 2 % of the peak, is solvent.
    """
    values = np.asarray(volume, dtype=np.float64).ravel()
    solvent = float(np.median(values))
    excess = values - solvent
    floor = max(4 * float(np.median(np.abs(excess))), 0.02 * float(excess.max()))
    body = np.sort(excess[excess > floor])[::-1]
    if len(body) == 0:
        return float(values.max())
    enclosed = np.cumsum(body)
    return solvent + float(body[np.searchsorted(enclosed, ENCLOSED * enclosed[-1])])


class Surface:
    """A map ready to be rendered, from any side and at any level.

    Args:
        volume: density, z y x.
    """

    def __init__(self, volume: Float[Array, "box box box"]) -> None:
        self.box_size = volume.shape[-1]
        self.fine = _interpolated(torch.from_numpy(np.asarray(volume, dtype=np.float32)))

    def render(
        self, level: float, camera: Camera, *, size: int = 320, colour: tuple[float, float, float] = BLUE
    ) -> Array:
        """The isosurface as a picture (size, size, RGBA), 0 … 255, transparent where nothing is hit.

        Args:
            level: the surface lies where the density equals this.
            size: side of the picture, pixels.
            colour: of the surface in full light, 0 … 1.
        """
        count = 8 * round(np.clip(size / PIXELS_PER_POINT, SMALLEST_LATTICE, LARGEST_LATTICE) / 8)
        lattice = _turned(self.fine, self.box_size, camera, count)
        pixels = size * SUPERSAMPLING
        hit, points = _first_crossings(lattice.numpy(), level, pixels)
        image = np.zeros((pixels, pixels, 4), dtype=np.float32)
        if len(points):
            image[hit, :3] = shade(lattice, points, level, np.asarray(colour, dtype=np.float32))
            image[hit, 3] = 1
        image = image.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 4).mean((1, 3))
        rgb = image[..., :3] / np.maximum(image[..., 3:], 1e-6)  # colours were averaged with their cover
        return (np.concatenate([_encode(rgb), image[..., 3:]], -1)[::-1] * 255).round().astype(np.uint8)


def _turned(
    fine: Float[Tensor, "fine fine fine"], box: int, camera: Camera, count: int
) -> Float[Tensor, "depth row column"]:
    """Density on the viewer's lattice of `count` points: z towards the viewer, y up, x right."""
    # Voxels about box // 2, on the fine lattice, as the −1 … 1 of grid_sample (corners aligned).
    scale = (fine.shape[-1] / box) * 2 / (fine.shape[-1] - 1)
    axes = torch.from_numpy((camera.rotation * camera.radius * scale).astype(np.float32))
    middle = torch.from_numpy(((camera.centre + box // 2) * scale - 1).astype(np.float32))
    steps = torch.linspace(-1, 1, count)[:, None]
    plane = steps[:, None] * axes[1] + steps * axes[0]
    normalised = (steps * axes[2] + middle)[:, None, None] + plane
    return nn.grid_sample(fine[None, None], normalised[None], align_corners=True)[0, 0]


def _most_telling(
    axes: Float[Array, "3 3"], changes: Sequence[Float[Array, "box box box"]]
) -> Float[Array, "3"]:
    """The direction, of 13 about the body's axes (rows, shortest first), along which changes show most."""
    steps = np.array([(x, y, z) for x in (1, 0, -1) for y in (1, 0, -1) for z in (1, 0, -1)][:13])
    directions = steps / np.linalg.norm(steps, axis=1, keepdims=True) @ axes
    if not changes:
        return axes[0]
    seen = [
        sum(float(np.square(_projection(change, direction)).sum()) for change in changes)
        for direction in directions
    ]
    return directions[int(np.argmax(seen))]


def _projection(volume: Float[Array, "box box box"], direction: Float[Array, "3"]) -> Float[Array, "y x"]:
    """Sums along a direction, on a coarse lattice."""
    camera = Camera(_upright(direction, np.eye(3), np.ones(3)), np.zeros(3), volume.shape[-1] / 2)
    return _turned(torch.from_numpy(volume), volume.shape[-1], camera, PREVIEW_LATTICE).sum(0).numpy()


def _upright(
    towards: Float[Array, "3"], points: Float[Array, "point 3"], weights: Float[Array, "point"]
) -> Float[Array, "3 3"]:
    """The rotation that brings `towards` to the viewer and the points' longest extent across it upright."""
    flat = points - np.outer(points @ towards, towards)
    _, axes = np.linalg.eigh(flat.T @ (weights[:, None] * flat))
    up = axes[:, 2] * (1 if axes[np.abs(axes[:, 2]).argmax(), 2] > 0 else -1)
    up = up - (up @ towards) * towards
    up /= np.linalg.norm(up)
    return np.stack([np.cross(up, towards), up, towards])


def _interpolated(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "fine fine fine"]:
    """The same density on a lattice finer by a whole factor, its origin still at the middle index."""
    box = volume.shape[-1]
    factor = max(1, round(INTERPOLATED_BOX / box))
    if factor == 1:
        return volume
    fine = box * factor
    spectrum = torch.zeros(fine, fine, fine, dtype=torch.complex64)
    start = fine // 2 - box // 2
    inner = slice(start, start + box)
    spectrum[inner, inner, inner] = fourier(volume, VOLUME_AXES)
    # Voxel box // 2 must come to lie at factor · (box // 2); the transform centres it at fine // 2.
    real = inverse_fourier(spectrum, VOLUME_AXES).real * factor**2
    offset = factor * (box // 2) - fine // 2
    return real.roll((offset, offset, offset), VOLUME_AXES)


@dataclass(frozen=True)
class _Sight:
    """Lines of sight through the pixels of a picture, down the z axis of a lattice."""

    count: int
    """Points of the lattice along an axis."""
    pixels: int
    """Side of the picture."""

    @cached_property
    def position(self) -> Float[Array, "pixel"]:
        """Where each row or column of pixels lies, lattice steps."""
        return (np.arange(self.pixels) + 0.5) * (self.count - 1) / self.pixels

    def cells(self, chosen: Int[Array, "some"]) -> tuple[Int[Array, "some"], Int[Array, "some"]]:
        """Row and column of the lattice cell that each chosen pixel looks through."""
        row, column = np.divmod(chosen, self.pixels)
        cell = self.position.astype(np.int64)
        return cell[row], cell[column]

    def values(self, plane: Float[Array, "row column"], chosen: Int[Array, "some"]) -> Float[Array, "some"]:
        """Bilinear values of a lattice plane where the chosen pixels look through it."""
        row, column = np.divmod(chosen, self.pixels)
        fraction = (self.position % 1).astype(np.float32)
        v, u = fraction[row], fraction[column]
        cell_row, cell_column = self.cells(chosen)
        start = cell_row * self.count + cell_column
        flat = plane.ravel()
        top = flat[start] * (1 - u) + flat[start + 1] * u
        bottom = flat[start + self.count] * (1 - u) + flat[start + self.count + 1] * u
        return top * (1 - v) + bottom * v


def _first_crossings(
    lattice: Float[Array, "depth row column"], level: float, pixels: int
) -> tuple[Array, Float[Array, "hit 3"]]:
    """For each pixel, where its line of sight first meets the surface.

    Returns:
        The mask of pixels that meet it, and their points x, y, z in lattice steps, in raster order.
    """
    sight = _Sight(len(lattice), pixels)
    above = np.asarray(lattice > level)
    # A bilinear value can be above the level only where some corner of its cell is.
    occupied = above[:, :-1, :-1] | above[:, 1:, :-1] | above[:, :-1, 1:] | above[:, 1:, 1:]
    depth = np.full(pixels * pixels, -1.0, dtype=np.float32)
    waiting = np.arange(pixels * pixels)
    waiting = waiting[occupied.max(0)[sight.cells(waiting)]]
    cells = np.stack(sight.cells(waiting))
    for plane in range(len(lattice) - 1, -1, -1):
        candidates = np.flatnonzero(occupied[plane][*cells])
        if len(candidates) == 0:
            continue
        value = sight.values(lattice[plane], waiting[candidates])
        met = candidates[value > level]
        value = value[value > level]
        before = sight.values(lattice[min(plane + 1, len(lattice) - 1)], waiting[met])
        step = np.where(before < value, (value - level) / np.maximum(value - before, 1e-12), 0)
        depth[waiting[met]] = plane + np.minimum(step, 1)
        waiting, cells = np.delete(waiting, met), np.delete(cells, met, axis=1)
    found = depth >= 0
    row, column = np.divmod(np.flatnonzero(found), pixels)
    points = np.stack([sight.position[column], sight.position[row], depth[found]], 1).astype(np.float32)
    return found.reshape(pixels, pixels), points


def _encode(linear: Float[Array, "*grid 3"]) -> Float[Array, "*grid 3"]:
    """Linear light to the values that screens expect."""
    return np.clip(linear, 0, 1) ** (1 / 2.2)
