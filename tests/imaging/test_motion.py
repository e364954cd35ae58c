"""From an atomic model to a body: centre, moving groups, hinges and axes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError
from cryoatlas.imaging.motion import body_of_atoms, contact, hinged_bond
from cryoatlas.io.atoms import AtomModel


@pytest.fixture
def model():
    """Chain A along x (residues 1 to 6), chain B beside residue 6, off to +y."""
    positions = np.array([[i, 0, 0] for i in range(6)] + [[5, 2, 0], [5, 3, 0], [5, 4, 1]], dtype=float)
    return AtomModel(
        path=Path("model.pdb"),
        positions=positions,
        atomic_numbers=np.array([6] * 8 + [12]),
        chains=np.array(["A"] * 6 + ["B"] * 3),
        residues=np.array([1, 2, 3, 4, 5, 6, 1, 2, 3]),
    )


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_body_is_centred_on_its_centre_of_mass(model):
    body = body_of_atoms(model)
    torch.testing.assert_close(body.weights @ body.centres, vector(0, 0, 0), atol=1e-12, rtol=0)
    assert body.weights.tolist() == [6.0] * 8 + [12.0]
    offset = torch.from_numpy(model.positions) - body.centres
    torch.testing.assert_close(offset, offset[:1].expand_as(offset))


def test_a_range_hangs_on_the_residue_before_it(model):
    body = body_of_atoms(model, ("A:4-6+B",))
    (bond,) = body.bonds
    assert bond.moves.tolist() == [False] * 3 + [True] * 6
    torch.testing.assert_close(bond.hinge, body.centres[2])


def test_a_chain_hangs_where_it_touches_the_rest(model):
    body = body_of_atoms(model, ("B",))
    torch.testing.assert_close(body.bonds[0].hinge, (body.centres[5] + body.centres[6]) / 2)


def test_hinge_and_axis_can_be_given(model):
    body = body_of_atoms(model, ("B", "A:1-2"), ("A:6", "A:3"), ((0.0, 0.0, -2.0), (0.0, 1.0, 0.0)))
    torch.testing.assert_close(body.bonds[0].hinge, body.centres[5])
    torch.testing.assert_close(body.bonds[0].axis, vector(0, 0, -1))
    torch.testing.assert_close(body.bonds[1].hinge, body.centres[2])
    torch.testing.assert_close(body.bonds[1].axis, vector(0, 1, 0))


def test_positive_angles_swing_the_group_away_from_the_rest(model):
    body = body_of_atoms(model, ("B",))
    moves = body.bonds[0].moves

    def distance(angle: float) -> float:
        centres = body.turned(vector(angle))
        return (centres[moves].mean(0) - centres[~moves].mean(0)).norm().item()

    assert distance(-0.3) < distance(0.0) < distance(0.3)


def test_the_axis_is_perpendicular_to_hinge_group_and_rest(model):
    body = body_of_atoms(model, ("B",))
    bond = body.bonds[0]
    for part in (bond.moves, ~bond.moves):
        assert abs(bond.axis @ (body.centres[part].mean(0) - bond.hinge)) < 1e-12
    assert bond.axis.norm().item() == pytest.approx(1)


def test_contact_is_midway_between_the_closest_atoms():
    centres = torch.tensor([[0, 0, 0], [1, 0, 0], [3, 0, 0], [9, 0, 0]], dtype=torch.float64)
    moves = torch.tensor([False, False, True, True])
    torch.testing.assert_close(contact(centres, moves), vector(2, 0, 0))


def test_three_points_on_a_line_need_an_axis():
    centres = torch.tensor([[0, 0, 0], [1, 0, 0], [3, 0, 0]], dtype=torch.float64)
    moves = torch.tensor([False, False, True])
    with pytest.raises(ConfigError, match="--axis x,y,z"):
        hinged_bond(centres, moves, vector(2, 0, 0))
    with pytest.raises(ConfigError, match="no length"):
        hinged_bond(centres, moves, vector(2, 0, 0), vector(0, 0, 0))


def test_turning_everything_is_refused(model):
    with pytest.raises(ConfigError, match="whole of"):
        body_of_atoms(model, ("A+B",))
