"""The CTF against its formula at known points, a second derivation, and an independent library."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.imaging.ctf import (
    CTFParameters,
    contrast_transfer,
    electron_wavelength,
    envelope,
    radiation_damage,
)


def parameters(count: int = 1, **changes) -> CTFParameters:
    standard = {
        "defocus_u": 15000.0,
        "defocus_v": 14000.0,
        "defocus_angle": 0.6,
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
    }
    return CTFParameters.build(count, **{**standard, **changes})


def ring(k: float, angles: list[float]) -> torch.Tensor:
    return k * torch.tensor([[[math.cos(a), math.sin(a)] for a in angles]], dtype=torch.float64)


@pytest.mark.parametrize(("kv", "wavelength"), [(300.0, 0.019687), (200.0, 0.025079), (100.0, 0.037014)])
def test_electron_wavelength_is_that_of_the_textbooks(kv, wavelength):
    # Tables give 5 digits; RELION's constants differ from CODATA's in the sixth.
    found = electron_wavelength(torch.tensor([kv], dtype=torch.float64))
    assert found.item() == pytest.approx(wavelength, abs=2e-6)


def test_at_zero_frequency_the_ctf_is_plus_the_amplitude_contrast():
    value = contrast_transfer(torch.zeros(1, 1, 2, dtype=torch.float64), parameters(amplitude_contrast=0.07))
    assert value.item() == pytest.approx(0.07, abs=1e-15)


def test_low_frequencies_of_an_underfocused_image_are_positive():
    ctf = contrast_transfer(ring(1 / 200, [0.0, 1.0, 2.0]), parameters())
    assert (ctf > 0.1).all()


def test_the_ctf_equals_its_formula_written_with_an_angle():
    rng = np.random.default_rng(1)
    k, angle = rng.uniform(0, 0.25, 50), rng.uniform(-math.pi, math.pi, 50)
    freqs = torch.from_numpy(np.stack([k * np.cos(angle), k * np.sin(angle)], -1))[None]
    p = parameters(phase_shift=0.4, b_factor=60.0)
    wavelength = electron_wavelength(p.voltage_kv).item()
    defocus = 14500 + 500 * np.cos(2 * (angle - 0.6))
    gamma = math.pi * wavelength * defocus * k**2 - 0.5 * math.pi * 2.7e7 * wavelength**3 * k**4 + 0.4
    expected = np.sqrt(1 - 0.1**2) * np.sin(gamma) + 0.1 * np.cos(gamma)
    np.testing.assert_allclose(contrast_transfer(freqs, p)[0], expected * np.exp(-60 * k**2 / 4), atol=1e-12)


def test_defocus_u_acts_along_the_astigmatism_angle_and_v_across_it():
    along = contrast_transfer(ring(0.1, [0.6]), parameters())
    across = contrast_transfer(ring(0.1, [0.6 + math.pi / 2]), parameters())
    only_u = contrast_transfer(ring(0.1, [0.0]), parameters(defocus_v=15000.0))
    only_v = contrast_transfer(ring(0.1, [0.0]), parameters(defocus_u=14000.0))
    torch.testing.assert_close(along, only_u, atol=1e-12, rtol=0)
    torch.testing.assert_close(across, only_v, atol=1e-12, rtol=0)
    assert (along - across).abs() > 0.1


def test_swapping_u_and_v_and_turning_by_90_degrees_changes_nothing():
    freqs = ring(0.13, np.linspace(0, 6, 7).tolist())
    swapped = parameters(defocus_u=14000.0, defocus_v=15000.0, defocus_angle=0.6 + math.pi / 2)
    torch.testing.assert_close(
        contrast_transfer(freqs, parameters()), contrast_transfer(freqs, swapped), atol=1e-12, rtol=0
    )


def test_images_keep_their_own_parameters():
    both = parameters(2, defocus_u=torch.tensor([15000.0, 30000.0]), voltage_kv=torch.tensor([300.0, 200.0]))
    freqs = ring(0.1, [0.0, 1.0])
    together = contrast_transfer(freqs, both)
    apart = torch.cat([contrast_transfer(freqs, both[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, apart, atol=0, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_the_ctf_is_minus_cryodrgns_formula_on_100_random_parameter_sets():
    rng = np.random.default_rng(2)
    k, angle = rng.uniform(0, 0.3, 200), rng.uniform(-math.pi, math.pi, 200)
    freqs = torch.from_numpy(np.stack([k * np.cos(angle), k * np.sin(angle)], -1))[None]
    worst = {"RELION's constants": 0.0, "cryoDRGN's constants": 0.0}
    for _ in range(100):
        u, v, axis = (*rng.uniform(5000, 30000, 2).tolist(), rng.uniform(0, math.pi))
        kv, cs = float(rng.choice([100.0, 200.0, 300.0])), rng.uniform(0.01, 2.7)
        w, phase = rng.uniform(0, 0.2), rng.uniform(0, 2)
        ours = contrast_transfer(
            freqs,
            parameters(
                defocus_u=u,
                defocus_v=v,
                defocus_angle=axis,
                voltage_kv=kv,
                spherical_aberration_mm=cs,
                amplitude_contrast=w,
                phase_shift=phase,
            ),
        )[0].numpy()
        constants = zip(worst, ((12.2643247, 0.978466e-6), (12.2639, 0.97845e-6)), strict=True)
        for name, (numerator, relativistic) in constants:
            volts = 1000 * kv
            wavelength = numerator / math.sqrt(volts + relativistic * volts**2)
            defocus = 0.5 * (u + v + (u - v) * np.cos(2 * (angle - axis)))
            gamma = 2 * np.pi * (-defocus * wavelength * k**2 / 2 + cs * 1e7 * wavelength**3 * k**4 / 4)
            theirs = math.sqrt(1 - w**2) * np.sin(gamma - phase) - w * np.cos(gamma - phase)
            worst[name] = max(worst[name], np.abs(ours + theirs).max())
    assert worst["RELION's constants"] < 1e-10
    # Their wavelength is 3.5e-5 smaller: at 3 µm, 100 kV and 0.3 Å⁻¹ γ is about 315 rad, so the two may
    # differ by 3.5e-5 · 315 = 0.011.
    assert 1e-3 < worst["cryoDRGN's constants"] < 0.011


def test_the_ctf_agrees_with_an_independent_library_on_100_random_parameter_sets():
    torch_ctf = pytest.importorskip("torch_ctf")
    rng = np.random.default_rng(0)
    box, worst = 64, 0.0
    for _ in range(100):
        u = rng.uniform(5000, 40000)
        v = u - rng.uniform(10, 2000)  # The library wants u > v.
        angle_deg, kv, cs = rng.uniform(0, 180), rng.choice([100.0, 200.0, 300.0]), rng.uniform(0.01, 2.7)
        w, phase_deg, pixel_size = rng.uniform(0.02, 0.2), rng.uniform(0, 120), rng.uniform(1.5, 4)
        theirs = torch_ctf.calculate_ctf_2d(
            defocus=(u + v) / 2e4,
            astigmatism=(u - v) / 2e4,
            astigmatism_angle=angle_deg,
            voltage=kv,
            spherical_aberration=cs,
            amplitude_contrast=w,
            phase_shift=phase_deg,
            pixel_size=pixel_size,
            image_shape=(box, box),
            rfft=False,
            fftshift=True,
        )
        axis = (torch.arange(box, dtype=torch.float64) - box // 2) / (box * pixel_size)
        ky, kx = torch.meshgrid(axis, axis, indexing="ij")
        ours = contrast_transfer(
            torch.stack([kx, ky], -1).flatten(0, 1)[None],
            CTFParameters.build(
                1,
                defocus_u=u,
                defocus_v=v,
                defocus_angle=math.radians(angle_deg),
                voltage_kv=kv,
                spherical_aberration_mm=cs,
                amplitude_contrast=w,
                phase_shift=math.radians(phase_deg),
            ),
        )
        worst = max(worst, float((ours.reshape(box, box) - theirs.double()).abs().max()))
    # Their wavelength is CODATA's, ours RELION's, 2.6e-5 smaller: at 4 µm, 100 kV and the corner of the
    # transform γ is about 900 rad, so the two may differ by 2.6e-5 · 900 = 0.024.
    assert worst < 0.024


def test_parameters_are_selected_and_moved_together():
    p = parameters(4, defocus_u=torch.arange(4.0) + 1)
    chosen = p[torch.tensor([2, 0])].to(torch.float32)
    assert chosen.defocus_u.tolist() == [3.0, 1.0]
    assert len(chosen) == 2
    assert chosen.voltage_kv.dtype == torch.float32


def test_radiation_damage_is_the_published_curve():
    """Grant and Grigorieff's critical exposure written as they give it, at 3, 10 and 100 Å."""
    k = torch.tensor([1 / 3, 1 / 10, 1 / 100], dtype=torch.float64)
    critical = 0.245 * k ** (-1.665) + 2.81
    exposure = torch.tensor([0.0, 30.0], dtype=torch.float64)
    expected = torch.exp(-exposure[:, None] / (2 * critical))
    torch.testing.assert_close(radiation_damage(k.square()[None], exposure), expected, rtol=1e-12, atol=0)


def test_damage_spares_the_lowest_frequency_and_lies_in_the_envelope_of_the_ctf():
    freqs = torch.tensor([[[0.0, 0.0], [0.05, 0.02]]], dtype=torch.float64)
    fresh, exposed = (parameters(b_factor=7.0, exposure=dose) for dose in (0.0, 60.0))
    damage = radiation_damage(freqs.square().sum(-1), torch.tensor([60.0], dtype=torch.float64))
    assert damage[0, 0] == 1
    assert damage[0, 1] < 0.7
    torch.testing.assert_close(contrast_transfer(freqs, exposed), contrast_transfer(freqs, fresh) * damage)
    torch.testing.assert_close(envelope(freqs, exposed), envelope(freqs, fresh) * damage)
