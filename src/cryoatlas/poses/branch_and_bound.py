r"""Branch and bound over SO(3) × ℝ² with frequency marching (Algorithm 1 of the paper).

The misfit of an image at a pose, ½ ‖x − c S(t) h(R)‖², is a sum over frequencies of terms that are
not negative, so its part inside a band, less what it can fall by inside a cell of the grid (`bound`),
bounds it from below for all poses of the cell. Grid by grid the band grows: cells whose bound exceeds
the full misfit of the best pose so far (an upper bound) cannot win and go; each of the others becomes
8 × 4 cells of the next grid. On noisy images the noise outside the band, which every pose
pays, makes the upper bound so high that little is pruned; a cap on the poses that go on then does the
work, and `Found` tells how often.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from cryoatlas.geometry.grids import (
    ROTATION_CHILDREN,
    SHIFT_CHILDREN,
    ShiftGrid,
    cell_radius,
    grid_rotations,
    rotation_children,
    rotation_count,
)
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.shift import phase_ramp
from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.bound import Steepness
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.view import View, as_real
from cryoatlas.shapes import Bool, Complex, Float, Int, Tensor

WORKING_SET = 2**24
"""Slice coefficients held at a time; sets how many images go through a grid together."""


@dataclass(frozen=True)
class Candidates:
    """Poses of a grid that are still in the race, padded to one number for all images."""

    level: int
    rotation: Int[Tensor, "image candidate"]
    """Numbers in the grid of rotations at `level`."""
    shift: Float[Tensor, "image candidate 2"]
    """Å."""
    alive: Bool[Tensor, "image candidate"]
    """False for padding."""


@dataclass(frozen=True)
class Found:
    """Poses found, and what the search did."""

    pose: Pose
    loss: Float[Tensor, "image"]
    """½ ‖x − c S(t) h(R)‖² over the last band."""
    allowed: Int[Tensor, "grid image"]
    """Poses that the bound let through, grid by grid."""
    tried: Int[Tensor, "grid image"]
    """Poses of each grid that were looked at."""


Watch = Callable[[slice, Candidates, Float[Tensor, "3 3"]], None]
"""Told of what goes on from each grid: the images it is of, and how the grid is turned."""


def search(
    volume: Volume,
    views: Sequence[View],
    config: SearchConfig,
    *,
    z: Float[Tensor, "latent"] | None = None,
    turn: Float[Tensor, "3 3"] | None = None,
    watch: Watch = lambda images, candidates, turn: None,
) -> Found:
    """The best pose of each particle for one volume V(z), over all rotations and shifts.

    Args:
        views: the images; several views of the same particles (tilt pairs) add their misfits and share
            rotation and shift.
        z: which volume, the same for all images.
        turn: rotation of the whole grid, which keeps its directions from always being the same ones.

    Raises:
        ValueError: the views hold different numbers of images or none.
    """
    if len({len(view) for view in views}) != 1:
        raise ValueError("every view needs an image of each particle")
    device = views[0].spectrum.device
    turn = (
        torch.eye(3, dtype=torch.float64, device=device) if turn is None else turn.to(device, torch.float64)
    )
    steepness = Steepness.of(volume, views[0].half, z) if config.slack else None
    problem = _Problem(volume, views, config, z, turn, steepness)
    base = problem.base_slices()
    pieces = []
    for start in range(0, len(views[0]), problem.images_at_once):
        some = slice(start, start + problem.images_at_once)
        pieces.append(_search(problem.only(some), base, partial(watch, some)))
    return Found(
        Pose(
            torch.cat([piece.pose.rotation for piece in pieces]),
            torch.cat([piece.pose.shift for piece in pieces]),
        ),
        torch.cat([piece.loss for piece in pieces]),
        torch.cat([piece.allowed for piece in pieces], 1),
        torch.cat([piece.tried for piece in pieces], 1),
    )


def misfit(
    volume: Volume,
    views: Sequence[View],
    pose: Pose,
    z: Float[Tensor, "latent"] | None = None,
    band: float = 0,
) -> Float[Tensor, "image"]:
    """½ ‖x − c S(t) h(R)‖² at one pose of each particle, inside `band` (cycles per box; 0 for all)."""
    total = torch.zeros(len(views[0]), device=views[0].spectrum.device)
    for view in views:
        count = view.half.count(band) if band else None
        slices = view.slices(volume, pose.rotation, z, count)
        cross = as_real(view.moved_back(pose.shift, count)) * as_real(slices)
        norm = view.transfer[:, :count].square() * slices.abs().square()
        total = total + 0.5 * view.power(count) - cross.sum(-1) + 0.5 * norm.sum(-1)
    return total


@dataclass(frozen=True)
class _Problem:
    volume: Volume
    views: Sequence[View]
    config: SearchConfig
    z: Tensor | None
    turn: Tensor
    steepness: Steepness | None
    """None where the bound is taken as printed."""

    @property
    def box_size(self) -> int:
        return self.views[0].half.box_size

    @property
    def shifts(self) -> ShiftGrid:
        """In Å."""
        if not self.config.shift_extent_px:
            return ShiftGrid(0.0, 1)
        return ShiftGrid(self.config.shift_extent_px * self.volume.pixel_size, self.config.shift_points)

    @property
    def images_at_once(self) -> int:
        widest = (self.config.keep or 4 * rotation_count(self.config.base_level)) * ROTATION_CHILDREN
        return max(1, WORKING_SET // (widest * len(self.views[0].half.order)))

    def only(self, images: slice) -> "_Problem":
        return replace(self, views=[view[images] for view in self.views])

    def rotations(self, level: int, index: Int[Tensor, "*some"]) -> Float[Tensor, "*some 3 3"]:
        return grid_rotations(level, index) @ self.turn

    def count(self, view: View, subdivision: int) -> int:
        return view.half.count(self.config.band(subdivision, self.box_size))

    def base_slices(self) -> list[Complex[Tensor, "rotation kept"]]:
        """Slices of the first grid, for each view: shared by all images."""
        level = self.config.base_level
        every = self.rotations(level, torch.arange(rotation_count(level), device=self.turn.device))
        return [view.slices(self.volume, every, self.z, self.count(view, 0)) for view in self.views]


def _search(
    problem: _Problem, base: Sequence[Tensor], watch: Callable[[Candidates, Float[Tensor, "3 3"]], None]
) -> Found:
    """All grids, for as many images as fit."""
    scores = _score_base(problem, base)
    candidates = _every_base_pose(problem, len(scores))
    upper = torch.full((len(scores),), torch.inf, device=scores.device)
    rows = torch.arange(len(scores), device=scores.device)
    allowed, tried = [], []
    for subdivision in range(problem.config.subdivisions + 1):
        best = scores.argmin(1)
        upper = torch.minimum(upper, _full_misfit(problem, candidates, best))
        passing = candidates.alive & (_lower_bound(problem, scores, subdivision) <= upper[:, None])
        # The best pose goes on even where `slack` makes the bound an unsafe one.
        passing[rows, best] = True
        allowed.append(passing.sum(1))
        tried.append(candidates.alive.sum(1))
        if subdivision == problem.config.subdivisions:
            break
        candidates = _keep_best(candidates, scores, passing, problem.config.keep)
        watch(candidates, problem.turn)
        scores, candidates = _subdivide(problem, candidates, subdivision + 1)
    rotation = problem.rotations(candidates.level, candidates.rotation[rows, best])
    pose = Pose(rotation, candidates.shift[rows, best])
    return Found(pose, scores[rows, best], torch.stack(allowed), torch.stack(tried))


def _score_base(problem: _Problem, base: Sequence[Tensor]) -> Float[Tensor, "image candidate"]:
    """Misfits of every rotation and shift of the first grid, as one matrix product for each view."""
    shifts, images = problem.shifts.base(), len(problem.views[0])
    total = 0.0
    for view, slices in zip(problem.views, base, strict=True):
        count = slices.shape[-1]
        ramp = phase_ramp(view.half.plane[None, :count], -shifts.to(view.half.plane))
        moved = (view.transfer[:, :count] * view.spectrum[:, :count])[:, None] * ramp
        cross = as_real(moved).flatten(0, 1) @ as_real(slices).T
        norm = view.transfer[:, :count].square() @ slices.abs().square().T
        power = view.power(count)[:, None, None]
        total = total + 0.5 * power + 0.5 * norm[:, None] - cross.unflatten(0, (images, len(shifts)))
    assert isinstance(total, Tensor)
    return total.flatten(1)


def _every_base_pose(problem: _Problem, images: int) -> Candidates:
    """In the order of `_score_base`: shifts, then rotations."""
    device, level = problem.turn.device, problem.config.base_level
    shifts = problem.shifts.base().to(device)
    rotation = torch.arange(rotation_count(level), device=device).repeat(len(shifts))
    shift = shifts.repeat_interleave(rotation_count(level), 0)
    alive = torch.ones(images, len(rotation), dtype=torch.bool, device=device)
    return Candidates(level, rotation.expand(images, -1), shift.expand(images, -1, -1), alive)


def _lower_bound(
    problem: _Problem, scores: Float[Tensor, "image candidate"], subdivision: int
) -> Float[Tensor, "image candidate"]:
    """½ max(0, √(2E) − slack · δ)²: with slack 1, what every pose of a cell has at least."""
    config = problem.config
    left = config.subdivisions - subdivision
    if problem.steepness is None:
        return scores
    change = problem.steepness.change(
        problem.views,
        config.band(subdivision, problem.box_size),
        cell_radius(config.base_level + subdivision, left),
        problem.shifts.cell_radius(subdivision, left),
    )
    distance = (2 * scores.clamp(min=0)).sqrt() - config.slack * change[:, None]
    return 0.5 * distance.clamp(min=0).square()


def _full_misfit(
    problem: _Problem, candidates: Candidates, which: Int[Tensor, "image"]
) -> Float[Tensor, "image"]:
    """The misfit over the last band of one candidate of each image: no pose that wins can have more."""
    rows = torch.arange(len(which), device=which.device)
    rotation = problem.rotations(candidates.level, candidates.rotation[rows, which])
    band = problem.config.band(problem.config.subdivisions, problem.box_size)
    return misfit(
        problem.volume, problem.views, Pose(rotation, candidates.shift[rows, which]), problem.z, band
    )


def _keep_best(
    candidates: Candidates,
    scores: Float[Tensor, "image candidate"],
    passing: Bool[Tensor, "image candidate"],
    keep: int,
) -> Candidates:
    """Those that the bound lets through, at most `keep` of the best; padded to one number."""
    most = int(passing.sum(1).max())
    count = max(1, min(most, keep) if keep else most)
    order = torch.where(passing, scores, torch.inf).topk(count, dim=1, largest=False).indices
    return Candidates(
        candidates.level,
        candidates.rotation.gather(1, order),
        candidates.shift.gather(1, order[..., None].expand(-1, -1, 2)),
        passing.gather(1, order),
    )


def _subdivide(
    problem: _Problem, parents: Candidates, subdivision: int
) -> tuple[Float[Tensor, "image candidate"], Candidates]:
    """The 8 × 4 children of every pose, with their misfits over the next band."""
    level = parents.level + 1
    rotation = rotation_children(parents.level, parents.rotation)
    offsets = problem.shifts.offsets(subdivision).to(parents.shift)
    unique, place = rotation[parents.alive].unique(return_inverse=True)
    matrices = problem.rotations(level, unique)
    total = torch.full(
        (*parents.alive.shape, SHIFT_CHILDREN, ROTATION_CHILDREN), torch.inf, device=unique.device
    )
    # Padding costs nothing: only poses in the race are scored.
    image = parents.alive.nonzero()[:, 0]
    scored = torch.zeros(len(image), SHIFT_CHILDREN, ROTATION_CHILDREN, device=unique.device)
    for view in problem.views:
        count = problem.count(view, subdivision)
        slices = view.slices(problem.volume, matrices, problem.z, count)
        scored += _score_children(view[image], slices, place, parents.shift[parents.alive], offsets, count)
    total[parents.alive] = scored
    shape = total.shape
    children = Candidates(
        level,
        rotation[:, :, None].expand(shape).flatten(1),
        (parents.shift[:, :, None] + offsets)[:, :, :, None].expand(*shape, 2).flatten(1, 3),
        parents.alive[:, :, None, None].expand(shape).flatten(1),
    )
    return total.flatten(1), children


def _score_children(
    view: View,
    slices: Complex[Tensor, "unique kept"],
    place: Int[Tensor, "pose 8"],
    shift: Float[Tensor, "pose 2"],
    offsets: Float[Tensor, "4 2"],
    count: int,
) -> Float[Tensor, "pose 4 8"]:
    """Misfits of children: `view` holds, for each parent pose, the image it belongs to."""
    ramp = phase_ramp(view.half.plane[None, :count], -offsets.to(view.half.plane))
    moved = view.moved_back(shift, count)[:, None] * ramp
    own = slices[place]
    cross = torch.bmm(as_real(moved), as_real(own).mT)
    norm = torch.bmm(own.abs().square(), view.transfer[:, :count, None].square())[..., 0]
    return 0.5 * view.power(count)[:, None, None] + 0.5 * norm[:, None] - cross
