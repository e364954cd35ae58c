"""Slices, shifts and the forward model against closed forms."""

import numpy as np
import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.transform import fourier, hartley, inverse_hartley
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_x, random_rotations
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import central_slices, correlation, plane_frequencies, predict
from cryoatlas.imaging.shift import phase_ramp, shift_hartley
from cryoatlas.imaging.volume import GaussianBody, Volume, voxels

BOXES = [24, 25]
PIXEL_SIZE = 2.5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def random_body(box: int, rng: np.random.Generator, sigma: float = 4.0) -> GaussianBody:
    centres = torch.from_numpy(rng.uniform(-0.2, 0.2, (15, 3)) * box * PIXEL_SIZE)
    return GaussianBody(centres, torch.from_numpy(rng.uniform(0.5, 2, 15)), sigma, box, PIXEL_SIZE)


def plane_of(disc: Disc) -> torch.Tensor:
    return plane_frequencies(disc, torch.tensor([PIXEL_SIZE], dtype=torch.float64))


@pytest.mark.parametrize("box", BOXES)
def test_a_slice_is_the_transform_of_the_projection(box, rng):
    body, disc = random_body(box, rng), Disc(box)
    projection = voxels(body, like=body.weights).sum(0)
    sliced = central_slices(body, plane_of(disc), torch.eye(3, dtype=torch.float64)[None])[0]
    torch.testing.assert_close(disc.gather(hartley(projection)), sliced, atol=1e-12, rtol=0)


@pytest.mark.parametrize("box", BOXES)
def test_voxels_hold_the_density_of_the_gaussians(box, rng):
    body = random_body(box, rng, sigma=4.0)
    axis = PIXEL_SIZE * (torch.arange(box, dtype=torch.float64) - box // 2)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = (
        sum(
            w * torch.exp(-(torch.stack([x, y, z], -1) - c).square().sum(-1) / (2 * 4.0**2))
            for c, w in zip(body.centres, body.weights, strict=True)
        )
        / (2 * torch.pi * 4.0**2) ** 1.5
    )
    # σ = 1.6 px: the transform has fallen to e^−12.6 = 3e-6 at Nyquist, where `voxels` cuts it off; the
    # many coefficients beyond add up to some 1e-5.
    found = voxels(body, like=body.weights)
    torch.testing.assert_close(found, density, atol=3e-5 * density.max().item(), rtol=0)


@pytest.mark.parametrize("box", BOXES)
def test_rotating_the_body_is_rotating_the_slice(box, rng):
    body, plane = random_body(box, rng), plane_of(Disc(box))
    turn, view = random_rotations(2, rng)
    turned = GaussianBody(body.centres @ turn.T, body.weights, body.sigma, box, PIXEL_SIZE)
    torch.testing.assert_close(
        central_slices(turned, plane, view[None]),
        central_slices(body, plane, (view @ turn)[None]),
        atol=1e-12,
        rtol=0,
    )


def test_the_mirrored_body_looks_different():
    body = random_body(24, np.random.default_rng(0))
    mirrored = GaussianBody(body.centres * torch.tensor([1, 1, -1]), body.weights, 4.0, 24, PIXEL_SIZE)
    plane, view = plane_of(Disc(24)), about_x(0.9)[None]
    seen, other = (central_slices(b, plane, view) for b in (body, mirrored))
    assert correlation(seen, other).item() < 0.9


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("steps", [(3, 0), (0, -2), (-4, 5)])
def test_shift_by_whole_pixels_is_a_roll(box, steps, rng):
    disc = Disc(box)
    image = inverse_hartley(disc.scatter(disc.gather(torch.from_numpy(rng.standard_normal((1, box, box))))))
    shift = PIXEL_SIZE * torch.tensor([steps], dtype=torch.float64)
    shifted = shift_hartley(disc.gather(hartley(image)), plane_of(disc), shift)
    rolled = image.roll((steps[1], steps[0]), (-2, -1))
    torch.testing.assert_close(inverse_hartley(disc.scatter(shifted)), rolled, atol=1e-12, rtol=0)


def test_the_hartley_shift_is_the_fourier_phase_ramp(rng):
    disc = Disc(24)
    image = torch.from_numpy(rng.standard_normal((2, 24, 24)))
    shift = torch.from_numpy(rng.uniform(-9, 9, (2, 2)))
    spectrum = fourier(image).flatten(1)[:, disc.indices] * phase_ramp(plane_of(disc), shift)
    shifted = shift_hartley(disc.gather(hartley(image)), plane_of(disc), shift)
    torch.testing.assert_close(shifted, spectrum.real - spectrum.imag, atol=1e-12, rtol=0)


