r"""The E-step: how well every rotation and shift of a grid explains every image, as matrix products.

With x = X̂/σ, c = ĝ/σ (see `poses.view`), h_k = A(R) W_k and φ = (1, z), an image at a hypothesis (R, t) has

.. math:: \log p(X | R, t, z) = \sum_k \phi_k \langle c\,S(-t)\,x,\; h_k \rangle
          - \tfrac12 \sum_{kl} \phi_k \phi_l \langle c^2, h_k \bar h_l \rangle + \text{const}.

Slices are cut once for all images, so that all images × shifts meet all rotations in one product with μ; what
is near the best is looked at with the components too. With z ~ N(0, I) the latent integrates out: with
b = ⟨c S(−t) x, h_k⟩ − H_{0k} and M = I + H over the components,

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
from cryoatlas.portions import Portion
from cryoatlas.poses.view import View, as_real
from cryoatlas.shapes import Complex, Float, Int, Tensor
from cryoatlas.subspace.maximization import NormalEquations
from cryoatlas.subspace.model import Subspace

FAINT = 1e-3
"""Hypotheses less probable than this part of an image's best one are left out of the M-step …"""
MOST = 256
"""… and so are all but this many of the best."""
REACH = 30.0
"""Hypotheses that many nats below the best one by the mean map alone are not looked at with components:
z would have to explain as much more of the image."""
NEAR = Portion(2**16, 2**20)
"""Hypotheses looked at with components at a time."""
WORKING_SET = Portion(2**23, 2**25)
"""Of an array over images × shifts × rotations; a hypothesis that is looked at with components takes a
hundred bytes more."""
MOVED = Portion(2**17, 2**26)
"""Of an array over images × hypotheses × coefficients, in the M-step."""


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
    size = WORKING_SET.rows(len(hypotheses), views[0].transfer.device)
    pieces = [
        _expect([view[start : start + size] for view in views], slices, hypotheses, temper)
        for start in range(0, len(views[0]), size)
    ]
    kept = max(piece.weight.shape[1] for piece in pieces)
    names = Expectation.__dataclass_fields__
    return Expectation(**{name: torch.cat([_pad(getattr(p, name), kept) for p in pieces]) for name in names})


@dataclass(frozen=True)
class Known:
    """Images at one pose each: what is left to be told is z ~ N(mean, covariance)."""

    mean: Float[Tensor, "image component"]
    covariance: Float[Tensor, "image component component"]
    evidence: Float[Tensor, "image"]
    """log p(X | R, t) − log p(X | empty volume), the latent integrated out, nats."""

    def __getitem__(self, index: Int[Tensor, "some"]) -> "Known":
        return Known(self.mean[index], self.covariance[index], self.evidence[index])

    @classmethod
    def without_components(cls, evidence: Float[Tensor, "image"]) -> "Known":
        """Images of a volume that does not move: there is no z to tell."""
        return cls(evidence.new_zeros(len(evidence), 0), evidence.new_zeros(len(evidence), 0, 0), evidence)

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
    latents = _latents(cross[:, 1:] - overlap[:, 0, 1:], overlap[:, 1:, 1:])
    evidence = cross[:, 0] - 0.5 * overlap[:, 0, 0] + latents.gain
    return Known(latents.mean, latents.covariance, evidence)


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
    images, counts = len(expected.weight), (expected.weight > 0).sum(1).tolist()
    most = max(counts)
    # What has no weight must not call for a slice of its own.
    weighing = torch.where(expected.weight > 0, expected.rotation, expected.rotation[:, :1])
    used, slot = weighing.unique(return_inverse=True)
    row = torch.arange(images, device=used.device)[:, None].expand_as(slot)
    phi = torch.cat([torch.ones_like(expected.weight)[..., None], expected.latent], -1)
    moments = _moments(phi, expected.covariance, equations.pairs)
    where = (slot.flatten(), row.flatten())
    by_image = moments.new_zeros(moments.shape[-1], len(used), images)
    for pair, filled in enumerate(by_image):
        filled.index_put_(where, (expected.weight * moments[..., pair]).flatten(), accumulate=True)
    for view in views:
        count = view.half.count(band)
        plane = view.half.plane[:count]
        source = view.transfer[:, :count] * view.spectrum[:, :count]
        ramp = phase_ramp(plane[None], -hypotheses.shift.to(plane))
        values = plane.new_zeros(phi.shape[-1], len(used), 2 * count)
        for some in torch.arange(images, device=used.device).split(MOVED.rows(most * 2 * count, used.device)):
            # Hypotheses outnumber shifts: moving an image to each shift once is cheaper.
            moved = as_real(source[some, None] * ramp)
            kept = slice(max(counts[int(some[0]) : int(some[-1]) + 1]))
            rows = moved[torch.arange(len(some))[:, None], expected.shift[some, kept]]
            weighted = (expected.weight[some, kept, None] * phi[some, kept]).movedim(-1, 0)
            weighted = (weighted[..., None] * rows).flatten(1, 2)
            values.index_add_(1, slot[some, kept].flatten(), weighted)
        weights = by_image @ view.transfer[:, :count].square()
        spectra = torch.view_as_complex(values.unflatten(-1, (count, 2)))
        for turned in view.rotations(hypotheses.rotation[used]):
            equations.insert(spectra, weights, turned, plane)


