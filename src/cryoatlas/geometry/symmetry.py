"""Point groups: the rotations that leave a molecule as it is, and what a search need not look at twice.

The axes are those of RELION: the n-fold axis of Cn and Dn along z, with a twofold axis of Dn along x; a
threefold axis of T and a fourfold axis of O along z; twofold axes of I1 and I2 along x, y and z, with a
fivefold axis in the xz plane 31.7° from x in I1, and as far from z in I2. I is I2.
"""

import math
import re

import torch

from cryoatlas.errors import ConfigError
from cryoatlas.shapes import Bool, Float, Tensor

NO_SYMMETRY = "C1"
GROUPS = re.compile(r"[CD][1-9][0-9]*|T|O|I[12]?")
SAME = 1e-6
"""Traces that differ by less are equal: both rotations are kept."""


def point_group(name: str) -> Float[Tensor, "element 3 3"]:
    """The rotations g of a point group, float64; the first is the identity.

    A molecule of this symmetry has V(g x) = V(x), and shows at the poses (R, t) and (R g, t) the same image.

    Args:
        name: C1, C2, …, D2, …, T, O, I, I1 or I2.

    Raises:
        ConfigError: there is no such group.
    """
    from scipy.spatial.transform import Rotation

    plain = name.strip().upper()
    if not GROUPS.fullmatch(plain):
        raise ConfigError(
            f"there is no point group {name!r}: give C1 for none, or C2, C3, …, D2, D3, …, T, O, I1 or I2."
        )
    elements = torch.from_numpy(Rotation.create_group(plain[0] if plain[0] == "I" else plain).as_matrix())
    turn = _from_scipy(plain)
    elements = turn @ elements @ turn.mT
    return elements[_angle_order(elements)]


def asymmetric_unit(
    rotation: Float[Tensor, "rotation 3 3"], group: Float[Tensor, "element 3 3"]
) -> Bool[Tensor, "rotation"]:
    """Which rotations R are nearest to the identity among all R g: one of each set that shows the same.

    On the boundary, where several are equally near, all are kept.
    """
    traces = torch.einsum("rij,gji->rg", rotation.double(), group.to(rotation.device, torch.float64))
    return traces[:, 0] >= traces.amax(1) - SAME


def _from_scipy(name: str) -> Float[Tensor, "3 3"]:
    """The rotation that takes SciPy's axes of a group to RELION's."""
    if name in {"I", "I2"}:  # SciPy's are those of I1
        return torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]).double()
    if name == "T":  # SciPy has (1, 1, 1) threefold and z twofold; here these are z and (0, √2, 1)/√3
        threefold = torch.ones(3).double() / math.sqrt(3)
        twofold = torch.tensor([0.0, 0.0, 1.0]).double()
        return _frame(
            torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([0.0, math.sqrt(2), 1.0]).double()
        ) @ (_frame(threefold, twofold).mT)
    return torch.eye(3).double()


def _frame(first: Float[Tensor, "3"], second: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Right-handed axes in columns: the first vector, the second's part at right angles to it, the third."""
    rest = torch.nn.functional.normalize(second - (second @ first) * first, dim=0)
    return torch.stack([first, rest, torch.linalg.cross(first, rest)], 1)


def _angle_order(elements: Float[Tensor, "element 3 3"]) -> Tensor:
    """From the identity, whose trace is the largest, on."""
    return torch.argsort(elements.diagonal(dim1=1, dim2=2).sum(1), descending=True, stable=True)
