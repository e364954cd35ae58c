r"""Branch and bound over SO(3) × ℝ² with frequency marching (Algorithm 1 of the paper).

The misfit of an image at a pose, ½ ‖x − c S(t) h(R)‖², is a sum over frequencies of terms that are
not negative, so its part inside a band, less what it can fall by inside a cell of the grid (`bound`),
bounds it from below for all poses of the cell. Grid by grid the band grows: cells whose bound exceeds
the full misfit of the best pose so far (an upper bound) cannot win and go; each of the others becomes
8 × 4 cells of the next grid. On noisy images the noise outside the band, which every pose
pays, makes the upper bound so high that little is pruned; a cap on the poses that go on then does the
work, and `Found` tells how often.

Images that share one volume share its slices too. With a volume for each image (z in rows) nothing is
shared but the frequencies of the first grid, and the slices of an image's poses that differ in shift alone.
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
from cryoatlas.portions import Portion
from cryoatlas.poses.bound import Steepness
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.view import Latent, View, as_real, as_rows
from cryoatlas.shapes import Bool, Complex, Float, Int, Tensor

WORKING_SET = Portion(2**24, 2**27)
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
class Effort:
    """What a search did, in plain numbers."""

    let_through: float
    """Share of the poses looked at that the bound lets through: mean over images and grids but the last,
    from which none go on; not a number for a single grid."""
    capped: float
    """Share of images for which the cap decided at some grid: their result is no longer certain."""
    poses: float
    """Poses scored for each image."""
    evaluations: float
    """Values V(k, z), V(−k, z) computed for each image."""


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
    cut: Int[Tensor, "grid image"]
    """Poses that the bound let through and the cap (`SearchConfig.keep`) did not; none at the last grid."""
    evaluations: int
    """Frequencies, each with its opposite, at which V(z) was asked for, all images together."""

    def effort(self) -> Effort:
        """What it took, in a few numbers."""
        images = self.tried.shape[1]
        return Effort(
            let_through=float((self.allowed[:-1] / self.tried[:-1]).mean()),
            capped=float((self.cut > 0).any(0).double().mean()),
            poses=float(self.tried.sum()) / images,
            evaluations=self.evaluations / images,
        )


Watch = Callable[[slice, Candidates, Float[Tensor, "3 3"]], None]
"""Told of what goes on from each grid: the images it is of, and how the grid is turned."""


def search(
    volume: Volume,
    views: Sequence[View],
    config: SearchConfig,
    *,
    z: Latent | None = None,
    turn: Float[Tensor, "3 3"] | None = None,
    watch: Watch = lambda images, candidates, turn: None,
) -> Found:
    """The best pose of each particle for its volume V(z), over all rotations and shifts.

    Args:
        views: the images; several views of the same particles (tilt pairs) add their misfits and share
            rotation and shift.
        z: which volume: one for all images or a row for each.
        turn: rotation of the whole grid, which keeps its directions from always being the same ones.

    Raises:
        ValueError: the views hold different numbers of images or none, or z has rows for others.
    """
    if len({len(view) for view in views}) != 1:
        raise ValueError("every view needs an image of each particle")
    z = as_rows(z)
    if z is not None and len(z) not in (1, len(views[0])):
        raise ValueError(
            f"z has {len(z)} rows for {len(views[0])} images: give one row, or one for each image"
        )
    device = views[0].spectrum.device
    turn = (
        torch.eye(3, dtype=torch.float64, device=device) if turn is None else turn.to(device, torch.float64)
    )
    problem = _Problem(volume, views, config, z, turn)
    shared = None if problem.own_z else problem.prepare()
    pieces, evaluations = [], 0 if shared is None else shared.evaluations
    for start in range(0, len(views[0]), problem.images_at_once):
        some = slice(start, start + problem.images_at_once)
        group = problem.only(some)
        prepared = shared or group.prepare()
        pieces.append(_search(group, prepared, partial(watch, some)))
        evaluations += pieces[-1].evaluations + (prepared.evaluations if shared is None else 0)
    return Found(
        Pose(
            torch.cat([piece.pose.rotation for piece in pieces]),
            torch.cat([piece.pose.shift for piece in pieces]),
        ),
        torch.cat([piece.loss for piece in pieces]),
        torch.cat([piece.allowed for piece in pieces], 1),
        torch.cat([piece.tried for piece in pieces], 1),
        torch.cat([piece.cut for piece in pieces], 1),
        evaluations,
    )


def misfit(
    volume: Volume,
    views: Sequence[View],
    pose: Pose,
    z: Latent | None = None,
    band: float = 0,
) -> Float[Tensor, "image"]:
    """½ ‖x − c S(t) h(R)‖² at one pose of each particle, inside `band` (cycles per box; 0 for all).

    With z in rows, each image is compared with the slice of its own volume.
    """
    total = torch.zeros(len(views[0]), device=views[0].spectrum.device)
    for view in views:
        count = view.half.count(band) if band else None
        slices = view.slices(volume, pose.rotation, z, count)
        cross = as_real(view.moved_back(pose.shift, count)) * as_real(slices)
        norm = view.transfer[:, :count].square() * slices.abs().square()
        total = total + 0.5 * view.power(count) - cross.sum(-1) + 0.5 * norm.sum(-1)
    return total


@dataclass(frozen=True)
class _Prepared:
    """What the images of one volume share; made for each group where every image has its own."""

    base: Sequence[Complex[Tensor, "*image rotation kept"]]
    """Slices of the first grid, for each view."""
    steepness: Steepness | None
    """None where the bound is taken as printed."""
    evaluations: int


@dataclass(frozen=True)
class _Problem:
    volume: Volume
    views: Sequence[View]
    config: SearchConfig
    z: Float[Tensor, "#image latent"] | None
    turn: Tensor

    @property
    def own_z(self) -> bool:
        """Whether every image has a volume of its own."""
        return self.z is not None and len(self.z) > 1

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
        coefficients = widest * len(self.views[0].half.order)
        if self.own_z:
            base = rotation_count(self.config.base_level) * self.count(self.views[0], 0)
            coefficients = max(coefficients, base)
        return WORKING_SET.rows(coefficients, self.views[0].transfer.device)

    def only(self, images: slice) -> "_Problem":
        return replace(self, views=[view[images] for view in self.views], z=self.z_of(images))

    def z_of(self, images: Int[Tensor, "some"] | slice) -> Float[Tensor, "#some latent"] | None:
        """The only row, or those of these images."""
        return self.z[images] if self.z is not None and self.own_z else self.z

    def rotations(self, level: int, index: Int[Tensor, "*some"]) -> Float[Tensor, "*some 3 3"]:
        return grid_rotations(level, index) @ self.turn

    def count(self, view: View, subdivision: int) -> int:
        return view.half.count(self.config.band(subdivision, self.box_size))

    def prepare(self) -> _Prepared:
        config, level = self.config, self.config.base_level
        every = self.rotations(level, torch.arange(rotation_count(level), device=self.turn.device))
        base = []
        for view in self.views:
            if self.z is not None and self.own_z:
                base.append(view.slices_of_each(self.volume, every, self.z, self.count(view, 0)))
            else:
                base.append(view.slices(self.volume, every, self.z, self.count(view, 0)))
        steepness, evaluations = None, sum(slices.numel() for slices in base)
        if config.slack and config.subdivisions:
            # At the last grid nothing is left to change.
            band = config.band(config.subdivisions - 1, self.box_size)
            steepness = Steepness.of(self.volume, self.views[0].half, self.z, band)
            evaluations += steepness.evaluations
        return _Prepared(base, steepness, evaluations)


def _search(
    problem: _Problem, prepared: _Prepared, watch: Callable[[Candidates, Float[Tensor, "3 3"]], None]
) -> Found:
    """All grids, for as many images as fit."""
    scores = _score_base(problem, prepared.base)
    candidates = _every_base_pose(problem, len(scores))
    upper = torch.full((len(scores),), torch.inf, device=scores.device)
    rows = torch.arange(len(scores), device=scores.device)
    allowed, tried, cut = [], [], []
    last_band = problem.config.band(problem.config.subdivisions, problem.box_size)
    once = len(scores) * sum(view.half.count(last_band) for view in problem.views)
    asked = 0
    for subdivision in range(problem.config.subdivisions + 1):
        best = scores.argmin(1)
        upper = torch.minimum(upper, _full_misfit(problem, candidates, best, last_band))
        lower = _lower_bound(problem, prepared.steepness, scores, subdivision)
        passing = candidates.alive & (lower <= upper[:, None])
        # The best pose goes on even where `slack` makes the bound an unsafe one.
        passing[rows, best] = True
        allowed.append(passing.sum(1))
        tried.append(candidates.alive.sum(1))
        asked += once
        if subdivision == problem.config.subdivisions:
            break
        candidates = _keep_best(candidates, scores, passing, problem.config.keep)
        cut.append(allowed[-1] - candidates.alive.sum(1))
        watch(candidates, problem.turn)
        scores, candidates, evaluations = _subdivide(problem, candidates, subdivision + 1)
        asked += evaluations
    cut.append(torch.zeros_like(rows))
    rotation = problem.rotations(candidates.level, candidates.rotation[rows, best])
    pose = Pose(rotation, candidates.shift[rows, best])
    return Found(pose, scores[rows, best], torch.stack(allowed), torch.stack(tried), torch.stack(cut), asked)


def _score_base(problem: _Problem, base: Sequence[Tensor]) -> Float[Tensor, "image candidate"]:
    """Misfits of every rotation and shift of the first grid, as one matrix product for each view.

    Where every image has slices of its own, as one product for each image.
    """
    shifts = problem.shifts.base()
    total = 0.0
    for view, slices in zip(problem.views, base, strict=True):
        count = slices.shape[-1]
        ramp = phase_ramp(view.half.plane[None, :count], -shifts.to(view.half.plane))
        moved = (view.transfer[:, :count] * view.spectrum[:, :count])[:, None] * ramp
        cross = as_real(moved) @ as_real(slices).mT
        norm = view.transfer[:, None, :count].square() @ slices.abs().square().mT
        total = total + 0.5 * view.power(count)[:, None, None] + 0.5 * norm - cross
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
    problem: _Problem,
    steepness: Steepness | None,
    scores: Float[Tensor, "image candidate"],
    subdivision: int,
) -> Float[Tensor, "image candidate"]:
    """½ max(0, √(2E) − slack · δ)²: with slack 1, what every pose of a cell has at least."""
    config = problem.config
    left = config.subdivisions - subdivision
    if steepness is None or not left:
        return scores
    change = steepness.change(
        problem.views,
        config.band(subdivision, problem.box_size),
        cell_radius(config.base_level + subdivision, left),
        problem.shifts.cell_radius(subdivision, left),
    )
    distance = (2 * scores.clamp(min=0)).sqrt() - config.slack * change[:, None]
    return 0.5 * distance.clamp(min=0).square()


def _full_misfit(
    problem: _Problem, candidates: Candidates, which: Int[Tensor, "image"], last_band: float
) -> Float[Tensor, "image"]:
    """The misfit over the last band of one candidate of each image: no pose that wins can have more."""
    rows = torch.arange(len(which), device=which.device)
    rotation = problem.rotations(candidates.level, candidates.rotation[rows, which])
    pose = Pose(rotation, candidates.shift[rows, which])
    return misfit(problem.volume, problem.views, pose, problem.z, last_band)


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
) -> tuple[Float[Tensor, "image candidate"], Candidates, int]:
    """The 8 × 4 children of every pose, with their misfits over the next band; evaluations that took."""
    level = parents.level + 1
    rotation = rotation_children(parents.level, parents.rotation)
    offsets = problem.shifts.offsets(subdivision).to(parents.shift)
    # Padding costs nothing: only poses in the race are scored.
    image = parents.alive.nonzero()[:, 0]
    # A slice is needed once for each rotation of each volume.
    many, whose = rotation_count(level), image[:, None] if problem.own_z else 0
    unique, place = (many * whose + rotation[parents.alive]).unique(return_inverse=True)
    matrices, z = problem.rotations(level, unique % many), problem.z_of(unique // many)
    total = torch.full(
        (*parents.alive.shape, SHIFT_CHILDREN, ROTATION_CHILDREN), torch.inf, device=unique.device
    )
    scored = torch.zeros(len(image), SHIFT_CHILDREN, ROTATION_CHILDREN, device=unique.device)
    evaluations = 0
    for view in problem.views:
        count = problem.count(view, subdivision)
        slices = view.slices(problem.volume, matrices, z, count)
        evaluations += slices.numel()
        scored += _score_children(view[image], slices, place, parents.shift[parents.alive], offsets, count)
    total[parents.alive] = scored
    shape = total.shape
    children = Candidates(
        level,
        rotation[:, :, None].expand(shape).flatten(1),
        (parents.shift[:, :, None] + offsets)[:, :, :, None].expand(*shape, 2).flatten(1, 3),
        parents.alive[:, :, None, None].expand(shape).flatten(1),
    )
    return total.flatten(1), children, evaluations


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
