"""States by kernel regression: the kernel's laws, and what its averages are."""

import pytest
import torch
from tests.poses.small_world import BOX, PIXEL, contrast, make_view, random_poses, swinging_body

from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.volume import voxels
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.poses.view import View
from cryoatlas.subspace.expectation import Known, accumulate_known
from cryoatlas.subspace.known_poses import HalfSets
from cryoatlas.subspace.maximization import NormalEquations
from cryoatlas.subspace.model import Subspace
from cryoatlas.subspace.states import StateSums, held_out_errors, kernel_weights, moving_mask, regridded

COUNT, BAND = 90, 11.0
HALF = torch.arange(COUNT) % 2
ANGLE = torch.linspace(-0.8, 0.8, COUNT)
EXACT = torch.zeros(COUNT, 1, 1)
EMPTY = HalfSets.both(Subspace(torch.zeros(1, BOX, BOX, BOX), PIXEL))


@pytest.fixture(scope="module")
def seen() -> tuple[View, Pose]:
    """Images of the swinging body with CTF, their angle growing with their number."""
    pose = random_poses(COUNT, 8).to("cpu", torch.float32)
    return make_view(swinging_body(), pose, sigma=0.15, ctf=contrast(COUNT, 3), z=ANGLE[:, None]), pose


def summed(seen: tuple[View, Pose], weights: torch.Tensor, maps: HalfSets = EMPTY) -> StateSums:
    view, pose = seen
    sums = StateSums(maps, len(weights), BAND)
    latent = torch.zeros(COUNT, maps.whole.components)
    if maps.whole.components:
        latent = ANGLE[:, None]
    sums.add([view], pose, HALF, latent, weights)
    return sums


def test_a_kernel_is_one_at_an_exact_place_and_zero_beyond_its_reach():
    z = torch.tensor([[0.0], [0.5], [1.2], [4.0]])
    weights = kernel_weights(torch.zeros(1, 1), z, torch.zeros(4, 1, 1), 0.5)[0]
    # A parabola of standard deviation h reaches √5 h in one dimension.
    torch.testing.assert_close(weights, torch.tensor([1.0, 1 - 1 / 5, 0.0, 0.0]).where(z[:, 0] != 1.2, 0.0))
    assert float(kernel_weights(torch.zeros(1, 1), torch.tensor([[1.11]]), torch.zeros(1, 1, 1), 0.5)) > 0


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_a_kernel_s_standard_deviation_is_its_bandwidth(latent):
    h = 0.7
    spots = torch.rand(400_000, latent, generator=torch.Generator().manual_seed(0)) * 5 - 2.5
    weights = kernel_weights(
        torch.zeros(1, latent), spots, torch.zeros(1, latent, latent).expand(len(spots), -1, -1), h
    )[0]
    variance = (weights[:, None] * spots.square()).sum(0) / weights.sum()
    torch.testing.assert_close(variance.sqrt(), torch.full((latent,), h), rtol=0.02, atol=0)


def test_an_image_whose_place_is_uncertain_counts_for_less_nearby_and_for_more_afar():
    places = torch.tensor([[0.0], [0.0], [2.0], [2.0]])
    covariance = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None]
    near, near_unsure, far, far_unsure = kernel_weights(torch.zeros(1, 1), places, covariance, 0.5)[0]
    assert near > near_unsure > far_unsure > far == 0


def test_kernels_turn_with_the_space():
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(50, 2, generator=generator)
    spread = torch.randn(50, 2, 2, generator=generator)
    covariance = 0.1 * spread @ spread.mT
    turn = torch.linalg.qr(torch.randn(2, 2, generator=generator))[0]
    target = torch.tensor([[0.3, -0.2]])
    weights = kernel_weights(target, z, covariance, 0.6)
    turned = kernel_weights(target @ turn.T, z @ turn.T, turn @ covariance @ turn.T, 0.6)
    torch.testing.assert_close(turned, weights, rtol=1e-4, atol=1e-5)


def test_an_infinitely_wide_kernel_gives_the_map_of_all_images(seen):
    view, pose = seen
    weights = kernel_weights(torch.tensor([[0.4]]), ANGLE[:, None], EXACT, float("inf"))
    sums = summed(seen, weights)
    both = [NormalEquations(BOX, PIXEL, 0) for _ in range(2)]
    for number, equations in enumerate(both):
        mine = (number == HALF).nonzero().squeeze(-1)
        nothing = Known(torch.zeros(45, 0), torch.zeros(45, 0, 0), torch.zeros(45))
        accumulate_known(equations, [view[mine]], pose[mine], nothing, BAND)
        torch.testing.assert_close(sums.residual(0).raw[number], equations.mean_alone())
    assert sums.images(0) == pytest.approx(COUNT)


def test_a_wide_kernel_comes_near_an_infinite_one():
    places = ANGLE[:, None]
    wide = kernel_weights(torch.tensor([[0.4]]), places, EXACT, 1e3)
    torch.testing.assert_close(wide, torch.ones(1, COUNT), rtol=1e-4, atol=0)


