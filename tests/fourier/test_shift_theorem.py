"""Shifts as phase ramps against shifts of pixels (convention C4)."""

import pytest
import torch

from cryoatlas.fourier.lattice import Disc, frequency_grid
from cryoatlas.fourier.transform import fourier, hartley
from cryoatlas.imaging.shift import phase_ramp, shift_hartley

PIXEL_SIZE = 1.7
SHIFTS_PX = pytest.mark.parametrize("shift_px", [(0, 0), (1, 0), (0, 1), (3, -2), (-4, 5)])
BOXES = pytest.mark.parametrize("box", [12, 13])
# Sums of some hundred terms in float64.
EXACT = {"atol": 1e-12, "rtol": 0.0}


def random_image(box: int) -> torch.Tensor:
    return torch.randn(box, box, dtype=torch.float64, generator=torch.Generator().manual_seed(box))


def moved(image: torch.Tensor, shift_px: tuple[int, int]) -> torch.Tensor:
    """The image's content carried by x, y pixels towards higher indices, wrapping around."""
    return image.roll((shift_px[1], shift_px[0]), (-2, -1))


@BOXES
@SHIFTS_PX
def test_shift_by_whole_pixels_is_a_roll(box, shift_px):
    image = random_image(box)
    freqs = frequency_grid(box, 2).flatten(0, 1) / (box * PIXEL_SIZE)
    shift = PIXEL_SIZE * torch.tensor([shift_px], dtype=torch.float64)
    ramp = phase_ramp(freqs[None], shift).reshape(box, box)
    torch.testing.assert_close(ramp * fourier(image), fourier(moved(image, shift_px)), **EXACT)


@BOXES
@SHIFTS_PX
def test_shift_by_whole_pixels_is_a_roll_on_hartley_coefficients_too(box, shift_px):
    image, disc = random_image(box), Disc(box)
    freqs = disc.frequencies / (box * PIXEL_SIZE)
    shift = PIXEL_SIZE * torch.tensor([shift_px], dtype=torch.float64)
    shifted = shift_hartley(disc.gather(hartley(image))[None], freqs[None], shift)[0]
    torch.testing.assert_close(shifted, disc.gather(hartley(moved(image, shift_px))), **EXACT)


def test_shifts_compose_and_undo_each_other():
    disc = Disc(12)
    freqs = (disc.frequencies / (12 * PIXEL_SIZE))[None]
    image = disc.gather(hartley(random_image(12)))[None]
    first, second = torch.tensor([[0.3, -1.1]]).double(), torch.tensor([[2.4, 0.9]]).double()
    twice = shift_hartley(shift_hartley(image, freqs, first), freqs, second)
    torch.testing.assert_close(twice, shift_hartley(image, freqs, first + second), **EXACT)
    torch.testing.assert_close(shift_hartley(twice, freqs, -(first + second)), image, **EXACT)
