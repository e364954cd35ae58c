"""What star files say of beam tilt, aberrations, magnification and the CTF in the images is understood."""

import numpy as np
import pytest
import torch

from cryoatlas.errors import MetadataError
from cryoatlas.imaging.aberrations import beam_tilt_coefficients, even_phase
from cryoatlas.imaging.ctf import electron_wavelength
from cryoatlas.particles.inspection import inspect_file
from cryoatlas.particles.metadata import read_tables
from cryoatlas.particles.microscope import AppliedCTF, read_aberrations
from cryoatlas.particles.particle_set import read_particles

from .small_project import COUNT

SECOND = torch.tensor([1, 3, 5])
"""The images of optics group 2 of the small project."""


def aberrated(columns):
    columns["rlnBeamTiltX"] = [0.0, 0.4]
    columns["rlnBeamTiltY"] = [0.0, -0.2]
    columns["rlnOddZernike"] = ["[]", "[1,2,3,4,5,6,7]"]
    columns["rlnEvenZernike"] = ["[0,0,0]", "[0.5,-1e-1,2]"]
    for name, values in zip(
        ("00", "01", "10", "11"), ((1, 1.01), (0, 0.02), (0, -0.03), (1, 0.98)), strict=True
    ):
        columns[f"rlnMagMat{name}"] = values


def column(name, values):
    return lambda columns: columns.update({name: values})


def test_each_group_has_its_own_aberrations(project):
    found = read_particles(project(optics=aberrated)).aberrations
    first, second = found.kind[0], found.kind[1]
    assert first != second
    assert (found.kind[SECOND] == second).all()
    assert not found.odd[first].any()
    assert not found.even[first].any()
    assert torch.equal(found.magnification[first], torch.eye(2).double())
    coma = beam_tilt_coefficients(
        torch.tensor([[0.4, -0.2]], dtype=torch.float64),
        electron_wavelength(torch.tensor([200.0]).double()),
        torch.tensor([1.4], dtype=torch.float64),
    )
    expected = torch.arange(1, 8).double()
    expected[:6] += coma[0]
    torch.testing.assert_close(found.odd[second], expected)
    assert found.even[second].tolist() == [0.5, -0.1, 2]
    assert found.magnification[second].tolist() == [[1.01, 0.02], [-0.03, 0.98]]


def test_a_selection_of_particles_keeps_its_aberrations(project):
    particles = read_particles(project(optics=aberrated))
    some = particles[[5, 0, 3]]
    assert torch.equal(some.aberrations.kind, particles.aberrations.kind[[5, 0, 3]])


def test_rows_may_have_a_beam_tilt_of_their_own_as_in_relion_3(old_project):
    tilts = [0.1, 0.2, 0.1, 0.2, 0.1, 0.3]
    path = old_project(lambda columns: columns.update(rlnBeamTiltX=tilts, rlnBeamTiltY=[0.0] * COUNT))
    found = read_particles(path).aberrations
    coma = found.odd[found.kind][:, 4]
    voltage, cs = torch.tensor([300.0, 200.0]).double(), torch.tensor([2.7, 1.4]).double()
    both = beam_tilt_coefficients(torch.tensor([[1.0, 0]] * 2).double(), electron_wavelength(voltage), cs)[
        :, 4
    ]
    torch.testing.assert_close(coma, torch.tensor(tilts).double() * both.repeat(3), atol=1e-6, rtol=1e-6)


def test_no_columns_or_zeros_are_no_aberrations(project):
    assert read_particles(project()).aberrations is None

    def zeros(columns):
        aberrated(columns)
        columns.update(rlnBeamTiltX=[0, 0], rlnBeamTiltY=[0, 0], rlnOddZernike=["[0,0]", "[]"])
        columns.update(rlnEvenZernike=["[]", "[0]"])
        columns.update(rlnMagMat00=[1, 1], rlnMagMat01=[0, 0], rlnMagMat10=[0, 0], rlnMagMat11=[1, 1])

    assert read_particles(project(optics=zeros)).aberrations is None


def without(name):
    def spoil(columns):
        aberrated(columns)
        columns.pop(name)

    return spoil


def spoiled(name, values):
    def spoil(columns):
        aberrated(columns)
        columns[name] = values

    return spoil


