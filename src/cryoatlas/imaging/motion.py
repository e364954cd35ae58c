"""Bodies made of atomic models: which atoms move, and about which axis."""

import torch

from cryoatlas.errors import ConfigError
from cryoatlas.imaging.body import Body, Bond
from cryoatlas.io.atoms import AtomModel
from cryoatlas.shapes import Bool, Float, Tensor

COLLINEAR = 1e-3
"""Sine of the angle below which three points do not span a plane."""


def body_of_atoms(
    model: AtomModel,
    rotate: tuple[str, ...] = (),
    hinges: tuple[str, ...] = (),
    axes: tuple[tuple[float, float, float], ...] = (),
) -> Body:
    """A body of all atoms of a model, its centre of mass at the origin.

    Weights are the atoms' electrons, which also stand in for their masses.

    Args:
        rotate: one selection of atoms (see `cryoatlas.io.atoms`) for each bond.
        hinges: a selection for each bond, whose mean position the axis goes through. If empty: the
            residue just before each moving range, else the point where the group touches the rest.
        axes: direction of each axis, x, y, z in the model's frame. If empty: as `hinged_bond`.

    Raises:
        ConfigError: a selection names no atom or all of them, or no axis follows.
    """
    weights = torch.from_numpy(model.atomic_numbers).double()
    positions = torch.from_numpy(model.positions)
    centres = positions - (weights @ positions) / weights.sum()
    bonds = []
    for i, selection in enumerate(rotate):
        moves = torch.from_numpy(model.select(selection))
        if moves.all():
            raise ConfigError(
                f"the moving group {selection!r} is the whole of {model.path}: nothing is left for it to "
                "turn against. Select a part."
            )
        holding = model.select(hinges[i]) if hinges else model.residue_before(selection)
        held_at = torch.from_numpy(holding) & (~moves if not hinges else True)
        hinge = centres[held_at].mean(0) if held_at.any() else contact(centres, moves)
        axis = torch.tensor(axes[i], dtype=torch.float64) if axes else None
        bonds.append(hinged_bond(centres, moves, hinge, axis))
    return Body(centres, weights, tuple(bonds))


def hinged_bond(
    centres: Float[Tensor, "atom 3"],
    moves: Bool[Tensor, "atom"],
    hinge: Float[Tensor, "3"],
    axis: Float[Tensor, "3"] | None = None,
) -> Bond:
    """A bond through a hinge.

    Args:
        axis: its direction. If None, perpendicular to the plane through the hinge, the middle of the
            moving atoms and the middle of the rest, such that positive angles swing the group away
            from the rest.

    Raises:
        ConfigError: those three points lie on a line, or `axis` has no length.
    """
    if axis is not None:
        if not axis.norm() > 0:
            raise ConfigError("the axis of a bond has no length: give its direction as x,y,z, such as 0,0,1.")
        return Bond(hinge, axis / axis.norm(), moves)
    to_rest = centres[~moves].mean(0) - hinge
    to_group = centres[moves].mean(0) - hinge
    normal = torch.linalg.cross(to_rest, to_group)
    if normal.norm() <= COLLINEAR * to_rest.norm() * to_group.norm():
        raise ConfigError(
            "hinge, moving group and the rest of the model lie on a line, so that no axis follows from "
            "them: give --axis x,y,z."
        )
    return Bond(hinge, normal / normal.norm(), moves)


def contact(centres: Float[Tensor, "atom 3"], moves: Bool[Tensor, "atom"]) -> Float[Tensor, "3"]:
    """Midway between the moving atom and the resting atom that are closest to each other."""
    from scipy.spatial import KDTree

    group, rest = centres[moves], centres[~moves]
    distances, nearest = map(torch.as_tensor, KDTree(rest.numpy()).query(group.numpy()))
    closest = distances.argmin()
    return (group[closest] + rest[nearest[closest]]) / 2
