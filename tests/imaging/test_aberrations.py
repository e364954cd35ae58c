"""Phase errors beyond the CTF's against polynomials by hand, moments in closed form, and a library."""

import itertools
import math

import numpy as np
import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.transform import inverse_hartley
from cryoatlas.imaging.aberrations import (
    beam_tilt_coefficients,
    even_phase,
    odd_phase,
    zernike,
    zernike_terms,
)
from cryoatlas.imaging.ctf import CTFParameters, contrast_transfer, electron_wavelength
from cryoatlas.imaging.projection import central_slices, plane_frequencies
from cryoatlas.imaging.shift import turn_phase_hartley
from cryoatlas.imaging.volume import GaussianBody

BOX, PIXEL_SIZE, SIGMA = 48, 2.0, 4.0
IDENTITY = torch.eye(3, dtype=torch.float64)[None]


def plane(magnification: torch.Tensor | None = None, box: int = BOX) -> torch.Tensor:
    return plane_frequencies(Disc(box), torch.tensor([PIXEL_SIZE]).double(), magnification)


def blob(x: float, y: float, box: int = BOX) -> GaussianBody:
    return GaussianBody(torch.tensor([[x, y, 0.0]]).double(), torch.ones(1).double(), SIGMA, box, PIXEL_SIZE)


