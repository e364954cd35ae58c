r"""The one rigid motion, and hand, that takes a run's frame to the true one.

A reconstruction from images alone is determined up to a rotation, a translation and its hand: turn
the map, turn every pose with it, and no image changes. Errors are therefore reported after *one*
alignment of the whole run (convention C10), found from the poses and applied to poses and maps.

The motion takes a point of the estimated map's frame to the true one, x ↦ A M x + b, where M is the
identity or the mirror z → −z. Projecting along the image's z axis cannot see whether that axis is
reversed, so a map mirrored through z = 0 with poses M R M and the same shifts gives the same images;
A and b then follow from R x + t being one and the same image point, R' = M R M Aᵀ and
t' = t − (R' b)_xy.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import VOLUME_AXES, fourier
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle, squared_frobenius
from cryoatlas.shapes import Array, Float, Tensor

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
CANDIDATES = 64
"""Images whose own relative rotation is tried as the rotation of the whole set."""
JUDGES = 2000
"""At most this many images judge the candidates; all images refine the winner."""
REWEIGHTINGS = 20
"""Steps of the robust refinement; it settles to 1e-6 rad well before."""


@dataclass(frozen=True)
class Alignment:
    """The motion x ↦ A M x + b from an estimated map's frame to the true one."""

    rotation: Float[Tensor, "3 3"]
    """A, a proper rotation."""
    offset: Float[Tensor, "3"]
    """b, Å."""
    mirrored: bool
    """Whether M is the mirror z → −z: the estimated map has the wrong hand."""

    @classmethod
    def identity(cls) -> "Alignment":
        """The alignment of two frames that are one and the same."""
        return cls(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), mirrored=False)

    @property
    def angle(self) -> float:
        """The angle of A, radians."""
        return float(geodesic_angle(self.rotation, torch.eye(3, dtype=torch.float64)))

    @property
    def is_identity(self) -> bool:
        """Within what float32 poses and the six decimals of a star file leave: 1e-5 rad and 1e-3 Å."""
        return not self.mirrored and self.angle < 1e-5 and float(self.offset.abs().max()) < 1e-3

    def apply(self, pose: Pose) -> Pose:
        """The same orientations and shifts, told for the aligned map."""
        rotation = pose.rotation.to(torch.float64)
        if self.mirrored:
            rotation = MIRROR @ rotation @ MIRROR
        return Pose(rotation, pose.shift.to(torch.float64)).of_moved_body(self.rotation, self.offset)


def align_poses(estimated: Pose, true: Pose) -> Alignment:
    """The alignment that brings most estimated poses closest to the true ones.

    Every image of a sample proposes the rotation that would set it right, for both hands, and the
    proposal with the smallest median squared Frobenius distance wins. It is then refined to the
    smallest sum of distances, not of squares, so that wrongly posed images have no pull; offset
    likewise.
    """
    true = true.to(torch.float64)
    choices = []
    for mirrored in (False, True):
        turned = Alignment(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), mirrored)
        rotations = turned.apply(estimated).rotation
        alignment = _best_candidate(rotations, true.rotation)
        alignment = _refine_rotation(alignment, rotations, true.rotation)
        distance = squared_frobenius(rotations @ alignment.T, true.rotation).median()
        choices.append((float(distance), mirrored, alignment))
    _, mirrored, rotation = min(choices, key=lambda choice: choice[:2])
    unmoved = Alignment(rotation, torch.zeros(3, dtype=torch.float64), mirrored)
    return Alignment(rotation, _offset(unmoved.apply(estimated), true.shift), mirrored)


