r"""Rotations: RELION angles ↔ matrices, distances, random draws, alignment of two sets.

A rotation R takes coordinates of the volume's frame to the image's frame, x_image = R x_volume, so
the image-plane point x lies at Rᵀx in the volume (convention C3). RELION's angles give it as
R = (R_z(rot) R_y(tilt) R_z(psi))ᵀ with active rotations on the right-hand side.
"""

import math

import numpy as np
import torch

from cryoatlas.shapes import Float, Tensor


def from_relion_angles(angles_deg: Float[Tensor, "pose 3"]) -> Float[Tensor, "pose 3 3"]:
    """Rotations from rlnAngleRot, rlnAngleTilt, rlnAnglePsi.

    Args:
        angles_deg: rot, tilt, psi in degrees.
    """
    rot, tilt, psi = torch.deg2rad(angles_deg).unbind(-1)
    return (_about_z(rot) @ _about_y(tilt) @ _about_z(psi)).mT


def to_relion_angles(rotation: Float[Tensor, "pose 3 3"]) -> Float[Tensor, "pose 3"]:
    """rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees; tilt in [0, 180].

    At the poles (tilt 0 or 180) only rot ± psi is determined; psi is then set to 0.
    """
    in_plane_sine = torch.linalg.vector_norm(rotation[..., 2, :2], dim=-1)
    tilt = torch.atan2(in_plane_sine, rotation[..., 2, 2])
    regular = in_plane_sine > 16 * torch.finfo(rotation.dtype).eps
    rot_regular = torch.atan2(rotation[..., 2, 1], rotation[..., 2, 0])
    psi_regular = torch.atan2(rotation[..., 1, 2], -rotation[..., 0, 2])
    rot_pole = torch.atan2(-rotation[..., 1, 0], rotation[..., 1, 1])
    rot = torch.where(regular, rot_regular, rot_pole)
    psi = torch.where(regular, psi_regular, torch.zeros_like(rot))
    return torch.rad2deg(torch.stack([rot, tilt, psi], -1))


def about_x(angle: float) -> Float[Tensor, "3 3"]:
    """Active right-handed rotation about x by `angle` radians, in float64."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)


def about_axis(axis: Float[Tensor, "3"], angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Active right-handed rotation about a direction (any length) by `angle` radians."""
    import roma

    unit = axis / torch.linalg.vector_norm(axis)
    return roma.rotvec_to_rotmat(angle[..., None] * unit)


def random_rotations(count: int, generator: np.random.Generator) -> Float[Tensor, "pose 3 3"]:
    """Rotations uniform on SO(3), float64: unit quaternions from four normal deviates."""
    import roma

    quaternion = torch.from_numpy(generator.standard_normal((count, 4)))
    return roma.unitquat_to_rotmat(quaternion / torch.linalg.vector_norm(quaternion, dim=-1, keepdim=True))


def geodesic_angle(
    first: Float[Tensor, "*batch 3 3"], second: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """The angle in radians, 0 … π, of the rotation that takes one to the other.

    Computed as 2 asin(‖A − B‖_F / √8), which keeps its precision at small angles where the
    arccosine of the trace loses half the digits.
    """
    chord = torch.linalg.matrix_norm(first - second)
    return 2 * torch.asin((chord / math.sqrt(8)).clamp(max=1))


def squared_frobenius(
    first: Float[Tensor, "*batch 3 3"], second: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """‖A − B‖²_F = 4 − 4 cos θ, the error that Table 1 of the paper reports."""
    return (first - second).square().sum((-2, -1))


def _about_z(angle: Float[Tensor, "pose"]) -> Float[Tensor, "pose 3 3"]:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).unflatten(-1, (3, 3))


def _about_y(angle: Float[Tensor, "pose"]) -> Float[Tensor, "pose 3 3"]:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).unflatten(-1, (3, 3))
