"""Bodies with bonds, and the built-in one."""

import math
from itertools import product

import pytest
import torch

from cryoatlas.errors import ConfigError
from cryoatlas.imaging.body import Body, Bond, radius
from cryoatlas.imaging.default_body import default_body

Z = torch.tensor([0, 0, 1], dtype=torch.float64)
ORIGIN = torch.zeros(3, dtype=torch.float64)


@pytest.fixture(scope="module")
def built_in():
    return default_body()


def line_of_atoms(*bonds: Bond) -> Body:
    """Atoms at x = 0, 1, 2, 3."""
    centres = torch.zeros(4, 3, dtype=torch.float64)
    centres[:, 0] = torch.arange(4)
    return Body(centres, torch.ones(4, dtype=torch.float64), bonds)


def about_z(hinge_x: float, *moves: bool) -> Bond:
    return Bond(torch.tensor([hinge_x, 0, 0], dtype=torch.float64), Z, torch.tensor(moves))


def test_a_bond_turns_its_atoms_by_the_right_hand_rule_and_no_others():
    body = line_of_atoms(about_z(1.0, False, False, True, True))
    turned = body.turned(torch.tensor([math.pi / 2], dtype=torch.float64))
    expected = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0]], dtype=torch.float64)
    torch.testing.assert_close(turned, expected, atol=1e-15, rtol=0)


def test_the_inner_of_two_nested_bonds_is_carried_by_the_outer_in_either_order():
    elbow, wrist = about_z(1.0, False, False, True, True), about_z(2.0, False, False, False, True)
    right_angle = torch.tensor([math.pi / 2, math.pi / 2], dtype=torch.float64)
    # Elbow bent: atoms 2, 3 along +y from x = 1. Wrist bent in the elbow's frame: atom 3 then along −x.
    expected = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=torch.float64)
    for bonds in ((elbow, wrist), (wrist, elbow)):
        turned = line_of_atoms(*bonds).turned(right_angle)
        torch.testing.assert_close(turned, expected, atol=1e-15, rtol=0)


def test_groups_that_share_atoms_without_nesting_are_refused():
    with pytest.raises(ConfigError, match="groups 1 and 2 share 1 atoms"):
        line_of_atoms(about_z(1.0, False, True, True, False), about_z(2.0, False, False, True, True))


def test_the_built_in_body_is_always_the_same(built_in):
    # Golden: benchmarks refer to this molecule, so a change of it must be noticed.
    assert len(built_in) == 1000
    assert radius(built_in.centres) == pytest.approx(60.916, abs=0.001)
    assert built_in.centres.abs().sum().item() == pytest.approx(44594.03, abs=0.01)


def test_the_built_in_body_is_centred_and_its_arms_hold_a_fifth_of_the_mass_each(built_in):
    torch.testing.assert_close(built_in.weights @ built_in.centres, ORIGIN, atol=1e-8, rtol=0)
    shares = [bond.moves.double().mean().item() for bond in built_in.bonds]
    assert shares == [0.23, 0.18]


def test_the_built_in_body_turns_freely_within_its_box(built_in):
    circle = torch.arange(0, 2 * math.pi, math.pi / 6, dtype=torch.float64)
    arms = [bond.moves for bond in built_in.bonds]
    parts = [*arms, ~(arms[0] | arms[1])]
    for angles in product(circle, circle):
        centres = built_in.turned(torch.stack(angles))
        assert radius(centres) < 0.4 * 192
        for first, second in ((0, 1), (0, 2), (1, 2)):
            # The closest approach within a chain is 3.8 Å.
            assert torch.cdist(centres[parts[first]], centres[parts[second]]).min() > 3.8


def overlap(first, second) -> float:
    """Correlation of two clouds of equal points blurred with σ = 8 Å (features of about 30 Å)."""

    def product_of(a, b):
        return torch.exp(-torch.cdist(a, b).square() / (4 * 8.0**2)).sum()

    return (product_of(first, second) / (product_of(first, first) * product_of(second, second)).sqrt()).item()


@pytest.mark.parametrize("flips", [(1, -1, -1), (-1, 1, -1), (-1, -1, 1)])
def test_the_built_in_body_has_no_twofold_axis(built_in, flips):
    principal = built_in.centres @ torch.linalg.svd(built_in.centres, full_matrices=False).Vh.T
    assert overlap(principal, principal) == pytest.approx(1)
    assert overlap(principal, principal * torch.tensor(flips)) < 0.9


@pytest.mark.parametrize("flips", [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)])
def test_the_built_in_body_has_a_hand_at_low_resolution(built_in, flips):
    # Its principal lengths differ by 20 % and more, so that a mirror image could only match in these poses.
    lengths = torch.linalg.svdvals(built_in.centres)
    assert (lengths[:-1] / lengths[1:]).min() > 1.1
    principal = built_in.centres @ torch.linalg.svd(built_in.centres, full_matrices=False).Vh.T
    assert overlap(principal, principal * torch.tensor(flips)) < 0.95
