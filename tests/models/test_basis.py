"""Sums of maps are what their terms are, and stand in for volumes that move smoothly with z."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tests.poses.small_world import BOX, DISC, PIXEL, body, swinging_body

from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.projection import central_slices, plane_frequencies, slice_frequencies
from cryoatlas.imaging.volume import Volume, voxels
from cryoatlas.models.basis import BasisVolume, interpolate_volumes, slice_points
from cryoatlas.models.config import DecoderConfig
from cryoatlas.models.decoder import Decoder
from cryoatlas.models.voxel import VoxelVolume

PLANE = plane_frequencies(DISC, torch.tensor([PIXEL]))


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    return torch.stack([voxels(body(seed)) for seed in range(3)])


def rotations(count: int) -> torch.Tensor:
    return random_rotations(count, np.random.default_rng(0)).float()


def slices(volume: Volume, z: torch.Tensor | None) -> torch.Tensor:
    return central_slices(volume, PLANE, rotations(3 if z is None else len(z)), z)


def error(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Of each image, without k = 0, as a part of the image."""
    keep = torch.arange(exact.shape[1]) != exact.shape[1] // 2
    return (found - exact)[:, keep].norm(dim=1) / exact[:, keep].norm(dim=1)


@dataclass(frozen=True)
class Mixture:
    """Σ_k z_k B_k of given bodies: exactly linear in z."""

    count: int
    box_size: int = BOX
    pixel_size: float = PIXEL

    @property
    def latent_size(self) -> int:
        return self.count

    def hartley_pair(self, freqs, z):
        pairs = [body(seed).hartley_pair(freqs) for seed in range(self.count)]
        return tuple(sum(w[:, None] * pair[i] for w, pair in zip(z.T, pairs, strict=True)) for i in (0, 1))

    def hartley(self, freqs, z):
        return self.hartley_pair(freqs, z)[0]


def test_a_sum_with_one_term_is_the_map_of_that_term(maps):
    basis = BasisVolume.from_maps(maps, PIXEL)
    for number, weights in enumerate(torch.eye(3)):
        alone = slices(VoxelVolume.from_map(maps[number], PIXEL), None)
        torch.testing.assert_close(slices(basis, weights.expand(3, 3)), alone, rtol=1e-5, atol=1e-4)