def accumulate_known(
    equations: NormalEquations,
    views: Sequence[View],
    pose: Pose,
    known: Known,
    band: float,
    share: Float[Tensor, "image"] | None = None,
) -> None:
    """Add images to the normal equations of the maps, each at its pose.

    Args:
        share: how much each image counts, such as the probability that it is of these maps; default 1.
    """
    moments, weights_of_maps = known.moments(equations.pairs), known.weights.T
    if share is not None:
        moments, weights_of_maps = share * moments, share * weights_of_maps
    for view in views:
        count = view.half.count(band)
        values = weights_of_maps[:, :, None] * view.moved_back(pose.shift, count)
        weights = moments[..., None] * view.transfer[:, :count].square()
        for turned in view.rotations(pose.rotation):
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


def _expect(
    views: Sequence[View],
    slices: Sequence[Complex[Tensor, "map rotation half"]],
    hypotheses: Hypotheses,
    temper: float,
) -> Expectation:
    """For as many images as fit."""
    moved, score = _mean_scores(views, slices, hypotheses)
    score *= temper
    near = (score > score.amax(1, keepdim=True) - REACH).nonzero(as_tuple=True)
    image, hypothesis = near
    value = score[near]
    rotations = len(hypotheses.rotation)
    shift, rotation = hypothesis.div(rotations, rounding_mode="floor"), hypothesis % rotations
    row = image * len(hypotheses.shift) + shift
    cross, overlap = _component_products(moved, views, slices, (image, row, rotation))
    posterior = _latents(temper * (cross - overlap[:, 0, 1:]), temper * overlap[:, 1:, 1:])
    value = value + posterior.gain
    total = _log_sum(value, image, len(score))
    order, place = _ranked(value, image)
    some = int(place.max()) + 1

    def padded(values: Tensor) -> Tensor:
        filled = values.new_zeros(len(score), some, *values.shape[1:])
        filled[image[order], place] = values[order]
        return filled

    weight = padded(torch.exp(value - total[image]))
    weight = torch.where(weight >= FAINT * weight[:, :1], weight, 0.0)
    return Expectation(
        total - math.log(len(hypotheses)),
        padded(shift),
        padded(rotation),
        weight / weight.sum(1, keepdim=True),
        padded(posterior.mean),
        padded(posterior.covariance),
    )


def _mean_scores(
    views: Sequence[View], slices: Sequence[Complex[Tensor, "map rotation half"]], hypotheses: Hypotheses
) -> tuple[list[Float[Tensor, "image_shift two_half"]], Float[Tensor, "image hypothesis"]]:
    """c S(−t) x of each view, real and imaginary parts side by side; log-likelihoods under μ alone."""
    images, shifts = len(views[0]), len(hypotheses.shift)
    every = []
    score = slices[0].real.new_zeros(images, shifts, len(hypotheses.rotation))
    for view, cut in zip(views, slices, strict=True):
        count = cut.shape[-1]
        plane, transfer = view.half.plane[:count], view.transfer[:, :count]
        ramp = phase_ramp(plane[None], -hypotheses.shift.to(plane))
        every.append(as_real((transfer * view.spectrum[:, :count])[:, None] * ramp).flatten(0, 1))
        score += (every[-1] @ as_real(cut[0]).T).unflatten(0, (images, shifts))
        score -= 0.5 * (transfer.square() @ cut[0].abs().square().T)[:, None]
    return every, score.flatten(1)


