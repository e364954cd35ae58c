"""Where does a search lose the true pose: to its bound or to the cap on poses?

Shared by `pose_search` and `bound`. Also the grid's own limit: how near its nearest pose is to the true one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch

from cryoatlas.geometry.grids import (
    ShiftGrid,
    cell_radius,
    grid_rotations,
    rotation_children,
    rotation_count,
)
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle
from cryoatlas.poses import branch_and_bound
from cryoatlas.poses.branch_and_bound import Candidates
from cryoatlas.poses.config import SearchConfig
from cryoatlas.shapes import Bool, Float, Int, Tensor

BEAM = 64
"""Rotations of a grid whose children are looked at for the nearest one; whether they suffice is checked."""


@dataclass
class TrueCell:
    """Follows the true pose down the grids of one search, turned by `turn`.

    The true cell of a grid is the one that the last grid's pose nearest to the true one descends from. With
    `watching` around the search, pass this as its `watch`.
    """

    true: Pose
    config: SearchConfig
    turn: Float[Tensor, "3 3"]
    pixel_size: float
    passed: dict[int, list[Tensor]] = field(default_factory=dict)
    """By grid: of each image, whether the bound let the true cell through."""
    kept: dict[int, list[Tensor]] = field(default_factory=dict)
    """Whether it went on."""
    _before: tuple[Candidates, Tensor] | None = None

    def __post_init__(self) -> None:
        self.nearest, self.angle = nearest_rotation(self.true.rotation, self.turn, self.config)
        """Number in the last grid, and its angle to the true rotation, radians."""
        grid = shift_grid(self.config, self.pixel_size)
        step, squares = grid.step(self.config.subdivisions), grid.points * 2**self.config.subdivisions
        self.square = ((self.true.shift + grid.extent) / step).floor().clamp(0, squares - 1)
        centre = (self.square + 0.5) * step - grid.extent
        self.distance = (self.true.shift - centre).norm(dim=1)
        """From the nearest shift of the last grid, Å."""

    @contextmanager
    def watching(self) -> Iterator["TrueCell"]:
        """`search` tells of what goes on only; what the bound let through is seen where the cap takes it."""
        keep_best = branch_and_bound._keep_best

        def seen(candidates: Candidates, scores: Tensor, passing: Tensor, keep: int) -> Candidates:
            self._before = (candidates, passing)
            return keep_best(candidates, scores, passing, keep)

        with patch.object(branch_and_bound, "_keep_best", seen):
            yield self

    def __call__(self, images: slice, candidates: Candidates, turn: Float[Tensor, "3 3"]) -> None:
        assert self._before is not None, "search inside `with cell.watching()`"
        before, passing = self._before
        for found, some, alive in (
            (self.passed, before, passing),
            (self.kept, candidates, candidates.alive),
        ):
            found.setdefault(candidates.level, []).append((self._is_true(images, some) & alive).any(1))

    def _is_true(self, images: slice, candidates: Candidates) -> Bool[Tensor, "image candidate"]:
        level, last = candidates.level, self.config.base_level + self.config.subdivisions
        rotation = ancestor(self.nearest[images], last, level)
        grid, left = shift_grid(self.config, self.pixel_size), last - level
        step = grid.step(level - self.config.base_level)
        square = (self.square[images] / 2**left).floor()
        distance = (candidates.shift - ((square + 0.5) * step - grid.extent)[:, None]).abs().amax(-1)
        return (candidates.rotation == rotation[:, None]) & (distance < step / 4)

    def lost(self) -> dict[str, list[float]]:
        """Parts of all images that lose the true cell at each grid, by cause."""
        causes: dict[str, list[float]] = {"bound": [], "cap": []}
        had = None
        for grid in sorted(self.kept):
            passed, kept = torch.cat(self.passed[grid]), torch.cat(self.kept[grid])
            had = torch.ones_like(kept) if had is None else had
            causes["bound"].append(float((had & ~passed).double().mean()))
            causes["cap"].append(float((passed & ~kept).double().mean()))
            had = kept
        return causes


def by_grid(parts: list[float]) -> str:
    """Numbers of one cell of a table, grid by grid."""
    return " ".join(f"{part:.2g}" for part in parts)


def shift_grid(config: SearchConfig, pixel_size: float) -> ShiftGrid:
    """The grid of shifts that a search has, Å."""
    return ShiftGrid(config.shift_extent_px * pixel_size, config.shift_points)


def nearest_rotation(
    true: Float[Tensor, "image 3 3"], turn: Float[Tensor, "3 3"], config: SearchConfig
) -> tuple[Int[Tensor, "image"], Float[Tensor, "image"]]:
    """Number of the nearest rotation of the last grid, and the angle to it, radians; exact.

    Raises:
        RuntimeError: `BEAM` is too small for that.
    """
    last = config.base_level + config.subdivisions
    index = torch.arange(rotation_count(config.base_level)).expand(len(true), -1)
    left_out = []
    for level in range(config.base_level, last + 1):
        rotation = grid_rotations(level, index) @ turn
        angle = geodesic_angle(rotation, true[:, None].expand_as(rotation))
        if level == last:
            break
        near = angle.topk(min(BEAM, angle.shape[1]), dim=1, largest=False)
        if angle.shape[1] > BEAM:
            left_out.append(near.values[:, -1] - cell_radius(level, last - level))
        index = rotation_children(level, index.gather(1, near.indices)).flatten(1)
    nearest, place = angle.min(1)
    if any((reach < nearest).any() for reach in left_out):
        raise RuntimeError(f"a rotation beyond the {BEAM} nearest may have a nearer descendant")
    return index.gather(1, place[:, None])[:, 0], nearest


def ancestor(index: Int[Tensor, "image"], level: int, older: int) -> Int[Tensor, "image"]:
    """The rotation of a coarser grid that one descends from (`rotation_children`)."""
    in_plane, up = 6 * 2**level, level - older
    return (index // in_plane // 4**up) * (6 * 2**older) + index % in_plane // 2**up