REFUSED = [
    (without("rlnBeamTiltY"), "lacks rlnBeamTiltY"),
    (without("rlnMagMat10"), "lacks rlnMagMat10"),
    (without("rlnSphericalAberration"), "rlnSphericalAberration"),
    (spoiled("rlnOddZernike", ["[0,1]", "[0,nan]"]), r"row 2 .*'\[0,nan\]' as rlnOddZernike"),
    (spoiled("rlnEvenZernike", ["0.5", "[0.5]"]), r"row 1 .*'0.5' as rlnEvenZernike.*brackets"),
    (spoiled("rlnEvenZernike", ["[a]", "[0.5]"]), r"row 1 .*finite numbers"),
    (spoiled("rlnBeamTiltX", ["nan", "0"]), "rlnBeamTiltX"),
    (spoiled("rlnMagMat00", [1, 0]), r"row 2 .*magnification"),
    (column("rlnCtfDataAreCtfPremultiplied", [0, 2]), r"row 2 .*0 or 1"),
    (column("rlnCtfDataArePhaseFlipped", [0, "x"]), "rlnCtfDataArePhaseFlipped"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_cannot_be_understood_is_refused_and_found_by_info(project, spoil, message):
    path = project(optics=spoil)
    with pytest.raises(MetadataError, match=message) as refusal:
        read_particles(path)
    assert str(refusal.value) in inspect_file(path).problems


def test_images_cannot_be_both_premultiplied_and_phase_flipped(project):
    def both(columns):
        columns["rlnCtfDataAreCtfPremultiplied"] = [0, 1]
        columns["rlnCtfDataArePhaseFlipped"] = [1, 1]

    with pytest.raises(MetadataError, match=r"row 2 .* both premultiplied by its CTF and phase-flipped"):
        read_particles(project(optics=both))


def test_premultiplied_images_without_a_ctf_are_refused(project):
    def no_ctf(columns):
        for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
            columns.pop(name)

    with pytest.raises(MetadataError, match="the file has no CTF"):
        read_particles(project(no_ctf, column("rlnCtfDataAreCtfPremultiplied", [0, 1])))


def test_flags_are_those_of_each_image(project):
    assert read_particles(project()).applied_ctf is None
    path = project(
        column("rlnCtfDataArePhaseFlipped", [0, 0, 1, 0, 0, 0]),
        column("rlnCtfDataAreCtfPremultiplied", [0, 1]),
    )
    particles = read_particles(path)
    nothing, sign, whole = AppliedCTF
    assert particles.applied_ctf.tolist() == [nothing, whole, sign, whole, nothing, whole]
    assert particles[2:4].applied_ctf.tolist() == [sign, whole]


def test_info_tells_what_each_group_has_and_that_it_is_corrected_for(project):
    def spoil(columns):
        aberrated(columns)
        columns["rlnCtfDataAreCtfPremultiplied"] = [1, 0]

    facts = dict(inspect_file(project(optics=spoil)).facts)
    assert facts["aberrations of optics group 1"] == "none"
    told = facts["aberrations of optics group 2"]
    # ‖M − 1‖ of [[0.01, 0.02], [−0.03, −0.02]]: the square root of 0.0009 + √(0.0001² + 0.0008²).
    for words in ("odd phase errors up to", "even phase errors up to", "off by up to 4.1 %; corrected for"):
        assert words in told
    assert facts["CTF in the images"] == "3 of 6 images were multiplied by their CTF; accounted for"
    plain = dict(inspect_file(project()).facts)
    assert not [title for title in plain if title.startswith("aberrations") or title == "CTF in the images"]


DEFAULTS = {
    "rlnPhaseShift": lambda particles: particles.ctf.phase_shift,
    "rlnCtfBfactor": lambda particles: particles.ctf.b_factor,
    "rlnCtfScalefactor": lambda particles: particles.ctf_scale - 1,
}
"""Columns that may be missing, and what is then 0."""
NEEDED = (
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration"),
    *("rlnAmplitudeContrast", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst"),
    *("rlnBeamTiltX", "rlnMagMat01", "rlnOpticsGroup", "rlnImageName"),
)


def full(columns):
    columns["rlnCtfBfactor"] = [30.0] * COUNT
    columns["rlnCtfScalefactor"] = [0.5] * COUNT


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_missing_column_has_its_stated_default(project, name):
    def spoil(columns):
        full(columns)
        columns.pop(name)

    assert DEFAULTS[name](read_particles(project(full, aberrated))).abs().min() > 0
    assert not DEFAULTS[name](read_particles(project(spoil, aberrated))).any()


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_column_without_default_is_an_error(project, name):
    def spoil(columns):
        full(columns)
        columns.pop(name, None)

    def spoil_optics(columns):
        aberrated(columns)
        columns.pop(name, None)

    with pytest.raises(MetadataError, match=name):
        read_particles(project(spoil, spoil_optics))


@pytest.mark.data
def test_the_order_of_even_coefficients_is_that_of_a_refined_file(shared_data):
    """Piston, defocus and spherical aberration of RELION's fit cancel at k = 0, each being far from 0."""
    found = read_aberrations(read_tables(shared_data / "stacks" / "cryodrgn_tests" / "relion5.star"))
    assert found.even.abs().max() > 60
    origin = even_phase(torch.zeros(1, 1, 2, dtype=torch.float64), found.even)
    assert abs(float(origin)) < 0.1
    np.testing.assert_allclose(found.magnification[0], [[1.001833, -7.04404e-4], [-8.23335e-4, 1.000381]])
