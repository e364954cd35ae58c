"""Components of images with known poses: their span is the true one, and gauges do not matter."""

import pytest
import torch
from tests.poses.small_world import BOX, PIXEL, body, make_view, random_poses, swinging_body

from cryoatlas.analysis.latent import spearman
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.volume import voxels
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.poses.view import View
from cryoatlas.subspace.expectation import Known, latents_at
from cryoatlas.subspace.known_poses import HalfSets, Pass
from cryoatlas.subspace.model import Subspace, mean_square

COUNT, BAND = 240, 9.0
HALF = torch.arange(COUNT) % 2
FIRST = (HALF == 0).nonzero().squeeze(-1)


def images_of(states: torch.Tensor, sigma: float) -> tuple[View, Pose]:
    """Images of the swinging body at these angles."""
    pose = random_poses(COUNT, 4).to("cpu", torch.float32)
    return make_view(swinging_body(), pose, sigma=sigma, seed=2, z=states[:, None]), pose


def components_of(view: View, pose: Pose, count: int, passes: int) -> HalfSets:
    """EM from a mean map of another state."""
    mean = Subspace(voxels(swinging_body(), torch.zeros(1))[None], PIXEL)
    maps = HalfSets.both(mean.with_random_components(count, 0.1, torch.Generator().manual_seed(0)))
    for number in range(passes):
        sums = Pass(maps, BAND, BOX, PIXEL)
        sums.add([view], pose, HALF)
        maps = sums.solve(mean_square(mean.maps[0]), 0.3, number >= passes - 2)
    return maps.on_principal_axes()


@pytest.fixture(scope="module")
def two_states() -> tuple[torch.Tensor, View, Pose, HalfSets]:
    state = 0.8 * (torch.rand(COUNT, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    view, pose = images_of(state, 0.1)
    return state, view, pose, components_of(view, pose, 1, 8)


def test_the_component_of_two_states_is_their_difference(two_states):
    _, _, _, maps = two_states
    first, second = (voxels(swinging_body(), torch.tensor([angle])) for angle in (0.0, 0.8))
    component = maps.whole.maps[1]
    wanted, found = (
        VoxelVolume.from_map(each, pixel)
        for each, pixel in ((second - first, PIXEL), (component, maps.whole.pixel_size))
    )
    # Compared below the band in which components are solved, at frequencies in all directions.
    freqs = torch.nn.functional.normalize(torch.randn(1, 4000, 3), dim=-1)
    freqs = freqs * torch.rand(1, 4000, 1) ** 0.5 * 7 / (BOX * PIXEL)
    values = torch.stack([each.hartley(freqs)[0] for each in (wanted, found)])
    # Noise of 240 images leaves 0.97; a wrong component correlates as 0 does.
    assert abs(float(torch.corrcoef(values)[0, 1])) > 0.9


def test_latents_tell_the_states(two_states):
    state, view, pose, maps = two_states
    latent = maps.known([view], pose, HALF, BAND).mean[:, 0]
    below, above = latent[state == 0], latent[state > 0]
    gap = (above.mean() - below.mean()).abs()
    assert gap > 4 * (above.std() + below.std()) / 2


def test_a_continuous_motion_is_followed():
    angle = torch.linspace(-0.6, 0.6, COUNT)[
        torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    ]
    view, pose = images_of(angle, 0.08)
    maps = components_of(view, pose, 2, 8)
    latent = maps.known([view], pose, HALF, BAND).mean[:, 0]
    assert abs(spearman(latent.numpy(), angle.numpy())) > 0.85


def test_latents_are_of_unit_spread_on_average(two_states):
    """What the passes solve for is V(z) with z ~ N(0, I), whatever scale components began with."""
    _, view, pose, maps = two_states
    known = maps.known([view], pose, HALF, BAND)
    spread = known.mean.square().mean() + known.covariance.mean()
    # The Wiener prior of the last pass shrinks maps a little, which z makes up for.
    assert 0.8 < float(spread) < 1.5


def test_an_image_s_latent_comes_from_the_other_half_set(two_states):
    _, view, pose, maps = two_states
    mute = Subspace(torch.zeros_like(maps.whole.maps), maps.whole.pixel_size)
    half_mute = HalfSets((mute, maps.halves[1]), maps.whole)
    latent = half_mute.known([view], pose, HALF, BAND).mean[:, 0]
    assert (latent[HALF == 1] == 0).all()
    direct = latents_at(maps.halves[1], [view[FIRST]], pose[FIRST], BAND)
    torch.testing.assert_close(latent[FIRST], direct.mean[:, 0])


def test_a_turn_of_the_latent_space_changes_no_volume():
    maps = torch.stack([voxels(body(seed)) for seed in range(3)])
    subspace = Subspace(maps, PIXEL)
    before = HalfSets.both(subspace)
    middle, turn = torch.tensor([0.3, -0.7]), torch.tensor([[1.0, 0.4], [-0.2, 0.8]])
    after = before.changed(middle, turn)
    new = torch.tensor([0.5, 1.5])
    old = middle + turn @ new
    first = maps[0] + torch.tensordot(old, maps[1:], 1)
    second = after.whole.maps[0] + torch.tensordot(new, after.whole.maps[1:], 1)
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-4 * float(first.abs().max()))


def test_principal_axes_are_orthogonal_sorted_and_of_fixed_sign():
    maps = torch.stack([voxels(body(seed)) for seed in range(4)])
    axes = HalfSets.both(Subspace(maps, PIXEL)).on_principal_axes().whole.maps[1:].flatten(1).double()
    gram = axes @ axes.T
    diagonal = gram.diagonal()
    assert (diagonal.diff() < 0).all()
    assert float((gram - diagonal.diag()).abs().max()) < 1e-4 * float(diagonal[0])
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()
    again = HalfSets.both(Subspace(torch.cat([maps[:1], -maps[[2, 1, 3]]]), PIXEL)).on_principal_axes()
    torch.testing.assert_close(
        again.whole.maps[1:].flatten(1).double(), axes, rtol=1e-3, atol=1e-4 * float(axes.abs().max())
    )


def test_half_sets_that_were_turned_apart_are_brought_together():
    """Maps of the second half in a gauge of their own are turned back in the pass's solution."""
    angle = torch.linspace(-0.6, 0.6, COUNT)
    view, pose = images_of(angle, 0.08)
    maps = components_of(view, pose, 2, 5)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    apart = HalfSets((maps.halves[0], maps.changed(torch.zeros(2), quarter).halves[1]), maps.whole)
    sums = Pass(apart, BAND, BOX, PIXEL)
    sums.add([view], pose, HALF)
    first, second = (
        half.maps[1:].flatten(1)
        for half in sums.solve(mean_square(maps.whole.maps[0]) * 10, 0.3, False).halves
    )
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=1)
    # What is not turned back is at right angles, at 0.
    assert (cosine > 0.3).all()


def test_known_keeps_the_images_order():
    maps = HalfSets.both(Subspace(torch.stack([voxels(body(seed)) for seed in range(2)]), PIXEL))
    view, pose = images_of(torch.zeros(COUNT), 0.25)
    some = maps.known([view], pose, HALF, BAND)
    plain = latents_at(maps.whole, [view], pose, BAND)
    assert isinstance(some, Known)
    torch.testing.assert_close(some.mean, plain.mean)
    torch.testing.assert_close(some.evidence, plain.evidence, rtol=1e-4, atol=1e-2)
