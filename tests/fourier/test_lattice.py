"""Discs of frequencies: what is in them, in which order, and the maps to and from full transforms."""

import pytest
import torch

from cryoatlas.fourier.lattice import Disc, frequency_grid
from cryoatlas.fourier.transform import hartley

DISCS = pytest.mark.parametrize(
    "disc", [Disc(8), Disc(9), Disc(16, 5.5), Disc(15, 4.0), Disc(12, 6.0)], ids=str
)


def random_images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_frequency_grid_has_x_last_on_arrays_and_first_in_vectors():
    grid = frequency_grid(6, 3)
    assert grid.shape == (6, 6, 6, 3)
    assert grid[0, 1, 5].tolist() == [2, -2, -3]  # z = −3, y = −2, x = 2
    assert grid[3, 3, 3].tolist() == [0, 0, 0]
    assert frequency_grid(5, 2)[2, 2].tolist() == [0, 0]


@DISCS
def test_reversing_the_list_negates_every_frequency(disc):
    assert torch.equal(disc.frequencies.flip(0), -disc.frequencies)
    assert disc.frequencies[len(disc) // 2].tolist() == [0, 0]


@DISCS
def test_a_disc_holds_exactly_the_frequencies_below_its_radius(disc):
    radius = disc.radius or disc.box_size / 2
    everything = {tuple(k) for k in frequency_grid(disc.box_size, 2).flatten(0, 1).tolist()}
    expected = {k for k in everything if k[0] ** 2 + k[1] ** 2 < radius**2}
    assert {tuple(k) for k in disc.frequencies.tolist()} == expected
    assert len(disc) == len(expected)


def test_nyquist_is_outside_the_disc_of_an_even_box():
    assert Disc(8).frequencies.abs().max() == 3


@DISCS
def test_indices_point_at_the_frequencies_in_a_flattened_transform(disc):
    grid = frequency_grid(disc.box_size, 2).flatten(0, 1)
    assert torch.equal(grid[disc.indices], disc.frequencies)


@DISCS
def test_scatter_is_the_adjoint_of_gather(disc):
    full = random_images(3, disc.box_size, disc.box_size)
    inside = random_images(3, len(disc))
    # The same products summed in another order: float64 rounding.
    torch.testing.assert_close(
        (disc.gather(full) * inside).sum(), (full * disc.scatter(inside)).sum(), atol=1e-12, rtol=0.0
    )


@DISCS
def test_gather_undoes_scatter_and_the_rest_is_zero(disc):
    inside = random_images(2, len(disc))
    full = disc.scatter(inside)
    assert torch.equal(disc.gather(full), inside)
    assert full.count_nonzero() == 2 * len(disc)


@DISCS
def test_reversed_coefficients_are_those_of_the_image_turned_by_half_a_turn(disc):
    image = random_images(disc.box_size, disc.box_size)
    turned = image.flip(-1, -2)
    if disc.box_size % 2 == 0:
        turned = turned.roll((1, 1), (-2, -1))  # keeps the centre, index box // 2, in its place
    torch.testing.assert_close(
        disc.gather(hartley(turned)), disc.gather(hartley(image)).flip(-1), atol=1e-13, rtol=0.0
    )


@DISCS
def test_a_band_within_a_disc_is_the_smaller_disc_and_closed_under_negation(disc):
    chosen = disc.within(3.0)
    assert torch.equal(disc.frequencies[chosen], Disc(disc.box_size, 3.0).frequencies)
    assert torch.equal(disc.frequencies[chosen].flip(0), -disc.frequencies[chosen])


def test_shells_are_rounded_radii():
    disc = Disc(16)
    k = disc.frequencies.square().sum(-1).sqrt()
    assert ((disc.shells - k).abs() <= 0.5).all()
    assert disc.shells[disc.frequencies.eq(torch.tensor([3.0, 4.0])).all(-1)].item() == 5


@pytest.mark.parametrize("radius", [0.0, -1.0, 8.5])
def test_a_radius_beyond_nyquist_or_not_positive_is_refused(radius):
    with pytest.raises(ValueError, match=r"radius must lie in \(0, 8.0\]"):
        Disc(16, radius)
