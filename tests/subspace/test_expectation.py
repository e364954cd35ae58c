"""The E-step against sums and integrals written out, and its M-step against least squares."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.poses.small_world import BOX, PIXEL, body, contrast, make_view, random_poses

from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_x, random_rotations
from cryoatlas.imaging.shift import phase_ramp
from cryoatlas.imaging.volume import voxels
from cryoatlas.models.basis import BasisVolume
from cryoatlas.portions import Portion
from cryoatlas.poses.branch_and_bound import misfit
from cryoatlas.poses.view import View
from cryoatlas.subspace import expectation
from cryoatlas.subspace.expectation import (
    Expectation,
    Hypotheses,
    Known,
    accumulate,
    accumulate_known,
    expect,
    latents_at,
)
from cryoatlas.subspace.maximization import NormalEquations
from cryoatlas.subspace.model import Subspace

BAND = 9.0


def subspace(components: int) -> Subspace:
    """The small body, and differences of other bodies to it, a third as strong."""
    maps = [voxels(body(seed)) for seed in range(components + 1)]
    return Subspace(torch.stack([maps[0], *(0.3 * (other - maps[0]) for other in maps[1:])]), PIXEL)


def some_views(count: int, tilted: bool = False) -> list[View]:
    """Noisy images with CTF, and a second one of each after a tilt if asked."""
    tilts = [None, about_x(math.radians(45)).float()] if tilted else [None]
    pose = random_poses(count, 11)
    return [
        make_view(body(), pose, sigma=25.0, ctf=contrast(count, 3), tilt=tilt, seed=seed)
        for seed, tilt in enumerate(tilts)
    ]


def some_hypotheses(rotations: int = 7, shifts: int = 3) -> Hypotheses:
    generator = np.random.default_rng(5)
    shift = torch.from_numpy(generator.uniform(-4, 4, (shifts, 2))).float()
    return Hypotheses(random_rotations(rotations, generator).float(), shift)


def log_likelihood(volume: BasisVolume, views: list[View], pose: Pose, z: torch.Tensor) -> torch.Tensor:
    """log p(X | R, t, z) − log p(X | empty volume) of each image, from the misfit of pose search."""
    phi = torch.cat([torch.ones(len(z), 1), z], 1)
    power = [view.power(view.half.count(BAND)) for view in views]
    return 0.5 * torch.stack(power).sum(0) - misfit(volume, views, pose, phi, BAND)


def every_pose(grid: Hypotheses, images: int) -> Iterator[Pose]:
    """In the order of hypotheses: shifts, then rotations."""
    for shift in grid.shift:
        for rotation in grid.rotation:
            yield Pose(rotation.expand(images, 3, 3), shift.expand(images, 2))


both_kinds = pytest.mark.parametrize("tilted", [False, True], ids=["single", "tilt pair"])


@both_kinds
def test_without_components_evidence_is_the_mean_likelihood_over_hypotheses(tilted):
    model, views, grid = subspace(0), some_views(4, tilted), some_hypotheses()
    found = expect(model, views, grid, BAND)
    nothing, volume = torch.zeros(4, 0), BasisVolume.from_maps(model.maps, PIXEL)
    each = torch.stack([log_likelihood(volume, views, pose, nothing) for pose in every_pose(grid, 4)])
    expected = torch.logsumexp(each, 0) - math.log(len(grid))
    torch.testing.assert_close(found.evidence, expected, rtol=1e-3, atol=1e-2)


@both_kinds
def test_the_latent_integrates_out_as_it_does_on_a_grid_of_z(tilted):
    """One component: over hypotheses and a fine grid of z, with the prior N(0, 1)."""
    model, views, grid = subspace(1), some_views(3, tilted), some_hypotheses(4, 2)
    found = expect(model, views, grid, BAND)
    axis = torch.linspace(-4, 4, 81)
    prior = -0.5 * axis.square() - 0.5 * math.log(2 * math.pi) + math.log(float(axis[1] - axis[0]))
    volume, terms, means = BasisVolume.from_maps(model.maps, PIXEL), [], []
    for pose in every_pose(grid, 3):
        values = torch.stack([log_likelihood(volume, views, pose, z.expand(3, 1)) for z in axis])
        joint = values + prior[:, None]
        terms.append(torch.logsumexp(joint, 0))
        means.append((torch.softmax(joint, 0) * axis[:, None]).sum(0))
    expected = torch.logsumexp(torch.stack(terms), 0) - math.log(len(grid))
    torch.testing.assert_close(found.evidence, expected, rtol=1e-3, atol=2e-2)
    best = found.shift[:, 0] * len(grid.rotation) + found.rotation[:, 0]
    expected = torch.stack(means)[best, torch.arange(3)]
    torch.testing.assert_close(found.latent[:, 0, 0], expected, rtol=1e-2, atol=1e-2)


def test_weights_are_in_the_ratio_of_the_evidence_at_their_poses():
    model, views, grid = subspace(2), some_views(3), some_hypotheses(40, 5)
    found = expect(model, views, grid, BAND)
    torch.testing.assert_close(found.weight.sum(1), torch.ones(3))
    assert bool((found.weight.diff(dim=1) <= 0).all())
    first, second = (latents_at(model, views, found.pose(grid, n), BAND).evidence for n in (0, 1))
    image = found.weight[:, 1] > 0 if found.weight.shape[1] > 1 else torch.zeros(3, dtype=torch.bool)
    assert bool(image.any()), "the images should leave two poses open"
    ratio = (found.weight[:, 0] / found.weight[:, 1]).log()
    torch.testing.assert_close(ratio[image], (first - second)[image], rtol=1e-3, atol=2e-2)


def test_doubt_leaves_more_hypotheses_open():
    model, views, grid = subspace(1), some_views(6), some_hypotheses(40, 5)
    sure, doubted = (expect(model, views, grid, BAND, temper).weight[:, 0].mean() for temper in (1.0, 0.1))
    assert doubted < sure


def test_the_latent_at_a_known_pose_is_that_of_its_hypothesis():
    model, views, grid = subspace(2), some_views(4), some_hypotheses()
    found = expect(model, views, grid, BAND)
    known = latents_at(model, views, found.pose(grid), BAND)
    torch.testing.assert_close(known.mean, found.latent[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(known.covariance, found.covariance[:, 0], rtol=1e-3, atol=1e-4)


def test_results_do_not_depend_on_how_images_are_grouped(monkeypatch):
    model, views, grid = subspace(1), some_views(5), some_hypotheses()
    together = expect(model, views, grid, BAND)
    monkeypatch.setattr(expectation, "WORKING_SET", Portion(1, 1))
    alone = expect(model, views, grid, BAND)
    torch.testing.assert_close(alone.evidence, together.evidence)
    torch.testing.assert_close(alone.latent[:, 0], together.latent[:, 0])


def test_sums_do_not_depend_on_how_images_are_grouped(monkeypatch):
    model, views, grid = subspace(1), some_views(5), some_hypotheses()
    expected, sums = expect(model, views, grid, BAND, 100.0), []
    for portion in (1, 10**8):
        monkeypatch.setattr(expectation, "MOVED", Portion(portion, 1))
        equations = NormalEquations(model.box_size, model.pixel_size, 1)
        accumulate(equations, views, grid, expected, BAND)
        sums.append(equations.sums)
    assert len(set((expected.weight > 0).sum(1).tolist())) > 1
    torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-5 * float(sums[0].abs().max()))


@pytest.mark.parametrize("components", [0, 2])
def test_images_with_one_sure_hypothesis_give_the_equations_of_known_poses(components):
    """Two ways into the grid: summed into shared slices first, or image by image."""
    model, views, grid = subspace(components), some_views(6, tilted=True), some_hypotheses()
    found = expect(model, views, grid, BAND)
    sure = Expectation(
        found.evidence,
        found.shift[:, :1],
        found.rotation[:, :1],
        torch.ones(6, 1),
        found.latent[:, :1],
        found.covariance[:, :1],
    )
    first, second = (NormalEquations(BOX, PIXEL, components) for _ in range(2))
    accumulate(first, views, grid, sure, BAND)
    pose = found.pose(grid)
    accumulate_known(second, views, pose, latents_at(model, views, pose, BAND), BAND)
    largest = float(second.sums.abs().max())
    torch.testing.assert_close(first.sums, second.sums, rtol=0, atol=1e-4 * largest)


def images_of(model: Subspace, pose: Pose, z: torch.Tensor) -> View:
    """Noiseless images with CTF of Σ φ W, whitened by 1."""
    blank = make_view(body(), pose, ctf=contrast(len(pose), 2))
    phi = torch.cat([torch.ones(len(z), 1), z], 1)
    slices = blank.slices(BasisVolume.from_maps(model.maps, PIXEL), pose.rotation.float(), phi)
    ramp = phase_ramp(blank.half.plane[None], pose.shift.float())
    return View(blank.half, blank.transfer * ramp * slices, blank.transfer, blank.tilt)


def sure_of(z: torch.Tensor) -> Known:
    return Known(z, torch.zeros(*z.shape, z.shape[1]), torch.zeros(len(z)))


def test_noiseless_images_give_the_mean_and_the_component_back():
    """Poses and latents known, many images: the solve undoes the forward model, up to k = 0 and gridding."""
    model, pose = subspace(1), random_poses(600, 4)
    z = torch.randn(600, 1, generator=torch.Generator().manual_seed(1))
    equations = NormalEquations(BOX, PIXEL, 1)
    accumulate_known(equations, [images_of(model, pose, z)], pose, sure_of(z), BOX / 2)
    solved = equations.solve(torch.full((2, BOX // 2 + 1), 1e6))
    for found, true in zip(solved, model.maps, strict=True):
        pair = torch.stack([found.flatten(), (true - true.mean()).flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.97
        assert float(pair[0].norm() / pair[1].norm()) == pytest.approx(1, abs=0.1)


def test_half_maps_tell_the_strength_of_the_signal():
    """τ² from their correlation is the mean square of the map's coefficients, within a factor of two, for
    interpolation correlates neighbours on the padded grid."""
    from cryoatlas.fourier.correlation import fourier_shell_correlation
    from cryoatlas.subspace.model import mean_square

    halves = []
    for seed in (1, 2):
        pose = random_poses(400, seed)
        view = make_view(body(), pose, sigma=0.7, seed=seed)
        halves.append(NormalEquations(BOX, PIXEL, 0))
        accumulate_known(halves[-1], [view], pose, sure_of(torch.zeros(400, 0)), BOX / 2)
    fsc = fourier_shell_correlation(*(half.mean_alone() for half in halves))
    found, true = halves[0].signal(fsc), mean_square(voxels(body()))
    uncertain = (fsc > 0.5) & (fsc < 0.95)
    assert int(uncertain.sum()) >= 2
    ratio = (found / true)[uncertain].log()
    assert 0.5 < float(ratio.mean().exp()) < 2


def test_a_component_expected_to_be_weak_is_solved_weak():
    pose = random_poses(40, 11)
    equations = NormalEquations(BOX, PIXEL, 1)
    z = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    accumulate_known(equations, some_views(40), pose, sure_of(z), BAND)
    sizes = []
    for variance in (1e4, 1.0, 1e-8):
        shells = torch.stack([torch.full((10,), 1e4), torch.full((10,), variance)])
        sizes.append(float(equations.solve(shells)[1].norm()))
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 1e-3 * sizes[0]
