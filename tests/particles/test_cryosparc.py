"""Particles of cryoSPARC are the same particles as RELION's."""

import logging

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.errors import ImageDataError, InputError, MetadataError
from cryoatlas.geometry.rotations import geodesic_angle
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.particles.cryosparc import beam_tilt_mrad, rotations_of
from cryoatlas.particles.metadata import ParticleTables
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.sources import read_ctf, read_poses
from cryoatlas.particles.write import write_particles

from .small_cryosparc import UID, cs_columns, write_cs, write_cs_project
from .small_project import COUNT

FLOAT32 = 2e-6
"""Relative precision of what cryoSPARC stores."""


def assert_same_ctf(ours: CTFParameters | None, theirs: CTFParameters | None) -> None:
    assert ours is not None
    assert theirs is not None
    for name in ("defocus_u", "defocus_v", "defocus_angle", "voltage_kv", "spherical_aberration_mm"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=FLOAT32, atol=0)
    for name in ("amplitude_contrast", "phase_shift", "b_factor"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=FLOAT32, atol=0)


def test_the_same_particles_come_from_a_star_and_from_a_cs_file(project, tmp_path):
    star, cs = read_particles(project()), read_particles(write_cs_project(tmp_path / "P1"))
    assert star.pose is not None
    assert cs.pose is not None
    assert (
        geodesic_angle(cs.pose.rotation, star.pose.rotation).max() < 4 * FLOAT32
    )  # of a turn of some radians
    torch.testing.assert_close(cs.pose.shift, star.pose.shift, rtol=FLOAT32, atol=0)
    assert_same_ctf(cs.ctf, star.ctf)
    assert cs.pixel_size.tolist() == star.pixel_size.tolist()
    assert cs.ctf_scale.tolist() == [1] * COUNT
    torch.testing.assert_close(cs.images(slice(None)), -star.images(slice(None)), rtol=0, atol=0)