def moments(coefficients: torch.Tensor, orders: list[tuple[int, int]]) -> list[float]:
    """Moments ⟨x^a y^b⟩ (Å) of an image given by its coefficients, about the centre of the box."""
    image = inverse_hartley(Disc(BOX).scatter(coefficients))[0]
    axis = PIXEL_SIZE * (torch.arange(BOX, dtype=torch.float64) - BOX // 2)
    return [float((image * axis**a * axis[:, None] ** b).sum() / image.sum()) for a, b in orders]


def coefficients(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_polynomials_come_in_relions_order_and_are_not_scaled():
    freqs = torch.from_numpy(np.random.default_rng(0).uniform(-0.6, 0.6, (20, 2)))
    x, y = freqs.T
    r2 = x**2 + y**2
    odd = [y, x, 3 * x**2 * y - y**3, (3 * r2 - 2) * y, (3 * r2 - 2) * x, x**3 - 3 * x * y**2]
    even = [
        torch.ones_like(x),
        *(2 * x * y, 2 * r2 - 1, x**2 - y**2),
        *(4 * x**3 * y - 4 * x * y**3, (4 * r2 - 3) * 2 * x * y, 6 * r2**2 - 6 * r2 + 1),
        *((4 * r2 - 3) * (x**2 - y**2), x**4 - 6 * x**2 * y**2 + y**4),
    ]
    for first_order, expected in ((1, odd), (0, even)):
        terms = itertools.islice(zernike_terms(first_order), len(expected))
        for (m, n), values in zip(terms, expected, strict=True):
            torch.testing.assert_close(zernike(m, n, freqs), values, atol=1e-14, rtol=0, msg=f"m={m} n={n}")


def test_polynomials_are_defined_at_zero_frequency():
    origin = torch.zeros(1, 2, dtype=torch.float64)
    assert [float(zernike(m, n, origin)) for m, n in ((0, 0), (0, 2), (0, 4), (2, 2), (1, 1))] == [
        1,
        -1,
        1,
        0,
        0,
    ]


def test_a_beam_tilt_is_minus_two_pi_cs_wavelength_squared_k_squared_k_dot_b():
    tilt_mrad, cs_mm, wavelength = coefficients(0.4, -0.7), 2.7, 0.0196875
    given = beam_tilt_coefficients(tilt_mrad, coefficients(wavelength)[0], coefficients(cs_mm)[0])
    k = plane()
    expected = -2 * math.pi * cs_mm * 1e7 * wavelength**2 * k.square().sum(-1) * (k @ tilt_mrad[0] * 1e-3)
    torch.testing.assert_close(odd_phase(k, given), expected, atol=1e-12, rtol=0)


def test_a_linear_odd_phase_moves_the_particle_against_its_slope():
    """exp(iφ) with φ = c·k is the shift −c/2π: the sign of the odd part, seen in real space."""
    image = central_slices(blob(0, 0), plane(), IDENTITY)
    # RELION's first two odd polynomials are k_y and k_x, in this order.
    moved = turn_phase_hartley(image, odd_phase(plane(), coefficients(2 * math.pi * 7, -2 * math.pi * 5)))
    # The blob is cut off at Nyquist, where its transform has fallen to 3e-9, and at 5σ.
    assert moments(moved, [(1, 0), (0, 1)]) == pytest.approx([5.0, -7.0], abs=1e-4)


def test_coma_skews_a_gaussian_by_the_closed_form():
    """φ = a k² k_x adds the third cumulants ⟨x³⟩ = 3a/4π³ and ⟨x y²⟩ = a/4π³, and no shift."""
    a = 900.0
    phase = odd_phase(plane(), coefficients(0, 2 * a / 3, 0, 0, a / 3))
    skewed = turn_phase_hartley(central_slices(blob(0, 0), plane(), IDENTITY), phase)
    found = moments(skewed, [(1, 0), (0, 1), (3, 0), (1, 2), (2, 1), (0, 3), (2, 0)])
    cube = a / (4 * math.pi**3)
    # Third moments of a 96 Å box weigh what is cut off at Nyquist and at the border by up to 1e5.
    assert found == pytest.approx([0, 0, 3 * cube, cube, 0, 0, SIGMA**2], abs=2e-3)


@pytest.mark.parametrize("box", [24, 25])
def test_undoing_an_odd_phase_gives_back_the_image(box):
    k = plane(box=box)
    image = central_slices(blob(3, -5, box), k, IDENTITY)
    phase = odd_phase(k, coefficients(3, -8, 40, 25, -60, 90))
    there = turn_phase_hartley(image, phase)
    assert (there - image).abs().max() > 0.1 * image.abs().max()
    torch.testing.assert_close(turn_phase_hartley(there, -phase), image, atol=1e-13, rtol=0)
    # Its modulus is 1: noise stays what it was.
    torch.testing.assert_close(there.norm(), image.norm(), atol=1e-13, rtol=0)


def test_the_even_part_is_added_to_relions_gamma_which_is_minus_ours():
    parameters = CTFParameters.build(
        1,
        defocus_u=12000.0,
        defocus_v=12000.0,
        defocus_angle=0.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        phase_shift=0.3,
    )
    k = plane()
    offset = even_phase(k, coefficients(0.2, 1, -0.5, 2, 30, -20, 4, 10, 50))
    wavelength, k2 = float(electron_wavelength(parameters.voltage_kv)), k.square().sum(-1)
    relions = -math.pi * wavelength * 12000 * k2 + math.pi / 2 * 2.7e7 * wavelength**3 * k2**2
    relions = relions - 0.3 - math.atan(0.1 / math.sqrt(1 - 0.1**2)) + offset
    found = contrast_transfer(k, parameters, offset)
    torch.testing.assert_close(found, -torch.sin(relions), atol=1e-12, rtol=0)
    assert not torch.allclose(found, contrast_transfer(k, parameters, -offset), atol=0.1)


def test_anisotropic_magnification_shows_a_point_at_the_transpose_times_it():
    """What an image holds at k is the specimen's transform at M k: p is seen at Mᵀp."""
    magnification = torch.tensor([[[1.1, 0.06], [-0.02, 0.95]]]).double()
    point = torch.tensor([10.0, -6.0]).double()
    image = central_slices(blob(*point.tolist()), plane(magnification), IDENTITY)
    seen = magnification[0].T @ point
    assert moments(image, [(1, 0), (0, 1)]) == pytest.approx(seen.tolist(), abs=1e-4)


def test_beam_tilt_trefoil_and_fourfold_astigmatism_agree_with_an_independent_library():
    torch_ctf = pytest.importorskip("torch_ctf")
    rng = np.random.default_rng(0)
    for _ in range(20):
        tilt, kv, cs = rng.uniform(-1, 1, 2), float(rng.choice([100.0, 200.0, 300.0])), rng.uniform(0.01, 2.7)
        trefoil, fourfold = rng.uniform(-30, 30, 2), rng.uniform(-30, 30, 2)
        common = {
            "defocus": 1.5,
            "astigmatism": 0.01,
            "astigmatism_angle": 20.0,
            "voltage": kv,
            "spherical_aberration": cs,
            "amplitude_contrast": 0.1,
            "phase_shift": 0.0,
            "pixel_size": PIXEL_SIZE,
            "image_shape": (BOX, BOX),
            "rfft": False,
            "fftshift": True,
        }
        # RELION's beam tilt has a minus sign in front, theirs a plus; the rest is defined alike.
        theirs = torch_ctf.calculate_ctf_2d(
            **common,
            beam_tilt_mrad=torch.tensor(-tilt),
            odd_zernike_coeffs={"Z33c": trefoil[0], "Z33s": trefoil[1]},
            even_zernike_coeffs={"Z44c": fourfold[0], "Z44s": fourfold[1]},
        )
        parameters = CTFParameters.build(
            1,
            defocus_u=15100.0,
            defocus_v=14900.0,
            defocus_angle=math.radians(20),
            voltage_kv=kv,
            spherical_aberration_mm=cs,
            amplitude_contrast=0.1,
        )
        odd = beam_tilt_coefficients(
            torch.from_numpy(tilt)[None], electron_wavelength(parameters.voltage_kv), coefficients(cs)[0]
        )
        odd = odd + coefficients(0, 0, trefoil[1], 0, 0, trefoil[0])
        even = coefficients(0, 0, 0, 0, fourfold[1], 0, 0, 0, fourfold[0])
        k = plane()
        ours = contrast_transfer(k, parameters, even_phase(k, even)) * torch.exp(1j * odd_phase(k, odd))
        # Their wavelength is CODATA's, ours RELION's, 2.6e-5 smaller; γ and φ reach some 110 rad at 100 kV.
        assert (theirs.flatten()[Disc(BOX).indices] - ours).abs().max() < 3e-3
