"""Bodies with bonds: atoms, some of which turn about an axis, as in the paper's four benchmarks (M11)."""

from dataclasses import dataclass

import torch

from cryoatlas.errors import ConfigError
from cryoatlas.geometry.rotations import about_axis
from cryoatlas.imaging.volume import GaussianBody
from cryoatlas.shapes import Bool, Float, Tensor


@dataclass(frozen=True)
class Bond:
    """An axis about which a group of atoms turns as one."""

    hinge: Float[Tensor, "3"]
    """A point on the axis: x, y, z, Å, in the body's frame."""
    axis: Float[Tensor, "3"]
    """Its direction; positive angles turn by the right-hand rule."""
    moves: Bool[Tensor, "atom"]
    """Which atoms turn."""

    def turn(self, centres: Float[Tensor, "atom 3"], angle: Float[Tensor, ""]) -> Float[Tensor, "atom 3"]:
        """The atoms after turning this bond by `angle` radians."""
        turned = (centres - self.hinge) @ about_axis(self.axis, angle).mT + self.hinge
        return torch.where(self.moves[:, None], turned, centres)


@dataclass(frozen=True)
class Body:
    """Atoms in a frame whose origin is the centre of the box, and the bonds that turn groups of them.

    Raises:
        ConfigError: two bonds move groups of which neither contains the other, but which share atoms:
            turning one would then tear the other apart.
    """

    centres: Float[Tensor, "atom 3"]
    """Positions x, y, z, Å, with every bond at angle 0."""
    weights: Float[Tensor, "atom"]
    """Number of electrons."""
    bonds: tuple[Bond, ...] = ()

    def __post_init__(self) -> None:
        for i, first in enumerate(self.bonds):
            for j, second in enumerate(self.bonds[:i]):
                shared = (first.moves & second.moves).sum()
                if 0 < shared < min(first.moves.sum(), second.moves.sum()):
                    raise ConfigError(
                        f"moving groups {j + 1} and {i + 1} share {int(shared)} atoms, but neither lies "
                        "inside the other: choose groups that are disjoint or nested."
                    )

    def __len__(self) -> int:
        return len(self.centres)

    def turned(self, angles: Float[Tensor, "bond"]) -> Float[Tensor, "atom 3"]:
        """Positions with the bonds at the given angles, radians.

        Where one group lies inside another, the inner bond is turned first and carried along by the
        outer one, as the joints of a limb are.
        """
        centres = self.centres
        inner_first = sorted(zip(self.bonds, angles, strict=True), key=lambda pair: int(pair[0].moves.sum()))
        for bond, angle in inner_first:
            centres = bond.turn(centres, angle)
        return centres

    def gaussians(
        self, angles: Float[Tensor, "bond"], sigma: float, box_size: int, pixel_size: float
    ) -> GaussianBody:
        """The body at the given angles (radians) as a `Volume` of equal Gaussians of width `sigma`, Å."""
        return GaussianBody(self.turned(angles), self.weights, sigma, box_size, pixel_size)


def radius(centres: Float[Tensor, "atom 3"]) -> float:
    """Distance of the farthest atom from the centre of the box, Å."""
    return float(torch.linalg.vector_norm(centres, dim=-1).max())
