"""Neighbours shared by two spaces: identity, independence, what they must not depend on, and loops."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from cryoatlas.analysis.leakage import Imaging
from cryoatlas.analysis.neighbour_score import neighbour_score
from cryoatlas.analysis.neighbourhoods import (
    Space,
    alike,
    imbalance,
    information_imbalance,
    on_circle,
    shared_neighbours,
)
from cryoatlas.analysis.truth import Truth
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle, random_rotations
from cryoatlas.imaging.ctf import CTFParameters

RNG = np.random.default_rng
IMAGES = 400


def cloud(seed: int, images: int = IMAGES, columns: int = 2) -> np.ndarray:
    return RNG(seed).standard_normal((images, columns))


def many_in_a_state(seed: int = 0, states: int = 10, images: int = IMAGES) -> np.ndarray:
    """Equally many images of each state, at 0, 1, 2 …, in random order."""
    return RNG(seed).permutation(np.arange(images) % states)[:, None].astype(float)


@pytest.mark.parametrize("neighbours", [1, 2, 20, IMAGES - 1])
def test_a_space_shares_all_neighbours_with_itself_and_knows_itself_as_well_as_can_be(neighbours):
    """The k nearest have ranks 1 … k: Δ = 2/N (k + 1)/2."""
    space = Space.of(cloud(0))
    assert shared_neighbours(space, space, neighbours).shared == pytest.approx(1, abs=1e-12)
    found = imbalance(space, space, neighbours)
    assert found.imbalance == found.best == pytest.approx((neighbours + 1) / IMAGES)


@pytest.mark.parametrize("neighbours", [2, 20, 100])
def test_spaces_that_know_nothing_of_each_other_agree_by_chance(neighbours):
    found = shared_neighbours(Space.of(cloud(1)), Space.of(cloud(2)), neighbours)
    expected = (
        1 + (neighbours - 1) ** 2 / (IMAGES - 1)
    ) / neighbours  # itself, and (k − 1)/(N − 1) of others
    assert found.chance == pytest.approx(expected)
    # N (k − 1) draws of probability p = (k − 1)/(N − 1), nearly independent: 5 standard errors.
    p = (neighbours - 1) / (IMAGES - 1)
    error = math.sqrt(p * (1 - p) / (IMAGES * (neighbours - 1)))
    assert found.shared == pytest.approx(found.chance, abs=5 * error)
    # Ranks spread evenly over 1 … N − 1 have a deviation of N/√12; Δ is 2/N times the mean of Nk of them.
    delta = information_imbalance(Space.of(cloud(1)), Space.of(cloud(2)), neighbours)
    assert delta == pytest.approx(1, abs=5 * 2 / math.sqrt(12 * IMAGES))


@pytest.mark.parametrize(
    "true", [cloud(3, 5), np.array([[0.0], [0], [1], [1], [2]])], ids=["no ties", "ties"]
)
def test_the_value_of_chance_is_the_mean_over_all_pairings(true):
    """Of five images of z with five of the truth there are 120."""
    z, space = cloud(4, 5), Space.of(true)
    pairings = [Space.of(z[list(order)]) for order in permutations(range(5))]
    shared = [shared_neighbours(each, space, 3) for each in pairings]
    assert shared[0].chance == pytest.approx(np.mean([each.shared for each in shared]), abs=1e-12)
    assert np.mean([information_imbalance(each, space, 2) for each in pairings]) == pytest.approx(
        1, abs=1e-12
    )


@pytest.mark.parametrize("measure", [shared_neighbours, imbalance], ids=["shared", "imbalance"])
def test_isometries_scales_and_the_order_of_images_do_not_matter(measure):
    z = cloud(5, columns=3)
    true = z[:, :2] + 0.5 * cloud(6)
    expected = measure(Space.of(z), Space.of(true), 12)
    turn, _ = np.linalg.qr(cloud(7, 3, 3))
    assert measure(Space.of(-0.03 * z @ turn + [7, -2, 1]), Space.of(1e4 * true), 12) == expected
    order = RNG(8).permutation(IMAGES)
    shuffled = measure(Space.of(z[order]), Space.of(true[order]), 12)
    assert shuffled.__dict__ == pytest.approx(expected.__dict__)


def test_without_ties_both_are_their_definitions_in_loops():
    """CryoBench's hits among the k smallest ranks, the point itself among them; Glielmo's sum over ranks."""
    z, true = cloud(9, 40, 3), cloud(10, 40) + 0.1
    near, far = (np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (z, true))
    hits, ranks = 0, 0.0
    for i in range(40):
        by_z, by_truth = near[i].argsort(), far[i].argsort()
        hits += len(set(by_z[:7]) & set(by_truth[:7]))
        ranks += sum(by_truth.tolist().index(j) for j in by_z[1:5]) / 4
    assert shared_neighbours(Space.of(z), Space.of(true), 7).shared == pytest.approx(hits / (40 * 7))
    assert information_imbalance(Space.of(z), Space.of(true), 4) == pytest.approx(2 / 40**2 * ranks)


def test_ties_count_as_the_mean_over_all_ways_to_break_them():
    """Of z, where chance decides which of many duplicates are nearest, and of ranks in truth."""
    z, true = many_in_a_state(11, 5, 40), many_in_a_state(12, 4, 40)
    generator = RNG(13)

    def broken(columns: np.ndarray) -> Space:
        return Space.of(columns + 1e-4 * generator.uniform(size=columns.shape))

    # All images of a state have the same part in this, so the mean is exact; 400 draws leave
    # a standard error of 0.0008, and of 0.0027 for the ranks.
    shared = [shared_neighbours(broken(z), Space.of(true), 6).shared for _ in range(400)]
    assert shared_neighbours(Space.of(z), Space.of(true), 6).shared == pytest.approx(
        np.mean(shared), abs=0.003
    )
    deltas = [information_imbalance(broken(z), broken(true), 3) for _ in range(400)]
    assert information_imbalance(Space.of(z), Space.of(true), 3) == pytest.approx(np.mean(deltas), abs=0.011)


def test_a_z_that_tells_states_exactly_is_perfect_however_it_orders_the_images_of_one():
    true = many_in_a_state(14)
    z = Space.of(true + 1e-3 * cloud(15, columns=1))
    found = shared_neighbours(z, Space.of(true), 20)
    assert found.shared == 1
    assert found.chance == pytest.approx((1 + 19 * 39 / (IMAGES - 1)) / 20)  # 40 images of each of 10 states
    # Ranks 1 … 39 of the state's other images are shared: 20 each, 2/N of which is 0.1.
    assert imbalance(z, Space.of(true), 5).imbalance == imbalance(z, Space.of(true), 5).best
    assert imbalance(z, Space.of(true), 5).best == pytest.approx(2 / IMAGES * 20)


def test_a_collapsed_z_has_the_value_of_chance():
    collapsed, true = Space.of(np.zeros((IMAGES, 3))), Space.of(cloud(16))
    found = shared_neighbours(collapsed, true, 20)
    assert found.shared == pytest.approx(found.chance)
    assert information_imbalance(collapsed, true, 20) == pytest.approx(1)


def test_imbalance_is_not_symmetric():
    """A space with another column knows the first, but is not known by it."""
    more = cloud(17, columns=2)
    less = Space.of(more[:, :1])
    assert information_imbalance(Space.of(more), less, 1) < 0.15
    assert information_imbalance(less, Space.of(more), 1) > 0.3


def test_a_circle_closes():
    angle = np.radians(np.arange(0, 360, 1.0))
    ranks = Space.of(on_circle(angle)).ranks
    assert ranks[0, 359] == ranks[0, 1] == 1.5
    assert ranks[0, 180] == 359
    arc = np.abs(np.angle(np.exp(1j * (angle[:, None] - angle[None]))))
    np.testing.assert_allclose(np.sort(ranks, 1), np.sort(Space.of(on_circle(angle + 2)).ranks, 1))
    assert np.all(np.diff(arc[7][ranks[7].argsort()]) > -1e-9)  # chords order as arcs


def test_equal_steps_are_equal_in_spite_of_rounding():
    ranks = Space.of(np.linspace(0, 90, 50)[:, None]).ranks
    for i in range(1, 49):
        assert ranks[i, i - 1] == ranks[i, i + 1] == 1.5


def test_quantities_beside_each_other_count_alike():
    angle = RNG(18).uniform(0, 2 * np.pi, IMAGES)
    columns = alike([1e4 + 300 * cloud(19, columns=1), np.full((IMAGES, 1), 7.0), on_circle(angle)])
    assert columns is not None
    assert columns.shape == (IMAGES, 3)  # what does not differ is left out
    np.testing.assert_allclose([(columns[:, :1] ** 2).mean(), (columns[:, 1:] ** 2).sum(1).mean()], 1)
    np.testing.assert_allclose(columns.mean(0), 0, atol=1e-12)
    assert alike([np.ones((5, 2))]) is None


def truth_of(states: np.ndarray, coordinates: dict[str, np.ndarray], pose: Pose | None = None) -> Truth:
    return Truth(states, coordinates, pose, {})


def random_pose(seed: int, images: int = IMAGES) -> Pose:
    generator = RNG(seed)
    return Pose(random_rotations(images, generator), torch.zeros(images, 2, dtype=torch.float64))


def random_ctf(seed: int, images: int = IMAGES, **given: torch.Tensor) -> CTFParameters:
    generator = RNG(seed)
    mean, half = generator.uniform(5e3, 3e4, images), generator.uniform(0, 200, images)
    values = {
        "defocus_u": torch.from_numpy(mean + half),
        "defocus_v": torch.from_numpy(mean - half),
        "defocus_angle": torch.from_numpy(generator.uniform(0, np.pi, images)),
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
    }
    return CTFParameters.build(images, **{**values, **given})


def test_z_that_follows_one_quantity_has_a_small_imbalance_to_that_one_alone():
    angle = RNG(20).uniform(0, 360, IMAGES)
    pose, ctf = random_pose(21), random_ctf(22)
    truth = truth_of(np.arange(IMAGES), {"angle_1_deg": angle}, pose)
    followers = {
        "state": on_circle(np.radians(angle)),
        "orientation": pose.rotation.reshape(IMAGES, 9).numpy(),
        "ctf": (ctf.defocus_u + ctf.defocus_v).numpy()[:, None],
    }
    for name, z in followers.items():
        found = neighbour_score(z, truth, Imaging(ctf=ctf))
        assert found.imbalances.keys() == followers.keys()
        for other, (nearest, thirty) in found.imbalances.items():
            assert (nearest.neighbours, thirty.neighbours) == (1, 30)
            if other == name:
                # The astigmatism that the mean defocus does not tell is a hundredth of the defocus.
                assert nearest.imbalance < nearest.best + 0.02
                assert thirty.imbalance < thirty.best + 0.02
            else:
                assert nearest.imbalance == pytest.approx(1, abs=5 * 2 / math.sqrt(12 * IMAGES))
        share = [each.shared - each.chance for each in found.shared]
        assert all(excess > 0.5 for excess in share) if name == "state" else max(np.abs(share)) < 0.1


def test_neighbours_in_orientation_are_those_of_the_smallest_angle():
    pose = random_pose(23, 50)
    rotation = pose.rotation.expand(50, 50, 3, 3)
    angles = geodesic_angle(rotation, rotation.transpose(0, 1)).numpy()
    space = Space.of(pose.rotation.reshape(50, 9).numpy())
    np.testing.assert_array_equal(space.ranks.argsort(1)[:, 1:6], angles.argsort(1)[:, 1:6])


def test_the_direction_of_astigmatism_is_that_of_an_axis_and_a_phase_shift_counts():
    angle = torch.from_numpy(RNG(24).uniform(0, np.pi, IMAGES))
    z, truth = cloud(25), truth_of(np.arange(IMAGES), {})
    one = random_ctf(26, defocus_angle=angle)
    turned = random_ctf(26, defocus_angle=angle - np.pi)
    shifted = random_ctf(26, defocus_angle=angle, phase_shift=torch.from_numpy(z[:, 0]))
    scores = [neighbour_score(z, truth, Imaging(ctf=ctf)).imbalances["ctf"] for ctf in (one, turned, shifted)]
    assert scores[0] == scores[1]
    assert scores[2][0].imbalance < scores[0][0].imbalance - 0.2


def test_states_without_coordinates_are_equal_or_not_and_asked_for_fewer_than_the_smallest_has():
    """Half of 400 images in one state, the others in five: 1 % and 5 % are less than 40, 20 % more."""
    states = RNG(27).permutation(np.repeat([3, 5, 6, 7, 8, 11], [200, 40, 40, 40, 40, 40]))
    z = RNG(28).permutation(12)[states][:, None] + 0.01 * cloud(29, columns=1)
    found = neighbour_score(z, truth_of(states, {"still_deg": np.zeros(IMAGES)}), Imaging())
    assert [each.neighbours for each in found.shared] == [4, 20]
    assert [each.shared for each in found.shared] == [1, 1]
    assert list(found.imbalances) == ["state"]
    for each in found.imbalances["state"]:
        assert each.imbalance == pytest.approx(each.best)


def test_two_coordinates_make_one_state_and_each_counts():
    first, second = RNG(30).uniform(0, 1, (2, IMAGES))
    truth = truth_of(np.arange(IMAGES), {"distance": 50 * first, "hinge_deg": 3 * second})
    both = neighbour_score(np.stack([first, second], 1), truth, Imaging()).imbalances["state"][0]
    for half in (first, second):
        alone = neighbour_score(half[:, None], truth, Imaging()).imbalances["state"][0]
        # Half of what makes the distance is not known: ranks of a point at the same first coordinate.
        assert both.imbalance < both.best + 0.01 < 0.1 < alone.imbalance < 0.9


def test_at_most_2000_images_are_compared_and_of_a_particle_one():
    images = 4500
    z, truth = cloud(31, images), truth_of(np.arange(images), {"distance": RNG(32).uniform(size=images)})
    found = neighbour_score(z, truth, Imaging())
    assert found.images == 2000
    assert [each.neighbours for each in found.shared] == [20, 100, 400]
    pairs = neighbour_score(z, truth, Imaging(particle=np.arange(images) // 3))
    assert pairs.images == 1500
    assert pairs == neighbour_score(
        z[::3], truth_of(truth.states[::3], {"distance": truth.coordinates["distance"][::3]}), Imaging()
    )


def test_a_single_state_has_no_neighbours_to_share():
    found = neighbour_score(cloud(33), truth_of(np.zeros(IMAGES, dtype=int), {}, random_pose(34)), Imaging())
    assert found.shared == []
    assert list(found.imbalances) == ["orientation"]
