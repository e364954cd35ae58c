r"""The E-step: how well every rotation and shift of a grid explains every image, as matrix products.

With x = X̂/σ, c = ĝ/σ (see `poses.view`), h_k = A(R) W_k and φ = (1, z), an image at a hypothesis (R, t) has

.. math:: \log p(X | R, t, z) = \sum_k \phi_k \langle c\,S(-t)\,x,\; h_k \rangle
          - \tfrac12 \sum_{kl} \phi_k \phi_l \langle c^2, h_k \bar h_l \rangle + \text{const}.

Slices are cut once for all images, so that all images × shifts meet all rotations × maps in one product. With
z ~ N(0, I) the latent integrates out: with b = ⟨c S(−t) x, h_k⟩ − H_{0k} and M = I + H over the components,

.. math:: \log p(X | R, t) = \langle c\,S(-t)\,x, h_0 \rangle - \tfrac12 H_{00}
          + \tfrac12 b^T M^{-1} b - \tfrac12 \log\det M,

and z given the hypothesis is N(M⁻¹b, M⁻¹). The constant is the log-likelihood of an empty volume: evidence
is counted from there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.shift import phase_ramp
from cryoatlas.poses.view import View, as_real
from cryoatlas.shapes import Complex, Float, Int, Tensor
from cryoatlas.subspace.maximization import NormalEquations
from cryoatlas.subspace.model import Subspace

FAINT = 1e-3
"""Hypotheses less probable than this part of an image's best one are left out of the M-step …"""
MOST = 256
"""… and so are all but this many of the best."""
LOWEST = 25.0
"""Hypotheses that many nats below the best one add nothing to a sum."""
WORKING_SET = 2**25
"""Numbers held at a time for each of the arrays over images × shifts × rotations × maps."""


@dataclass(frozen=True)
class Hypotheses:
    """Every rotation with every shift."""

    rotation: Float[Tensor, "rotation 3 3"]
    shift: Float[Tensor, "shift 2"]
    """Å."""

    def __len__(self) -> int:
        return len(self.rotation) * len(self.shift)


@dataclass(frozen=True)
class Expectation:
    """What images say about their poses and latents: the hypotheses that matter, image by image."""

    evidence: Float[Tensor, "image"]
    """log p(X) − log p(X | empty volume), poses and latent integrated out, nats."""
    shift: Int[Tensor, "image kept"]
    """Number of the hypothesis' shift; most probable first."""
    rotation: Int[Tensor, "image kept"]
    weight: Float[Tensor, "image kept"]
    """Posterior probability; sums to 1 for each image."""
    latent: Float[Tensor, "image kept component"]
    """Mean of z under the hypothesis."""
    covariance: Float[Tensor, "image kept component component"]

    def pose(self, hypotheses: Hypotheses, number: int = 0) -> Pose:
        """The most probable pose of each image, or the one so many places behind it."""
        return Pose(hypotheses.rotation[self.rotation[:, number]], hypotheses.shift[self.shift[:, number]])


