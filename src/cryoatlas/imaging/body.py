"""Bodies with bonds: atoms, some of which turn about an axis, as in the paper's four benchmarks (M11)."""

from dataclasses import dataclass

import torch

from cryoatlas.errors import ConfigError
from cryoatlas.geometry.rotations import about_axis
from cryoatlas.imaging.volume import GaussianBody, gaussian_transform
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


@dataclass(frozen=True)
class MovingBody:
    """A body whose bonds turn by z: a heterogeneous `Volume` with a closed form, the truth in tests."""

    body: Body
    sigma: float
    """Standard deviation of every Gaussian, Å."""
    box_size: int
    pixel_size: float

    @property
    def latent_size(self) -> int:
        """One angle, radians, for each bond."""
        return len(self.body.bonds)

    def hartley_pair(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) = Re F − Im F and H(−k) = Re F + Im F."""
        assert z is not None, "a body that moves needs its bonds' angles"
        distinct, place = z.to(self.body.centres).unique(dim=0, return_inverse=True)
        centres = torch.stack([self.body.turned(angles) for angles in distinct])[place]
        spectrum = gaussian_transform(freqs, centres.to(freqs), self.body.weights.to(freqs), self.sigma)
        spectrum = spectrum / (self.pixel_size**3 * self.box_size)
        return spectrum.real - spectrum.imag, spectrum.real + spectrum.imag

    def hartley(
        self, freqs: Float[Tensor, "#image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> Float[Tensor, "image pixel"]:
        """H(k) = Re F(k) − Im F(k)."""
        return self.hartley_pair(freqs, z)[0]


def radius(centres: Float[Tensor, "atom 3"]) -> float:
    """Distance of the farthest atom from the centre of the box, Å."""
    return float(torch.linalg.vector_norm(centres, dim=-1).max())