def test_a_pose_is_the_transpose_of_its_rotation_vector():
    quarter_about_z = np.array([[0, 0, np.pi / 2]])
    # The vector turns x to y; R takes volume to image coordinates, the other way.
    expected = torch.tensor([[[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]], dtype=torch.float64)
    torch.testing.assert_close(rotations_of(quarter_about_z), expected, rtol=0, atol=1e-15)
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    matrices = Rotation.from_rotvec(vectors).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(rotations_of(vectors).numpy(), matrices, atol=1e-12)


def test_shifts_are_in_pixels_of_the_alignment_and_not_of_the_images(tmp_path, caplog):
    half = {"alignments3D__psize_A": np.full(COUNT, 0.625, np.float32)}
    whole = read_poses(write_cs_project(tmp_path))
    torch.testing.assert_close(read_poses(write_cs_project(tmp_path, **half)).shift, whole.shift / 2)
    caplog.set_level(logging.INFO, "cryoatlas")
    of_images = read_particles(write_cs_project(tmp_path, alignments3D__psize_A=None))
    assert of_images.pose is not None
    in_pixels = torch.from_numpy(cs_columns()["alignments3D/shift"].astype(float))
    torch.testing.assert_close(of_images.pose.shift, -in_pixels * of_images.pixel_size[:, None])
    assert "shifts are taken in pixels of the images" in caplog.text


def test_the_sign_of_the_file_is_the_default_of_invert(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cryoatlas")
    dark = write_cs_project(tmp_path)
    assert read_particles(dark).sign == -1
    assert "says that its particles are dark: images are multiplied by −1" in caplog.text
    assert read_particles(dark, invert=False).sign == 1
    assert "but images are left as they are" in caplog.text
    bright = write_cs_project(tmp_path, blob__sign=np.ones(COUNT, np.float32))
    assert read_particles(bright).sign == 1
    assert read_particles(bright, invert=True).sign == -1
    assert "says that its particles are bright, but images are inverted" in caplog.text
    mixed = write_cs_project(tmp_path, blob__sign=np.array([1, -1] * 3, np.float32))
    with pytest.raises(MetadataError, match="-1, 1 as blob/sign, but one sign for all"):
        read_particles(mixed)


def test_exposure_groups_become_optics_groups_with_their_names(tmp_path):
    tables = read_particles(write_cs_project(tmp_path)).tables
    assert tables.optics is not None
    assert tables.optics.text("rlnOpticsGroupName").tolist() == ["exposureGroup0", "exposureGroup1"]
    assert tables.particles.text("rlnOpticsGroup").tolist() == ["1", "2"] * 3
    assert not tables.particles.has("rlnVoltage")
    split = np.array([300, 300, 300, 200, 200, 200], np.float32)
    tables = read_particles(write_cs_project(tmp_path, ctf__accel_kv=split)).tables
    assert tables.optics is not None
    names = ["exposureGroup0_1", "exposureGroup1_1", "exposureGroup1_2", "exposureGroup0_2"]
    assert tables.optics.text("rlnOpticsGroupName").tolist() == names
    assert tables.number("rlnVoltage").tolist() == split.tolist()


def test_uids_and_half_sets_are_kept_exactly(tmp_path):
    particles = read_particles(write_cs_project(tmp_path))
    assert particles.tables.particles.text("cryoatlasUid").tolist() == [str(uid) for uid in UID.tolist()]
    assert particles.tables.particles.text("rlnRandomSubset").tolist() == ["1", "2"] * 3


def test_what_is_written_reads_as_the_same_particles(tmp_path):
    particles = read_particles(write_cs_project(tmp_path / "P1"))
    write_particles(tmp_path / "out.star", particles)
    back = read_particles(tmp_path / "out.star", invert=True)
    assert back.pose is not None
    assert particles.pose is not None
    torch.testing.assert_close(back.pose.rotation, particles.pose.rotation, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.images([3, 1]), particles.images([3, 1]), rtol=0, atol=0)
    assert back.tables.particles.text("cryoatlasUid").tolist() == [str(uid) for uid in UID.tolist()]


def test_beam_tilt_becomes_an_angle():
    # Cs sin(tilt) = tilt_A: 2.7 mm and 1 mrad give 27,000 Å times sin(0.001).
    tilt = np.array([[2.7e7 * np.sin(1e-3), 0], [0, -1.4e7 * np.sin(5e-4)], [0, 0]])
    np.testing.assert_allclose(
        beam_tilt_mrad(tilt, np.array([2.7, 1.4, 0.0])), [[1, 0], [0, -0.5], [0, 0]], atol=1e-12
    )


def test_what_changes_images_is_read_or_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cryoatlas")
    zeros = {
        name: np.zeros((COUNT, 2), np.float32) for name in ("ctf__tilt_A", "ctf__trefoil_A", "ctf__shift_A")
    }
    plain = read_particles(write_cs_project(tmp_path, **zeros, ctf__bfactor=np.zeros(COUNT, np.float32)))
    assert plain.tables.missing("rlnBeamTiltX", "rlnCtfBfactor", "rlnCtfScalefactor")
    assert "not modelled" not in caplog.text
    tilt = np.full((COUNT, 2), 1000, np.float32)
    changed = read_particles(
        write_cs_project(
            tmp_path,
            ctf__tilt_A=tilt,
            ctf__trefoil_A=tilt,
            ctf__bfactor=np.full(COUNT, 20, np.float32),
            ctf__scale=np.array([1, 1, 1, 0.5, 1, 1], np.float32),
        )
    )
    assert changed.ctf is not None
    assert changed.ctf.b_factor.tolist() == [20] * COUNT
    assert changed.ctf_scale.tolist() == [1, 1, 1, 0.5, 1, 1]
    expected = [1e3 * np.arcsin(1000 / 2.7e7), 1e3 * np.arcsin(1000 / 1.4e7)] * 3
    np.testing.assert_allclose(changed.tables.number("rlnBeamTiltX"), expected, rtol=1e-12)
    assert "what ctf/trefoil_A say is not modelled" in caplog.text


def test_alignments_of_2d_classes_or_several_volumes_are_no_poses(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cryoatlas")
    columns = cs_columns()
    without = dict.fromkeys(("alignments3D__pose", "alignments3D__shift", "alignments3D__psize_A"))
    path = write_cs_project(
        tmp_path,
        **without,
        alignments_class_0__pose=columns["alignments3D/pose"],
        alignments2D__pose=columns["ctf/scale"],
    )
    particles = read_particles(path)
    assert particles.pose is None
    assert (
        "alignments2D/pose, alignments_class_0/pose are of 2-D classes or of several volumes" in caplog.text
    )
    with pytest.raises(MetadataError, match=r"particles.cs has no poses: it lacks alignments3D/pose"):
        particles.require_pose()


def test_what_the_main_file_lacks_comes_from_passthrough_files(tmp_path):
    whole = read_particles(write_cs_project(tmp_path))
    blob = {name: values for name, values in cs_columns().items() if name.startswith("blob/")}
    path = write_cs_project(tmp_path, **{name.replace("/", "__"): None for name in blob})
    with pytest.raises(MetadataError, match=r"lacks blob/path, .* with --passthrough"):
        read_particles(path)
    shuffled = np.array([3, 1, 5, 0, 4, 2])
    reordered = {name: values[shuffled] for name, values in {"uid": UID, **blob}.items()}
    joined = read_particles(path, passthrough=[write_cs(tmp_path / "J2" / "passthrough.cs", reordered)])
    torch.testing.assert_close(joined.images(slice(None)), whole.images(slice(None)), rtol=0, atol=0)
    assert joined.pixel_size.tolist() == whole.pixel_size.tolist()


def test_stacks_are_found_from_the_project_folder_or_the_datadir(tmp_path, monkeypatch):
    path = write_cs_project(tmp_path / "P1")
    monkeypatch.chdir(tmp_path)
    assert read_particles("P1/J2/particles.cs").box_size == 8
    moved = tmp_path / "elsewhere" / "particles.cs"
    moved.parent.mkdir()
    path.rename(moved)
    with pytest.raises(InputError, match="not there"):
        read_particles(moved)
    assert read_particles(moved, datadir=tmp_path / "P1").box_size == 8
    assert read_particles(moved, datadir=tmp_path / "P1" / "J1" / "extract").box_size == 8


def test_ctf_and_poses_alone_need_no_images(tmp_path, project):
    columns = {name: values for name, values in cs_columns().items() if not name.startswith("blob/")}
    path = write_cs(tmp_path / "alone.cs", columns)
    star = read_particles(project())
    assert_same_ctf(read_ctf(path), star.ctf)
    assert star.pose is not None
    torch.testing.assert_close(read_poses(path).shift, star.pose.shift, rtol=FLOAT32, atol=0)


REFUSED = {
    "a missing CTF column": ({"ctf__df2_A": None}, MetadataError, "has CTF columns, but lacks ctf/df2_A"),
    "no shift": ({"alignments3D__shift": None}, MetadataError, "lacks alignments3D/shift"),
    "a defocus in µm": (
        {name: np.full(COUNT, 1.5, np.float32) for name in ("ctf__df1_A", "ctf__df2_A")},
        MetadataError,
        "the largest defocus",
    ),
    "a pose that is not finite": (
        {"alignments3D__pose": np.full((COUNT, 3), np.nan, np.float32)},
        MetadataError,
        "row 1 of .* in column alignments3D/pose",
    ),
    "a pixel size of 0": ({"blob__psize_A": np.zeros(COUNT, np.float32)}, MetadataError, "pixel size of 0 Å"),
    "an alignment's pixel size of 0": (
        {"alignments3D__psize_A": np.zeros(COUNT, np.float32)},
        MetadataError,
        r"pixel size of its shift \(alignments3D/psize_A\), but it must be positive",
    ),
    "images that are not square": (
        {"blob__shape": np.array([[8, 9]] * COUNT, np.uint32)},
        ImageDataError,
        "9 × 8 px large",
    ),
    "another box": ({"blob__shape": np.full((COUNT, 2), 16, np.uint32)}, MetadataError, "16 px wide"),
    "an image beyond the end": (
        {"blob__idx": np.arange(1, COUNT + 1, dtype=np.uint32)},
        ImageDataError,
        "asks for image 7",
    ),
    "a position that is none": ({"blob__idx": np.arange(COUNT) - 1}, MetadataError, "-1 as blob/idx"),
    "a pose of two numbers": (
        {"alignments3D__pose": np.zeros((COUNT, 2))},
        MetadataError,
        "3 numbers should stand there",
    ),
    "a shift out of the box": (
        {"alignments3D__shift": np.full((COUNT, 2), 90, np.float32)},
        MetadataError,
        "puts the particle outside its box",
    ),
    "a beam tilt beyond 90°": (
        {"ctf__tilt_A": np.full((COUNT, 2), 1e9, np.float32)},
        MetadataError,
        "which no angle gives",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused(tmp_path, name):
    changes, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        read_particles(write_cs_project(tmp_path, **changes))


def test_selections_remember_the_rows_of_the_cs_file(tmp_path):
    particles = read_particles(write_cs_project(tmp_path))[[4, 2]]
    assert isinstance(particles.tables, ParticleTables)
    assert particles.tables.particles.row_name(0).startswith("row 5 of ")
    assert particles.tables.particles.text("cryoatlasUid").tolist() == [str(UID[4]), str(UID[2])]


@pytest.mark.data
def test_real_poses_are_those_that_cryodrgn_made_of_them(shared_data):
    folder = shared_data / "dist"
    ours = read_poses(folder / "cryosparc_P12_J24_001_particles.cs")
    theirs = read_poses(folder / "cryosparc_P12_J24_001_pose.pkl", box_size=180, pixel_size=2.95)
    assert len(ours) == 2019
    # The pickle is of float32: its matrices are right to 1e-6, its shifts of up to 60 Å to 1e-5.
    torch.testing.assert_close(ours.rotation, theirs.rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.shift, theirs.shift, rtol=0, atol=1e-5)