def test_slices_are_linear_in_the_weights(maps):
    basis = BasisVolume.from_maps(maps, PIXEL)
    first, second = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    combined = slices(basis, 2 * first - second)
    expected = 2 * slices(basis, first) - slices(basis, second)
    torch.testing.assert_close(combined, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_points_are_spread_as_those_of_slices_are():
    """Half of a disc's area, and so of the points, is within 1/√2 of its radius; all directions alike."""
    points = slice_points(4096, 2.0, like=torch.zeros(1, dtype=torch.float64))
    radius = points.norm(dim=1)
    assert float(radius.max()) <= 2
    assert float((radius < 2**0.5).double().mean()) == pytest.approx(0.5, abs=0.01)
    directions = points / radius[:, None]
    torch.testing.assert_close(directions.T @ directions / 4096, torch.eye(3).double() / 3, rtol=0, atol=0.01)
    assert float(directions.mean(0).norm()) < 0.01


def test_a_volume_linear_in_z_needs_as_many_maps_as_its_rank():
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    found = interpolate_volumes(Mixture(3), z, band=BOX / 2, tolerance=1e-4, most=10)
    assert found.volume.latent_size == 3
    assert float(found.error.max()) < 1e-5
    # Rows that were chosen are themselves.
    torch.testing.assert_close(found.z[found.chosen], torch.eye(3), rtol=0, atol=1e-5)
    again = VoxelVolume.from_map(voxels(Mixture(3), z[0]), PIXEL)
    expected = central_slices(again, PLANE, rotations(1))
    ours = central_slices(found.volume, PLANE, rotations(1), found.z[:1])
    assert float(error(ours, expected)) < 1e-4


def test_images_of_one_volume_need_one_map():
    found = interpolate_volumes(swinging_body(), torch.full((9, 1), 0.3), band=8.0, tolerance=1e-3, most=5)
    assert found.volume.latent_size == 1
    torch.testing.assert_close(found.z, torch.ones(9, 1), rtol=1e-4, atol=0)


def test_the_error_falls_with_the_tolerance_and_with_more_maps():
    z = torch.linspace(-0.6, 0.6, 40)[:, None]
    worst, counts = [], []
    for tolerance in (0.1, 0.03, 0.01, 0.001):
        found = interpolate_volumes(swinging_body(), z, band=BOX / 2, tolerance=tolerance, most=40)
        # The least squares of the weights can only lower what the pivots left.
        assert float(found.error.max()) <= tolerance
        worst.append(float(found.error.max()))
        counts.append(found.volume.latent_size)
    assert worst == sorted(worst, reverse=True)
    assert counts == sorted(counts)
    assert counts[-1] < 20
    capped = interpolate_volumes(swinging_body(), z, band=BOX / 2, tolerance=0.001, most=4)
    assert capped.volume.latent_size == 4
    assert float(capped.error.max()) > 0.001


def test_slices_of_a_stand_in_for_a_turning_arm_are_near_the_exact_ones_at_all_frequencies():
    """A third of the body turns by ±35° about an axis: 60 volumes from a dozen of them."""
    z = torch.linspace(-0.6, 0.6, 60)[:, None]
    volume = swinging_body()
    found = interpolate_volumes(volume, z, band=BOX / 2, tolerance=0.01, most=20)
    assert found.volume.latent_size <= 12
    exact = slices(volume, z)
    measured = error(slices(found.volume, found.z), exact)
    # Interpolating any map of this body errs by 2 %; the sum of maps adds next to nothing.
    unavoidable = torch.cat(
        [
            error(
                central_slices(
                    VoxelVolume.from_map(voxels(volume, z[i]), PIXEL), PLANE, rotations(60)[i][None]
                ),
                exact[i : i + 1],
            )
            for i in range(0, 60, 6)
        ]
    )
    assert float(measured.max()) < 0.05
    assert float(measured.mean()) < 1.2 * float(unavoidable.mean())


def test_the_error_reported_is_that_of_slices():
    """With as few maps as make it large beside that of interpolation."""
    z = torch.linspace(-0.6, 0.6, 30)[:, None]
    volume = swinging_body()
    found = interpolate_volumes(volume, z, band=BOX / 2, tolerance=0.0, most=3)
    freqs = slice_frequencies(PLANE, rotations(200)).flatten(0, 1)[None]
    keep = freqs[0].norm(dim=1) > 0
    # Without interpolation: the same weights on the exact volumes.
    exact = volume.hartley(freqs, z)[:, keep]
    near = found.z @ exact[found.chosen]
    measured = (near - exact).norm(dim=1) / exact.norm(dim=1)
    far = measured > 0.01
    torch.testing.assert_close(found.error[far], measured[far], rtol=0.1, atol=0)


def test_a_decoder_gives_its_own_maps():
    """Its consensus is interpolated already, and `voxels` would blur it (`VoxelVolume.map`)."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(layers=1, width=16), BOX, PIXEL, 2).requires_grad_(False)
    decoder.start_from(torch.full((BOX // 2 + 1,), 0.02), voxels(body()))
    z = 0.3 * torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
    found = interpolate_volumes(decoder, z, band=BOX / 2, tolerance=0.001, most=5, map_of=decoder.map)
    own = torch.stack([decoder.map(z[i]) for i in found.chosen])
    torch.testing.assert_close(found.volume.grids, BasisVolume.from_maps(own, PIXEL).grids)
    blurred = interpolate_volumes(decoder, z, band=BOX / 2, tolerance=0.001, most=5)
    exact = slices(decoder, z)
    better, worse = (error(slices(ours.volume, ours.z), exact).mean() for ours in (found, blurred))
    assert better < 0.05
    assert better < 0.9 * worse