def expect(
    subspace: Subspace,
    views: Sequence[View],
    hypotheses: Hypotheses,
    band: float,
    temper: float = 1.0,
) -> Expectation:
    """Posterior over hypotheses and latents of every image.

    Args:
        views: the images; several views of the same particles add their log-likelihoods and share z.
        band: radius of the frequencies compared, cycles per box.
        temper: power of the likelihood; below 1 it doubts the maps as noise 1/temper times stronger would.
    """
    slices = [subspace.slices(view, hypotheses.rotation, view.half.count(band)) for view in views]
    per_image = len(hypotheses) * len(subspace.maps)
    size = max(1, WORKING_SET // per_image)
    pieces = [
        _expect([view[start : start + size] for view in views], slices, hypotheses, temper)
        for start in range(0, len(views[0]), size)
    ]
    most = max(piece.weight.shape[1] for piece in pieces)
    names = Expectation.__dataclass_fields__
    return Expectation(**{name: torch.cat([_pad(getattr(p, name), most) for p in pieces]) for name in names})


@dataclass(frozen=True)
class Known:
    """Images at one pose each: what is left to be told is z ~ N(mean, covariance)."""

    mean: Float[Tensor, "image component"]
    covariance: Float[Tensor, "image component component"]
    evidence: Float[Tensor, "image"]
    """log p(X | R, t) − log p(X | empty volume), the latent integrated out, nats."""

    def __getitem__(self, index: Int[Tensor, "some"]) -> "Known":
        return Known(self.mean[index], self.covariance[index], self.evidence[index])

    @property
    def weights(self) -> Float[Tensor, "image map"]:
        """φ = (1, z): the sum of maps that is each image's own volume."""
        return torch.cat([self.mean.new_ones(len(self.mean), 1), self.mean], 1)

    def moments(self, pairs: Int[Tensor, "2 pair"]) -> Float[Tensor, "pair image"]:
        """⟨φ_k φ_l⟩ for the pairs of `NormalEquations`."""
        return _moments(self.weights, self.covariance, pairs).movedim(-1, 0)


def latents_at(subspace: Subspace, views: Sequence[View], pose: Pose, band: float) -> Known:
    """Posterior of z of images at given poses, in closed form.

    Args:
        band: radius of the frequencies compared, cycles per box.
    """
    cross = torch.zeros(len(pose), subspace.components + 1, device=views[0].transfer.device)
    overlap = cross.new_zeros(len(pose), subspace.components + 1, subspace.components + 1)
    for view in views:
        count = view.half.count(band)
        slices = view.transfer[:, None, :count] * subspace.slices(view, pose.rotation, count).movedim(0, 1)
        ramp = phase_ramp(view.half.plane[None, :count], -pose.shift.to(view.half.plane))
        observed = view.spectrum[:, None, :count] * ramp[:, None]
        cross += (as_real(slices) * as_real(observed)).sum(-1)
        overlap += as_real(slices) @ as_real(slices).mT
    matrix = torch.eye(subspace.components, device=cross.device) + overlap[:, 1:, 1:]
    root = torch.linalg.cholesky(matrix)
    pull = cross[:, 1:] - overlap[:, 0, 1:]
    covariance = torch.cholesky_inverse(root)
    mean = (covariance @ pull[..., None])[..., 0]
    evidence = cross[:, 0] - 0.5 * overlap[:, 0, 0] + 0.5 * (pull * mean).sum(1)
    return Known(mean, covariance, evidence - root.diagonal(dim1=-2, dim2=-1).log().sum(-1))


def accumulate(
    equations: NormalEquations,
    views: Sequence[View],
    hypotheses: Hypotheses,
    expected: Expectation,
    band: float,
) -> None:
    """Add images to the normal equations of the maps, each at the hypotheses that matter.

    Images are summed into the slices they belong to before these are put into the grid, so that gridding is
    paid for each rotation and not for each image.
    """
    images = len(expected.weight)
    used, slot = expected.rotation.unique(return_inverse=True)
    row = torch.arange(images, device=used.device)[:, None].expand_as(slot)
    phi = torch.cat([torch.ones_like(expected.weight)[..., None], expected.latent], -1)
    moments = _moments(phi, expected.covariance, equations.pairs)
    where = (slot.flatten(), row.flatten())
    by_image = moments.new_zeros(moments.shape[-1], len(used), images)
    for pair, filled in enumerate(by_image):
        filled.index_put_(where, (expected.weight * moments[..., pair]).flatten(), accumulate=True)
    shifts = hypotheses.shift[expected.shift]
    for view in views:
        count = view.half.count(band)
        plane = view.half.plane[:count]
        source = as_real(view.transfer[:, :count] * view.spectrum[:, :count])
        values = plane.new_zeros(phi.shape[-1], len(used), 2 * count)
        for image in range(images):
            moved = _moved(source[image], plane, shifts[image])
            weighted = (expected.weight[image, :, None] * phi[image]).T[..., None] * moved
            values.index_add_(1, slot[image], weighted)
        weights = by_image @ view.transfer[:, :count].square()
        rotation = view.tilt @ hypotheses.rotation[used].to(view.tilt)
        equations.insert(torch.view_as_complex(values.unflatten(-1, (count, 2))), weights, rotation, plane)


def accumulate_known(
    equations: NormalEquations, views: Sequence[View], pose: Pose, known: Known, band: float
) -> None:
    """Add images to the normal equations of the maps, each at its pose."""
    moments = known.moments(equations.pairs)
    for view in views:
        count = view.half.count(band)
        values = known.weights.T[:, :, None] * view.moved_back(pose.shift, count)
        weights = moments[..., None] * view.transfer[:, :count].square()
        turned = view.tilt @ pose.rotation.to(view.tilt)
        equations.insert(values, weights, turned, view.half.plane[:count])


def _moments(
    phi: Float[Tensor, "*image map"],
    covariance: Float[Tensor, "*image component component"],
    pairs: Int[Tensor, "2 pair"],
) -> Float[Tensor, "*image pair"]:
    """⟨φ_k φ_l⟩ of φ = (1, z)."""
    first, second = pairs
    moments = phi[..., first] * phi[..., second]
    lower = (second > 0).nonzero().squeeze(-1)
    moments[..., lower] += covariance[..., first[lower] - 1, second[lower] - 1]
    return moments


def _moved(
    source: Float[Tensor, "two_half"], plane: Float[Tensor, "half 2"], shift: Float[Tensor, "kept 2"]
) -> Float[Tensor, "kept two_half"]:
    """c S(−t) x for several shifts of one image."""
    ramp = phase_ramp(plane[None], -shift.to(plane))
    return as_real(torch.view_as_complex(source.unflatten(-1, (-1, 2))) * ramp)


def _expect(
    views: Sequence[View],
    slices: Sequence[Complex[Tensor, "map rotation half"]],
    hypotheses: Hypotheses,
    temper: float,
) -> Expectation:
    """For as many images as fit."""
    cross, overlap = _products(views, slices, hypotheses)
    score = temper * (cross[0] - 0.5 * overlap[:, None, :, 0, 0])
    components = len(cross) - 1
    root = None
    if components:
        matrix = torch.eye(components, device=score.device) + temper * overlap[..., 1:, 1:]
        root = torch.linalg.cholesky(matrix)
        pull = temper * (cross[1:] - overlap[..., 0, 1:].permute(2, 0, 1)[:, :, None])
        whitened = _solve_lower(root, pull)
        score += 0.5 * whitened.square().sum(0)
        score -= root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
    flat = score.flatten(1)
    total = _log_sum(flat)
    kept, where = flat.topk(min(MOST, flat.shape[1]), dim=1)
    weight = torch.exp(kept - total[:, None])
    weight = torch.where(weight >= FAINT * weight[:, :1], weight, 0.0)
    some = int((weight > 0).sum(1).max())
    weight, where = weight[:, :some], where[:, :some]
    rotations = len(hypotheses.rotation)
    shift, rotation = where.div(rotations, rounding_mode="floor"), where % rotations
    latent, covariance = _latents(root, None if root is None else whitened, shift, rotation)
    evidence = total - math.log(len(hypotheses))
    return Expectation(evidence, shift, rotation, weight / weight.sum(1, keepdim=True), latent, covariance)


def _log_sum(score: Float[Tensor, "image hypothesis"]) -> Float[Tensor, "image"]:
    """log Σ exp, without the exponentials that are nothing: exact to e^−25 times the number of hypotheses."""
    peak = score.amax(1)
    image, hypothesis = (score > peak[:, None] - LOWEST).nonzero(as_tuple=True)
    terms = torch.exp(score[image, hypothesis] - peak[image])
    return peak + torch.zeros_like(peak).index_add_(0, image, terms).log()


def _products(
    views: Sequence[View], slices: Sequence[Complex[Tensor, "map rotation half"]], hypotheses: Hypotheses
) -> tuple[Float[Tensor, "map image shift rotation"], Float[Tensor, "image rotation map map"]]:
    """⟨c S(−t) x, h_k⟩ and ⟨c², h_k h̄_l⟩, summed over views."""
    images, shifts, maps = len(views[0]), len(hypotheses.shift), len(slices[0])
    cross = slices[0].real.new_zeros(maps, images * shifts, len(hypotheses.rotation))
    overlap = cross.new_zeros(images, len(hypotheses.rotation), maps, maps)
    for view, cut in zip(views, slices, strict=True):
        count = cut.shape[-1]
        plane, transfer = view.half.plane[:count], view.transfer[:, :count]
        ramp = phase_ramp(plane[None], -hypotheses.shift.to(plane))
        moved = as_real((transfer * view.spectrum[:, :count])[:, None] * ramp).flatten(0, 1)
        for k in range(maps):
            cross[k] += moved @ as_real(cut[k]).T
            for other in range(k + 1):
                product = transfer.square() @ (cut[k] * cut[other].conj()).real.T
                overlap[..., k, other] += product
                if other < k:
                    overlap[..., other, k] += product
    return cross.unflatten(1, (images, shifts)), overlap


def _solve_lower(
    root: Float[Tensor, "image rotation component component"],
    pull: Float[Tensor, "component image shift rotation"],
) -> Float[Tensor, "component image shift rotation"]:
    """L⁻¹ b by forward substitution: one matrix for each image and rotation, shared by all shifts."""
    solved: list[Tensor] = []
    for k in range(len(pull)):
        value = pull[k]
        for other, known in enumerate(solved):
            value = value - root[:, None, :, k, other] * known
        solved.append(value / root[:, None, :, k, k])
    return torch.stack(solved)


def _latents(
    root: Float[Tensor, "image rotation component component"] | None,
    whitened: Float[Tensor, "component image shift rotation"] | None,
    shift: Int[Tensor, "image kept"],
    rotation: Int[Tensor, "image kept"],
) -> tuple[Float[Tensor, "image kept component"], Float[Tensor, "image kept component component"]]:
    """M⁻¹ b = L⁻ᵀ L⁻¹ b and M⁻¹ of the hypotheses kept."""
    if root is None or whitened is None:
        empty = torch.zeros(*shift.shape, 0, device=shift.device)
        return empty, torch.zeros(*shift.shape, 0, 0, device=shift.device)
    image = torch.arange(len(shift), device=shift.device)[:, None]
    lower = root[image, rotation]
    half = whitened[:, image, shift, rotation].movedim(0, -1)
    latent = torch.linalg.solve_triangular(lower.mT, half[..., None], upper=True)[..., 0]
    return latent, torch.cholesky_inverse(lower)


def _pad(values: Tensor, most: int) -> Tensor:
    """Hypotheses of no weight, so that pieces can be joined."""
    if values.dim() == 1 or values.shape[1] == most:
        return values
    fill = values.new_zeros(len(values), most - values.shape[1], *values.shape[2:])
    return torch.cat([values, fill], 1)
