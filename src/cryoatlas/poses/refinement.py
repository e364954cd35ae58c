r"""Poses beyond the grid: damped Gauss–Newton in the tangent space of SO(3) × ℝ².

With R ← exp([ω]) R and t ← t + δ the residual c (x/c − S(t) h(R)) is linear in (ω, δ) near the pose.
Its derivative in ω comes from slices turned a little either way, in δ from the ramp that shifts are:
∂/∂δ S(t) h = −2πi k S(t) h, of the *predicted* slice, since that of the noisy image would fit noise.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.shift import phase_ramp
from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.branch_and_bound import misfit
from cryoatlas.poses.view import Latent, View, as_real, as_rows
from cryoatlas.shapes import Float, Tensor

FIRST_DAMPING = 1e-3
"""Of the diagonal of the normal equations; a tenth after a good step, tenfold after a bad one."""
SMALL_TURN = 0.25
"""Turn for the numerical derivative, in units of the angle that moves the band's edge by one coefficient."""
LEAST_VARIANCE = 1e-14
"""Of drawn steps, radians² and Å²."""

SLICES_OF_A_STEP = 8
"""One at the pose and six around it for the derivatives, one at the new pose to judge the step."""


def refine(
    volume: Volume,
    views: Sequence[View],
    pose: Pose,
    steps: int,
    *,
    z: Latent | None = None,
    band: float = 0.0,
) -> tuple[Pose, Float[Tensor, "image"]]:
    """Improve poses; none gets worse.

    Args:
        views: as for `search`.
        pose: where to start, one for each particle.
        z: which volume: one for all images or a row for each.
        steps: Gauss–Newton steps, each of which is taken only if it lowers the misfit.
        band: radius in cycles per box of the frequencies compared; 0 for all.

    Returns:
        The poses, and their misfits over the band.
    """
    import roma

    pose, z = pose.to(torch.float64), as_rows(z)
    loss = misfit(volume, views, pose, z, band)
    damping = torch.full_like(loss, FIRST_DAMPING)
    for _ in range(steps):
        curvature, gradient = _normal_equations(volume, views, pose, z, band)
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        damped = curvature + torch.diag_embed(damping[:, None] * diagonal + 1e-12)
        step = torch.linalg.solve(damped, gradient)
        turned = Pose(roma.rotvec_to_rotmat(step[:, :3]) @ pose.rotation, pose.shift + step[:, 3:])
        after = misfit(volume, views, turned, z, band)
        better = after < loss
        pose = Pose(
            torch.where(better[:, None, None], turned.rotation, pose.rotation),
            torch.where(better[:, None], turned.shift, pose.shift),
        )
        loss = torch.where(better, after, loss)
        damping = torch.where(better, damping / 10, damping * 10)
    return pose, loss


def pose_covariance(
    volume: Volume, views: Sequence[View], pose: Pose, *, z: Latent | None = None, band: float = 0.0
) -> Float[Tensor, "image 5 5"]:
    r"""How well images tell their poses, if maps and latents are right and no other pose fits as well.

    The posterior near a pose is about normal, with covariance (JᵀJ + P)⁻¹; P says as little as that a turn
    is no more than π and a shift no more than the box.

    Args:
        views, z, band: as for `refine`.

    Returns:
        Of (ω, δ), radians and Å, float64.
    """
    curvature, _ = _normal_equations(volume, views, pose.to(torch.float64), as_rows(z), band)
    box = volume.box_size * volume.pixel_size
    widest = curvature.new_tensor([math.pi] * 3 + [box] * 2)
    return torch.linalg.inv(curvature + torch.diag(widest**-2))


def spread_of(covariance: Float[Tensor, "image 5 5"]) -> Float[Tensor, "image 2"]:
    """Standard deviation about one axis (radians) and along one direction (Å), root mean squares over the
    three axes and the two directions."""
    variance = covariance.diagonal(dim1=1, dim2=2).clamp(min=0)
    return torch.stack([variance[:, :3].mean(1), variance[:, 3:].mean(1)], 1).sqrt()


def drawn_poses(
    pose: Pose, covariance: Float[Tensor, "image 5 5"], pairs: int, generator: torch.Generator
) -> Iterator[Pose]:
    """Poses drawn around given ones, in pairs of opposite steps, whose mean is right whatever their number.

    Args:
        covariance: of the steps (ω, δ), radians and Å, float64.
        generator: on the CPU.
    """
    import roma

    # A pose known exactly has no root.
    root = torch.linalg.cholesky(covariance + LEAST_VARIANCE * torch.eye(5).to(covariance))
    pose = pose.to(torch.float64)
    for _ in range(pairs):
        normal = torch.randn(len(root), 5, 1, dtype=torch.float64, generator=generator).to(root.device)
        step = (root @ normal)[..., 0]
        for sign in (1, -1):
            turn = torch.as_tensor(roma.rotvec_to_rotmat(sign * step[:, :3]))
            yield Pose(turn @ pose.rotation, pose.shift + sign * step[:, 3:])


def _normal_equations(
    volume: Volume, views: Sequence[View], pose: Pose, z: Tensor | None, band: float
) -> tuple[Float[Tensor, "image 5 5"], Float[Tensor, "image 5"]]:
    """JᵀJ and Jᵀr in float64, with J the derivative of the prediction by (ω, δ)."""
    curvature = torch.zeros(len(pose), 5, 5, dtype=torch.float64, device=pose.shift.device)
    gradient = curvature.new_zeros(len(pose), 5)
    for view in views:
        count = view.half.count(band) if band else len(view.half.order)
        jacobian, residual = _linearised(volume, view, pose, z, count)
        curvature += torch.bmm(jacobian, jacobian.mT)
        gradient += torch.bmm(jacobian, residual[..., None])[..., 0]
    return curvature, gradient


def _linearised(
    volume: Volume, view: View, pose: Pose, z: Tensor | None, count: int
) -> tuple[Float[Tensor, "image 5 two_half"], Float[Tensor, "image two_half"]]:
    """Derivatives of c S(t) h(R), real and imaginary parts side by side, and x − c S(t) h(R)."""
    import roma

    plane = view.half.plane[:count]
    small = SMALL_TURN / float(view.half.radius[count - 1])
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).to(pose.rotation)
    turns = roma.rotvec_to_rotmat(small * axes)
    turned = (turns @ pose.rotation[:, None]).flatten(0, 1)
    every = torch.cat([pose.rotation, turned])
    if z is not None and len(z) > 1:
        z = torch.cat([z, z.repeat_interleave(6, 0)])
    slices = view.slices(volume, every, z, count)
    scale = view.transfer[:, :count] * phase_ramp(plane[None], pose.shift.to(plane))
    predicted = scale * slices[: len(pose)]
    around = slices[len(pose) :].unflatten(0, (len(pose), 6))
    by_turn = scale[:, None] * (around[:, :3] - around[:, 3:]) / (2 * small)
    by_shift = -2j * math.pi * plane.T[None] * predicted[:, None]
    jacobian = as_real(torch.cat([by_turn, by_shift], 1)).double()
    return jacobian, as_real(view.spectrum[:, :count] - predicted).double()
