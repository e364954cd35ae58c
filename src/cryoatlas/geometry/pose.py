"""Poses φ = (R, t): the orientation and in-plane shift of every particle."""

from dataclasses import dataclass

import torch

from cryoatlas.geometry import rotations
from cryoatlas.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Pose:
    """Poses of a set of images.

    Conventions C3 and C4: R takes volume coordinates to image coordinates; the particle's centre
    sits at +t from the image centre, in Å. RELION's rlnOriginXAngst is what would centre the
    particle, −t.
    """

    rotation: Float[Tensor, "pose 3 3"]
    shift: Float[Tensor, "pose 2"]

    def __post_init__(self) -> None:
        if self.rotation.shape[-2:] != (3, 3) or self.shift.shape[-1] != 2:
            raise ValueError(
                f"expected rotations (…, 3, 3) and shifts (…, 2), got "
                f"{tuple(self.rotation.shape)} and {tuple(self.shift.shape)}"
            )

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, index: Int[Tensor, "some"] | slice) -> "Pose":
        return Pose(self.rotation[index], self.shift[index])

    def of_views(self, tilts: Float[Tensor, "view 3 3"] | None) -> "Pose":
        """Poses of the images of particles that are each seen several times, from the particles' own (C18).

        Args:
            tilts: T of each view: a particle of pose (R, t) is seen at (T R, t). None for single images.

        Returns:
            One pose for each image, the views of a particle in a row.
        """
        if tilts is None:
            return self
        rotation = tilts.to(self.rotation) @ self.rotation[:, None]
        return Pose(rotation.flatten(0, 1), self.shift.repeat_interleave(len(tilts), 0))

    def to(self, *args: object, **kwargs: object) -> "Pose":
        """Move or convert both tensors, as `Tensor.to`."""
        return Pose(self.rotation.to(*args, **kwargs), self.shift.to(*args, **kwargs))  # type: ignore[arg-type]

    def of_moved_body(
        self, rotation: Float[Tensor, "*batch 3 3"], offset: Float[Tensor, "*batch 3"]
    ) -> "Pose":
        """Poses that show a body, after it moved by x ↦ A x + b, as these showed it before (C10).

        R' = R Aᵀ and t' = t − (R' b)_xy, so that R' (A x + b) + t' is R x + t in the image plane. If A
        mirrors, R' = diag(1, 1, −1) R Aᵀ, a rotation again: a projection does not tell near from far.

        Args:
            rotation: A, one for all poses or one for each; its determinant is 1 or −1.
            offset: b, Å, likewise.
        """
        turned = self.rotation @ rotation.mT
        depth = torch.linalg.det(rotation).sign()[..., None, None]
        turned = torch.cat([turned[..., :2, :], depth * turned[..., 2:, :]], -2)
        return Pose(turned, self.shift - (turned @ offset[..., None])[..., :2, 0])

    @classmethod
    def from_relion(cls, angles_deg: Float[Tensor, "pose 3"], origin: Float[Tensor, "pose 2"]) -> "Pose":
        """From RELION's rot, tilt, psi (degrees) and rlnOriginX/YAngst (Å)."""
        return cls(rotations.from_relion_angles(angles_deg), -origin)

    def to_relion(self) -> tuple[Float[Tensor, "pose 3"], Float[Tensor, "pose 2"]]:
        """RELION's rot, tilt, psi (degrees) and rlnOriginX/YAngst (Å)."""
        return rotations.to_relion_angles(self.rotation), -self.shift