def test_many_states_in_one_pass_are_those_made_one_at_a_time(seen):
    targets = torch.tensor([[-0.6], [0.0], [0.7]])
    weights = kernel_weights(targets, ANGLE[:, None], EXACT, 0.2)
    together = summed(seen, weights)
    for number in range(3):
        alone = summed(seen, weights[number : number + 1])
        torch.testing.assert_close(together.residual(number).whole, alone.residual(0).whole)
        assert together.images(number) == pytest.approx(alone.images(0))


def test_batches_add_up(seen):
    view, pose = seen
    weights = kernel_weights(torch.tensor([[0.1]]), ANGLE[:, None], EXACT, 0.4)
    whole, parts = summed(seen, weights), StateSums(EMPTY, 1, BAND)
    for some in torch.arange(COUNT).split(31):
        parts.add([view[some]], pose[some], HALF[some], torch.zeros(len(some), 0), weights[:, some])
    expected = whole.residual(0).whole
    torch.testing.assert_close(
        parts.residual(0).whole, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


def test_half_maps_share_no_image(seen):
    """Without the images of one half its sums are empty, and the other half's stay what they were."""
    view, pose = seen
    weights = kernel_weights(torch.tensor([[0.1]]), ANGLE[:, None], EXACT, 0.4)
    whole, one = summed(seen, weights), StateSums(EMPTY, 1, BAND)
    mine = (HALF == 0).nonzero().squeeze(-1)
    one.add([view[mine]], pose[mine], HALF[mine], torch.zeros(45, 0), weights[:, mine])
    torch.testing.assert_close(one.residual(0).raw[0], whole.residual(0).raw[0])
    assert float(one.residual(0).raw[1].abs().max()) == 0


def test_a_perfect_linear_model_leaves_noise_alone(seen):
    """Half maps of residuals do not agree where the model explains its images; those of the images do."""
    _, pose = seen
    first, second = (voxels(swinging_body(), torch.tensor([angle])) for angle in (-0.1, 0.1))
    maps = HalfSets.both(Subspace(torch.stack([(first + second) / 2, (second - first) / 0.2]), PIXEL))
    latent = torch.zeros(COUNT, 1)
    clean = make_view(swinging_body(), pose, sigma=0.02, ctf=contrast(COUNT, 3), z=torch.zeros(COUNT, 1))
    sums = StateSums(maps, 1, BAND)
    sums.add([clean], pose, HALF, latent, torch.ones(1, COUNT))
    found = sums.residual(0)
    assert float(found.whole.norm()) < 0.05 * float(maps.whole.maps[0].norm())


def test_a_narrow_kernel_departs_from_the_average_as_the_state_does(seen):
    widths = (0.25, float("inf"))
    weights = [kernel_weights(torch.tensor([[0.7]]), ANGLE[:, None], EXACT, width) for width in widths]
    sums = summed(seen, torch.cat(weights))
    found = sums.residual(0).whole - sums.residual(1).whole
    state, middle = (voxels(swinging_body(), torch.tensor([angle])) for angle in (0.7, 0.0))
    alike = torch.corrcoef(torch.stack([found.flatten(), (state - middle).flatten()]))[0, 1]
    # Averages of a fifth of 90 images are noisy; two of images in no order would correlate as 0 does.
    assert float(alike) > 0.15


def test_held_out_errors_prefer_a_kernel_to_none_where_states_differ(seen):
    targets = torch.tensor([[-0.7], [0.7]])
    ladder = (0.15, 0.3, 50.0)
    weights = torch.stack([kernel_weights(targets, ANGLE[:, None], EXACT, h) for h in ladder], 1)
    mean = voxels(swinging_body(), torch.tensor([0.0]))[None]
    sums = summed(seen, weights.flatten(0, 1), HalfSets.both(Subspace(mean, PIXEL)))
    errors = held_out_errors(sums, len(ladder))
    assert errors.shape == (3,)
    assert float(errors.min()) < 1
    assert float(errors[:2].min()) < float(errors[2])


def test_what_moves_is_not_masked_and_what_is_far_from_it_is():
    maps = torch.zeros(2, BOX, BOX, BOX)
    maps[1, 12, 12, 6] = 1.0
    mask = moving_mask(Subspace(maps, PIXEL))
    assert float(mask[12, 12, 6]) == 1
    assert float(mask[12, 12, 20]) < 1e-3
    assert float(moving_mask(Subspace(maps[:1], PIXEL)).min()) == 1


@pytest.mark.parametrize("box", [30, 35, 48])
def test_low_frequencies_stay_what_they_are_on_another_grid(box):
    """Back and forth, and the same coefficients in between."""
    volume = voxels(swinging_body(), torch.zeros(1))
    low = regridded(volume, BOX, 9)
    there = regridded(volume, box, 9)
    torch.testing.assert_close(regridded(there, BOX, 9), low, rtol=1e-4, atol=1e-4 * float(low.abs().max()))
    freqs = torch.tensor([[[0.02, -0.05, 0.03], [0.01, 0.0, 0.07]]])
    one, other = (
        VoxelVolume.from_map(each, pixel).hartley(freqs)
        for each, pixel in ((low, PIXEL), (there, BOX * PIXEL / box))
    )
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.02 * float(one.abs().max()))