def _component_products(
    moved: Sequence[Float[Tensor, "image_shift two_half"]],
    views: Sequence[View],
    slices: Sequence[Complex[Tensor, "map rotation half"]],
    where: tuple[Int[Tensor, "near"], Int[Tensor, "near"], Int[Tensor, "near"]],
) -> tuple[Float[Tensor, "near component"], Float[Tensor, "near map map"]]:
    """⟨c S(−t) x, h_k⟩ of the components and ⟨c², h_k h̄_l⟩ of all maps, summed over views.

    Args:
        where: image, row of `moved` and rotation of each hypothesis that is looked at.
    """
    image, row, rotation = where
    maps = len(slices[0])
    cross = moved[0].new_zeros(len(image), maps - 1)
    overlap = cross.new_zeros(len(image), maps, maps)
    for view, cut, rows in zip(views, slices, moved, strict=True):
        squared = view.transfer[:, : cut.shape[-1]].square()
        for k in range(1, maps):
            component = as_real(cut[k])
            for part in torch.arange(len(image), device=image.device).split(NEAR.on(image.device)):
                cross[part, k - 1] += (rows[row[part]] * component[rotation[part]]).sum(1)
            for other in range(k + 1):
                product = (squared @ (cut[k] * cut[other].conj()).real.T)[image, rotation]
                overlap[:, k, other] += product
                if other < k:
                    overlap[:, other, k] += product
    return cross, overlap


@dataclass(frozen=True)
class _Latents:
    """z of some hypotheses, and what integrating it out adds to their log-likelihoods."""

    mean: Float[Tensor, "near component"]
    covariance: Float[Tensor, "near component component"]
    gain: Float[Tensor, "near"]


def _latents(
    pull: Float[Tensor, "near component"], overlap: Float[Tensor, "near component component"]
) -> _Latents:
    """N(M⁻¹b, M⁻¹) and ½ bᵀM⁻¹b − ½ log det M, M = I + H."""
    components = pull.shape[1]
    if not components:
        return _Latents(pull, overlap, pull.new_zeros(len(pull)))
    identity = torch.eye(components, device=pull.device).expand_as(overlap)
    root = torch.linalg.cholesky(identity + overlap)
    # Faster than cholesky_inverse.
    inverse_root = torch.linalg.solve_triangular(root, identity, upper=False)
    covariance = inverse_root.mT @ inverse_root
    mean = (covariance @ pull[..., None])[..., 0]
    gain = 0.5 * (pull * mean).sum(1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return _Latents(mean, covariance, gain)


def _log_sum(value: Float[Tensor, "near"], image: Int[Tensor, "near"], images: int) -> Float[Tensor, "image"]:
    """log Σ exp over the hypotheses of each image."""
    peak = value.new_full((images,), -torch.inf).scatter_reduce(0, image, value, "amax")
    return peak + torch.zeros_like(peak).index_add_(0, image, torch.exp(value - peak[image])).log()


def _ranked(
    value: Float[Tensor, "near"], image: Int[Tensor, "near"]
) -> tuple[Int[Tensor, "kept"], Int[Tensor, "kept"]]:
    """Which hypotheses are among the `MOST` best of their image, and their place there, 0 for the best."""
    order = value.argsort(descending=True)
    order = order[image[order].argsort(stable=True)]
    sorted_image = image[order]
    first = torch.searchsorted(sorted_image, sorted_image)
    place = torch.arange(len(order), device=order.device) - first
    kept = place < MOST
    return order[kept], place[kept]


def _pad(values: Tensor, most: int) -> Tensor:
    """Hypotheses of no weight, so that pieces can be joined."""
    if values.dim() == 1 or values.shape[1] == most:
        return values
    fill = values.new_zeros(len(values), most - values.shape[1], *values.shape[2:])
    return torch.cat([values, fill], 1)