def align_volume(
    volume: Float[Array, "box box box"], alignment: Alignment, pixel_size: float
) -> Float[Array, "box box box"]:
    """Resample a map in the true frame by exact trigonometric interpolation.

    The map's transform is summed at the points where the voxels of the aligned map lie (a
    non-uniform FFT to 1e-7 of its largest value). Points from outside the box are zero, not the
    periodic image of the other side. Under the identity the map comes back untouched.
    """
    if alignment.is_identity:
        return volume
    import finufft

    box = volume.shape[-1]
    points = _source_points(box, alignment, pixel_size)
    spectrum = fourier(torch.from_numpy(np.asarray(volume, dtype=np.float64)), VOLUME_AXES).numpy()
    x, y, z = (np.ascontiguousarray(axis) for axis in (points * (2 * math.pi / box)).T)
    # Modes run over −box//2 … (box−1)//2, which is the order of a centred transform. The real part
    # splits the unpaired Nyquist plane of an even box evenly between ±box/2.
    values = np.real(finufft.nufft3d2(z, y, x, spectrum, isign=1, eps=1e-7)) / box**2
    inside = np.all((points >= -(box // 2) - 0.5) & (points <= (box - 1) // 2 + 0.5), axis=1)
    return np.where(inside, values, 0.0).reshape(box, box, box).astype(volume.dtype)


def _source_points(box: int, alignment: Alignment, pixel_size: float) -> Float[Array, "voxel 3"]:
    """Where each voxel of the aligned map lies in the estimated one: M Aᵀ(x − b), voxels, from the centre."""
    grid = frequency_grid(box, 3).flatten(0, 2)  # integers centred on box // 2: voxel positions too
    points = (grid - alignment.offset / pixel_size) @ alignment.rotation
    return (points @ MIRROR if alignment.mirrored else points).numpy()


def _best_candidate(
    estimated: Float[Tensor, "image 3 3"], true: Float[Tensor, "image 3 3"]
) -> Float[Tensor, "3 3"]:
    """Of the relative rotations R_trueᵀ R_est of single images, the one that suits most images best."""
    sample = evenly_spaced(len(true), CANDIDATES)
    judges = evenly_spaced(len(true), JUDGES)
    candidates = true[sample].mT @ estimated[sample]
    # ‖R_est Aᵀ − R_true‖² = 6 − 2 tr(A R_estᵀ R_true) for every candidate A and every judging image.
    relative = (estimated[judges].mT @ true[judges]).mT
    distance = 6 - 2 * torch.einsum("cij,nij->cn", candidates, relative)
    return candidates[distance.median(dim=1).values.argmin()]


def _refine_rotation(
    rotation: Float[Tensor, "3 3"], estimated: Float[Tensor, "image 3 3"], true: Float[Tensor, "image 3 3"]
) -> Float[Tensor, "3 3"]:
    """Least sum of distances by reweighted special Procrustes problems."""
    import roma

    relative = true.mT @ estimated
    for _ in range(REWEIGHTINGS):
        distance = torch.linalg.matrix_norm(estimated @ rotation.T - true)
        weights = 1 / distance.clamp(min=1e-6)
        rotation = torch.as_tensor(roma.special_procrustes((weights[:, None, None] * relative).sum(0)))
    return rotation


def _offset(estimated: Pose, true_shift: Float[Tensor, "image 2"]) -> Float[Tensor, "3"]:
    """b with the least Σ |t_est − (R b)_xy − t_true|, by reweighted least squares."""
    rows = estimated.rotation[:, :2, :]
    wanted = estimated.shift - true_shift
    weights = torch.ones(len(rows), dtype=torch.float64)
    offset = torch.zeros(3, dtype=torch.float64)
    for _ in range(REWEIGHTINGS):
        weighted = weights[:, None, None] * rows
        # One view leaves the offset along its own axis open; the least-norm solution leaves it at 0.
        normal = torch.einsum("nai,naj->ij", weighted, rows)
        offset = torch.linalg.pinv(normal, hermitian=True) @ torch.einsum("nai,na->i", weighted, wanted)
        weights = 1 / torch.linalg.vector_norm(wanted - rows @ offset, dim=-1).clamp(min=1e-6)
    return offset


def evenly_spaced(count: int, most: int) -> Tensor:
    """min(count, most) different indices spread evenly over 0 … count − 1."""
    chosen = min(count, most)
    return torch.arange(chosen) * count // chosen