def test_shifts_add_and_undo_each_other(rng):
    disc = Disc(25)
    plane, h = plane_of(disc), torch.from_numpy(rng.standard_normal((3, len(disc))))
    s, t = torch.from_numpy(rng.uniform(-9, 9, (2, 3, 2)))
    twice = shift_hartley(shift_hartley(h, plane, s), plane, t)
    torch.testing.assert_close(twice, shift_hartley(h, plane, s + t), atol=1e-12, rtol=0)
    torch.testing.assert_close(shift_hartley(shift_hartley(h, plane, s), plane, -s), h, atol=1e-12, rtol=0)


def test_any_closed_part_of_the_plane_gives_that_part_of_the_slice(rng):
    body, disc = random_body(24, rng), Disc(24)
    plane, rotation = plane_of(disc), random_rotations(2, rng)
    keep = disc.within(7.3)
    torch.testing.assert_close(
        central_slices(body, plane[:, keep], rotation), central_slices(body, plane, rotation)[:, keep]
    )


def test_the_prediction_is_slice_then_shift_then_ctf(rng):
    body, disc = random_body(24, rng), Disc(24)
    plane = plane_of(disc)
    pose = Pose(random_rotations(2, rng), torch.from_numpy(rng.uniform(-5, 5, (2, 2))))
    ctf = torch.from_numpy(rng.uniform(-1, 1, (2, len(disc))))
    by_hand = ctf * shift_hartley(central_slices(body, plane, pose.rotation), plane, pose.shift)
    torch.testing.assert_close(predict(body, plane, pose, ctf), by_hand, atol=0, rtol=0)


def test_images_of_other_pixel_sizes_are_placed_at_their_own_frequencies(rng):
    """A box of half as many pixels twice as wide holds the lower frequencies, each where it was."""
    body, rotation = random_body(24, rng), random_rotations(1, rng)
    fine, coarse = Disc(24, radius=5.9), Disc(12, radius=5.9)
    planes = [
        plane_frequencies(disc, torch.tensor([size], dtype=torch.float64))
        for disc, size in ((fine, PIXEL_SIZE), (coarse, 2 * PIXEL_SIZE))
    ]
    torch.testing.assert_close(*(central_slices(body, plane, rotation) for plane in planes))


def test_closed_form_bodies_are_volumes():
    assert isinstance(random_body(24, np.random.default_rng(0)), Volume)


def test_correlation_ignores_mean_and_scale(rng):
    disc = Disc(24)
    a = torch.from_numpy(rng.standard_normal((1, 24, 24)))
    b = disc.gather(hartley(3 * a + 7))
    assert correlation(disc.gather(hartley(a)), b).item() == pytest.approx(1, abs=1e-12)
    assert correlation(disc.gather(hartley(a)), -b).item() == pytest.approx(-1, abs=1e-12)


def test_white_noise_has_the_same_variance_in_every_shell():
    disc, generator = Disc(32), torch.Generator().manual_seed(0)
    images = 1.7 * torch.randn(400, 32, 32, generator=generator, dtype=torch.float64)
    variance = NoiseModel.from_residuals(disc.gather(hartley(images)), disc).variance[1:16]
    # Shell s holds about 2πs coefficients of 400 images: relative error of the variance √(2/(400·2πs)).
    expected_error = (2 / (400 * 2 * torch.pi * torch.arange(1, 16))).sqrt()
    assert ((variance / 1.7**2 - 1).abs() < 5 * expected_error).all()


def test_noise_is_drawn_with_the_variance_it_is_told_and_found_again():
    disc = Disc(24)
    model = NoiseModel(torch.linspace(0.5, 4.0, 13))
    drawn = model.sample(3000, disc, torch.Generator().manual_seed(1))
    found = NoiseModel.from_residuals(drawn, disc).variance
    # The narrowest shell, k = 0 alone, has 3,000 samples: 5 standard errors are 5·√(2/3000) = 13 %.
    torch.testing.assert_close(found, model.variance, atol=0, rtol=0.13)


def test_the_likelihood_is_that_of_independent_normals(rng):
    disc = Disc(12)
    model = NoiseModel(torch.linspace(0.5, 4.0, 7, dtype=torch.float64))
    x, y = (torch.from_numpy(rng.standard_normal((3, len(disc)))) for _ in range(2))
    normal = torch.distributions.Normal(y, model.on(disc).sqrt())
    torch.testing.assert_close(model.negative_log_likelihood(x, y, disc), -normal.log_prob(x).sum(-1))
