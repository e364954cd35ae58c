"""Low-resolution maps of states, moved as rigid bodies onto one another.

Least squares will not do where a part of the molecule moves: an arm that swings pulls the whole body along.
Residuals are weighted by 1/(r² + ε), in which a voxel that the arm has left or entered counts for next to
nothing: iteratively reweighted least squares for the sum over voxels of log(1 + r²/ε).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import VOLUME_AXES, fourier_from_hartley, inverse_fourier
from cryoatlas.imaging.volume import Volume
from cryoatlas.shapes import Complex, Float, Tensor

SMALL_TURN = 0.25
"""Turn for the numerical derivative, in units of the angle that moves the band's edge by one coefficient."""
DAMPING = 1e-3
"""Of the diagonal of the normal equations."""


@dataclass(frozen=True)
class Ball:
    """Half of the low frequencies of a box, and the small grid that shows them in real space."""

    freqs: Float[Tensor, "half 3"]
    """Å⁻¹, float64; the last is 0."""
    places: Tensor
    """Of the whole ball in the flattened grid, in raster order."""
    side: int
    radius: float
    """Cycles per box."""
    extent: float
    """Side of the box, Å."""
    dtype: torch.dtype
    """Of the numbers that volumes are evaluated in."""

    @classmethod
    def of(cls, volume: Volume, radius: float, like: Tensor) -> "Ball":
        """The frequencies of a volume's box inside a radius, in cycles per box, and at most its Nyquist."""
        radius = min(radius, volume.box_size / 2)
        side = 2 * math.ceil(radius) + 2
        grid = frequency_grid(side, 3).flatten(0, 2)
        places = (grid.square().sum(-1) < radius**2).nonzero().squeeze(-1)
        extent = volume.box_size * volume.pixel_size
        freqs = grid[places[: len(places) // 2 + 1]] / extent
        return cls(freqs.to(like.device), places.to(like.device), side, radius, extent, like.dtype)

    def spectra(
        self,
        volume: Volume,
        z: Float[Tensor, "state latent"] | None,
        rotation: Float[Tensor, "state 3 3"],
        offset: Float[Tensor, "state 3"],
    ) -> Complex[Tensor, "state half"]:
        """The transform of each state's V(z) after the motion x ↦ A x + b: exp(−2πi k·b) V̂(Aᵀk).

        Args:
            rotation: A; one of determinant −1 mirrors.
            offset: b, Å.
        """
        freqs = (self.freqs @ rotation).to(self.dtype)
        spectrum = fourier_from_hartley(*volume.hartley_pair(freqs, z)).to(torch.complex128)
        return spectrum * torch.exp(-2j * math.pi * (offset @ self.freqs.T))

    def maps(self, spectra: Complex[Tensor, "*batch half"]) -> Float[Tensor, "*batch voxel"]:
        """In real space, on the small grid."""
        full = spectra.new_zeros(*spectra.shape[:-1], self.side**3)
        half = self.freqs.shape[0]
        full[..., self.places[:half]] = spectra
        full[..., self.places.flip(0)[:half]] = spectra.conj()
        grid = full.unflatten(-1, (self.side, self.side, self.side))
        return inverse_fourier(grid, VOLUME_AXES).real.flatten(-3)


@dataclass(frozen=True)
class Motion:
    """x ↦ A x + b for each of several bodies."""

    rotation: Float[Tensor, "state 3 3"]
    """A, float64."""
    offset: Float[Tensor, "state 3"]
    """b, Å."""

    @classmethod
    def none(cls, count: int, device: torch.device) -> "Motion":
        """All stay where they are."""
        eye = torch.eye(3, dtype=torch.float64, device=device).repeat(count, 1, 1)
        return cls(eye, torch.zeros(count, 3, dtype=torch.float64, device=device))

    @classmethod
    def joined(cls, motions: "Sequence[Motion]") -> "Motion":
        """Those of all, one after the other."""
        return cls(
            torch.cat([each.rotation for each in motions]), torch.cat([each.offset for each in motions])
        )

    def each(self) -> list["Motion"]:
        """Those of all, one by one."""
        pairs = zip(self.rotation.split(1), self.offset.split(1), strict=True)
        return [Motion(rotation, offset) for rotation, offset in pairs]

    def then(self, later: "Motion") -> "Motion":
        """This one, and another after it."""
        return Motion(
            later.rotation @ self.rotation,
            (later.rotation @ self.offset[..., None]).squeeze(-1) + later.offset,
        )

    def back(self) -> "Motion":
        """The motion that undoes this one; A is orthogonal."""
        inverse = self.rotation.mT
        return Motion(inverse, -(inverse @ self.offset[..., None]).squeeze(-1))


def step_towards(
    ball: Ball,
    volume: Volume,
    z: Float[Tensor, "state latent"] | None,
    motion: Motion,
    target: Float[Tensor, "#state voxel"],
    epsilon: float,
) -> Motion:
    """One weighted Gauss–Newton step of each state's map towards a map.

    Args:
        motion: of each state so far.
        target: one map for all states, or one for each.
        epsilon: ε, as a part of the squared maximum of the target.

    Returns:
        What is to come after `motion`.
    """
    import roma

    spectra = ball.spectra(volume, z, motion.rotation, motion.offset)
    residual = target - ball.maps(spectra)
    weight = 1 / (residual.square() + epsilon * target.square().amax(-1, keepdim=True))
    columns = [ball.maps(column) for column in _derivatives(ball, volume, z, motion, spectra)]
    jacobian = torch.stack(columns, 1)
    weighted = jacobian * weight[:, None]
    normal = weighted @ jacobian.mT
    gradient = (weighted @ residual[..., None]).squeeze(-1)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    # A direction in which nothing changes, as a turn of a ball, gets no step and not a division by 0.
    floor = 1e-12 * diagonal.amax(1, keepdim=True) + 1e-300
    step = torch.linalg.solve(normal + torch.diag_embed(DAMPING * diagonal + floor), gradient)
    return Motion(torch.as_tensor(roma.rotvec_to_rotmat(step[:, :3])), step[:, 3:])


def disagreement(
    ball: Ball,
    volume: Volume,
    z: Float[Tensor, "state latent"] | None,
    motion: Motion,
    target: Float[Tensor, "#state voxel"],
    epsilon: float,
) -> Float[Tensor, "state"]:
    """What the steps make small: the mean over voxels of log(1 + r²/ε)."""
    residual = target - ball.maps(ball.spectra(volume, z, motion.rotation, motion.offset))
    return torch.log1p(residual.square() / (epsilon * target.square().amax(-1, keepdim=True))).mean(-1)


def _derivatives(
    ball: Ball,
    volume: Volume,
    z: Float[Tensor, "state latent"] | None,
    motion: Motion,
    spectra: Complex[Tensor, "state half"],
) -> list[Complex[Tensor, "state half"]]:
    """By a further turn about x, y, z (numerical) and a further move along them (a factor)."""
    import roma

    small = SMALL_TURN / ball.radius
    columns = []
    for axis in torch.eye(3, dtype=torch.float64, device=spectra.device):
        either = [roma.rotvec_to_rotmat(sign * small * axis) for sign in (1, -1)]
        ahead, behind = (
            ball.spectra(volume, z, turn @ motion.rotation, motion.offset @ turn.mT) for turn in either
        )
        columns.append((ahead - behind) / (2 * small))
    return columns + [-2j * math.pi * k * spectra for k in ball.freqs.T]
