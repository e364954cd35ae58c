"""Star files become particles in our units and frames; what cannot be used is named with its fix."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.errors import FormatError, ImageDataError, InputError, MetadataError
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.particle_set import read_particles

from .small_project import BOX, COUNT, PIXEL_SIZE, noise_images, particle_columns, write_stack


def set_column(name, values):
    def spoil(columns):
        columns[name] = values(columns[name]) if callable(values) else values

    return spoil


def drop(*names):
    def spoil(columns):
        for name in names:
            columns.pop(name)

    return spoil


def test_each_particle_takes_the_optics_of_its_group(project):
    particles = read_particles(project())
    assert len(particles) == COUNT
    assert particles.box_size == BOX
    assert particles.pixel_size.tolist() == [PIXEL_SIZE, 2 * PIXEL_SIZE] * 3
    assert particles.ctf.voltage_kv.tolist() == [300, 200] * 3
    assert particles.ctf.spherical_aberration_mm.tolist() == [2.7, 1.4] * 3
    assert particles.ctf.amplitude_contrast.tolist() == [0.1, 0.07] * 3


def test_ctf_values_come_in_our_units(project):
    columns = particle_columns()
    ctf = read_particles(project()).ctf
    assert ctf.defocus_u.tolist() == columns["rlnDefocusU"].tolist()
    assert ctf.defocus_v.tolist() == columns["rlnDefocusV"].tolist()
    # Radians from degrees: one rounding each.
    np.testing.assert_allclose(ctf.defocus_angle, np.radians(columns["rlnDefocusAngle"]), rtol=1e-15)
    np.testing.assert_allclose(ctf.phase_shift, np.radians(columns["rlnPhaseShift"]), rtol=1e-15)
    assert not ctf.b_factor.any()


def test_poses_come_in_our_frame_and_sign(project):
    columns = particle_columns()
    pose = read_particles(project()).pose
    angles = np.stack([columns[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")], -1)
    # RELION's matrix is the transpose of R_z(rot) R_y(tilt) R_z(psi), intrinsic ZYZ; 1e-12 is rounding.
    expected = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(pose.rotation, expected, atol=1e-12)
    origins = np.stack([columns["rlnOriginXAngst"], columns["rlnOriginYAngst"]], -1)
    np.testing.assert_array_equal(pose.shift, -origins)


def test_files_of_relion_3_0_and_3_1_mean_the_same(project, old_project):
    new, old = read_particles(project()), read_particles(old_project())
    torch.testing.assert_close(old.pixel_size, new.pixel_size)
    torch.testing.assert_close(old.pose.rotation, new.pose.rotation)
    torch.testing.assert_close(old.pose.shift, new.pose.shift)
    for name in ("defocus_u", "defocus_angle", "voltage_kv", "phase_shift"):
        torch.testing.assert_close(getattr(old.ctf, name), getattr(new.ctf, name))
    assert torch.equal(old.images([0, 5]), new.images([0, 5]))


@pytest.mark.parametrize("name", ["rlnPixelSize", "rlnImagePixelSize"])
def test_pixel_sizes_are_found_in_every_column_that_holds_them(old_project, name):
    def rename(columns):
        columns[name] = [3.0] * COUNT

    assert read_particles(old_project(rename)).pixel_size.tolist() == [3.0] * COUNT


def test_a_detector_pixel_size_without_magnification_is_in_angstrom(old_project):
    path = old_project(drop("rlnMagnification"))
    assert read_particles(path).pixel_size.tolist() == [4 * PIXEL_SIZE, 8 * PIXEL_SIZE] * 3


def test_phase_shift_and_b_factor_default_to_zero_and_decay_has_no_sign(project):
    plain = read_particles(project(drop("rlnPhaseShift"))).ctf
    assert not plain.phase_shift.any()
    decaying = read_particles(project(set_column("rlnCtfBfactor", [-8, 16, 0, -4, 0, 0])))
    assert decaying.ctf.b_factor.tolist() == [8, 16, 0, 4, 0, 0]


def test_scale_factors_are_kept_for_tilted_images(project):
    def scale(columns):
        columns["rlnCtfScalefactor"] = [1, 0.5, 1, 1, 1, 0.25]

    assert read_particles(project()).ctf_scale.tolist() == [1] * COUNT
    assert read_particles(project(scale)).ctf_scale.tolist() == [1, 0.5, 1, 1, 1, 0.25]


def test_images_come_in_the_order_asked_for_from_many_stacks(project, tmp_path):
    pixels = noise_images(4, seed=7)
    write_stack(tmp_path / "sub" / "other.mrcs", pixels)
    names = [
        "2@sub/other.mrcs",
        "1@stack.mrcs",
        "4@sub/other.mrcs",
        "3@stack.mrcs",
        "2@stack.mrcs",
        "1@sub/other.mrcs",
    ]
    particles = read_particles(project(set_column("rlnImageName", names)))
    own = noise_images()
    expected = np.stack([pixels[1], own[0], pixels[3], own[2], own[1], pixels[0]])
    np.testing.assert_array_equal(particles.images(range(6)), expected)
    np.testing.assert_array_equal(particles.images([5, 0, 5, 3]), expected[[5, 0, 5, 3]])
    np.testing.assert_array_equal(particles.images(slice(1, 3)), expected[1:3])
    np.testing.assert_array_equal(particles.images(torch.tensor([4])), expected[[4]])


def test_invert_turns_the_sign_of_the_pixels_and_of_nothing_else(project):
    path = project()
    bright, dark = read_particles(path), read_particles(path, invert=True)
    assert torch.equal(dark.images([1, 2]), -bright.images([1, 2]))
    assert torch.equal(dark.pose.shift, bright.pose.shift)


def test_a_selection_keeps_rows_together(project):
    particles = read_particles(project())
    some = particles[[4, 1]]
    assert len(some) == 2
    assert torch.equal(some.images([0, 1]), particles.images([4, 1]))
    assert torch.equal(some.pose.shift, particles.pose.shift[[4, 1]])
    assert torch.equal(some.ctf.defocus_u, particles.ctf.defocus_u[[4, 1]])
    assert some.pixel_size.tolist() == particles.pixel_size[[4, 1]].tolist()
    assert some[1:].tables.particles.row_name(0).startswith("row 2 ")
    mask = torch.arange(COUNT) > 3
    assert torch.equal(particles[mask].images([0]), particles.images([4]))


def test_particles_need_no_ctf_and_no_poses(project):
    ctf = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")
    pose = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    bare = read_particles(project(drop(*ctf, *pose)))
    assert bare.ctf is None
    assert bare.pose is None
    assert bare[[2]].pose is None
    with pytest.raises(MetadataError, match="lacks rlnAngleRot, rlnAngleTilt, rlnAnglePsi"):
        bare.require_pose()
    # Picking and 2-D classification leave in-plane columns, which are no pose.
    in_plane = read_particles(project(drop("rlnAngleRot", "rlnAngleTilt")))
    assert in_plane.pose is None
    centred = read_particles(project(drop("rlnOriginXAngst", "rlnOriginYAngst")))
    assert not centred.require_pose().shift.any()


def test_poses_can_be_replaced_and_taken_away(project):
    particles = read_particles(project())
    turned = particles.with_pose(particles.pose[torch.arange(COUNT).flip(0)])
    assert torch.equal(turned.pose.shift, particles.pose.shift.flip(0))
    np.testing.assert_allclose(
        turned.tables.particles.number("rlnOriginXAngst"), -particles.pose.shift[:, 0].flip(0).numpy()
    )
    blind = particles.with_pose(None)
    assert blind.pose is None
    assert not any("Angle" in name and "Defocus" not in name for name in blind.tables.particles.names)
    with pytest.raises(ValueError, match="5 poses do not fit 6"):
        particles.with_pose(particles.pose[:5])


def test_stacks_are_sought_in_datadir_beside_the_star_and_from_the_working_folder(
    project, tmp_path, monkeypatch
):
    path = project(set_column("rlnImageName", [f"{n}@Extract/job1/x.mrcs" for n in range(1, 7)]))
    here, there, flat = tmp_path / "here", tmp_path / "there", tmp_path / "flat"
    with pytest.raises(InputError, match=r"Extract/job1/x.mrcs\. They were sought in .*--datadir"):
        read_particles(path)
    (tmp_path / "x.mrcs").touch()
    with pytest.raises(InputError, match=r"x.mrcs is the first of them, give --datadir"):
        read_particles(path)
    write_stack(here / "Extract/job1/x.mrcs", noise_images(seed=3))
    monkeypatch.chdir(here)
    assert torch.equal(read_particles(path).images([0]), torch.from_numpy(noise_images(seed=3)[:1]))
    write_stack(tmp_path / "Extract/job1/x.mrcs", noise_images(seed=4))
    assert torch.equal(read_particles(path).images([0]), torch.from_numpy(noise_images(seed=4)[:1]))
    write_stack(flat / "x.mrcs", noise_images(seed=5))
    images = read_particles(path, datadir=flat).images([0])
    assert torch.equal(images, torch.from_numpy(noise_images(seed=5)[:1]))
    write_stack(there / "Extract/job1/x.mrcs", noise_images(seed=6))
    images = read_particles(path, datadir=there).images([0])
    assert torch.equal(images, torch.from_numpy(noise_images(seed=6)[:1]))
    with pytest.raises(InputError, match="is not a folder"):
        read_particles(path, datadir=tmp_path / "nowhere")


def test_two_stacks_of_one_name_are_not_confused(project, tmp_path):
    names = ["1@a/x.mrcs", "1@b/x.mrcs"] * 3
    path = project(set_column("rlnImageName", names))
    write_stack(tmp_path / "flat" / "x.mrcs", noise_images())
    with pytest.raises(MetadataError, match=r"a/x.mrcs and b/x.mrcs, and both lead to"):
        read_particles(path, datadir=tmp_path / "flat")


def test_an_image_file_without_number_holds_one_image(project, tmp_path):
    write_stack(tmp_path / "single.mrc", noise_images(1, seed=9))
    names = ["single.mrc", *(f"{n}@stack.mrcs" for n in range(1, 6))]
    particles = read_particles(project(set_column("rlnImageName", names)))
    np.testing.assert_array_equal(particles.images([0]), noise_images(1, seed=9))
    names[0] = "stack.mrcs"
    with pytest.raises(MetadataError, match=r"row 1 .* without an image number"):
        read_particles(project(set_column("rlnImageName", names)))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (drop("rlnImageName"), MetadataError, "no column rlnImageName"),
        (set_column("rlnImageName", ["0@stack.mrcs"] * 6), MetadataError, "row 1 .*'0@stack.mrcs'"),
        (set_column("rlnImageName", ["x@stack.mrcs"] * 6), MetadataError, "row 1 .*'x@stack.mrcs'"),
        (set_column("rlnImageName", ["1@"] * 6), MetadataError, "row 1 .*'1@'"),
        (set_column("rlnImageName", ["1@" + "x" * 5000] * 6), InputError, "1 of 1 image stacks .* not there"),
        (set_column("rlnImageName", ["9" * 30 + "@stack.mrcs"] * 6), MetadataError, "row 1 "),
        (
            set_column("rlnImageName", [f"{n}@stack.mrcs" for n in (1, 2, 3, 7, 8, 4)]),
            ImageDataError,
            "row 4 .* asks for image 7 of .*, which holds 6; 2 of 6 rows",
        ),
        (drop("rlnDefocusV"), MetadataError, "lacks rlnDefocusV"),
        (drop("rlnDefocusU", "rlnDefocusAngle"), MetadataError, "lacks rlnDefocusU, rlnDefocusAngle"),
        (drop("rlnAngleTilt"), MetadataError, "lacks rlnAngleTilt"),
        (drop("rlnAngleRot", "rlnAnglePsi"), MetadataError, "lacks rlnAngleRot, rlnAnglePsi"),
        (drop("rlnOriginYAngst"), MetadataError, "lacks rlnOriginYAngst"),
        (drop("rlnOpticsGroup"), MetadataError, "no column rlnOpticsGroup"),
        (set_column("rlnOpticsGroup", [1, 2, 3, 1, 2, 4]), MetadataError, "row 3 .* optics group 3"),
        (
            set_column("rlnAngleRot", [0, 0, "nan", 0, 0, 0]),
            MetadataError,
            "row 3 .*'nan' in column rlnAngleRot",
        ),
        (set_column("rlnDefocusU", [1e4, "?", 1e4, 1e4, 1e4, 1e4]), MetadataError, "row 2 .*rlnDefocusU"),
        (
            set_column("rlnOriginXAngst", [0, 0, 0, 0, 10.1, 0]),
            MetadataError,
            "row 5 .* 10.1 Å.* box of 20.0 Å",
        ),
        (
            set_column("rlnOriginYAngst", [0, 0, 0, -20.5, 0, 0]),
            MetadataError,
            "row 4 .* box of 40.0 Å; 1 of 6",
        ),
    ],
)
def test_particle_rows_that_cannot_be_used_are_named(project, spoil, error, message):
    with pytest.raises(error, match=message):
        read_particles(project(particles=spoil))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (drop("rlnImagePixelSize"), MetadataError, "no pixel size: it needs rlnImagePixelSize"),
        (set_column("rlnImagePixelSize", [2.5, 0]), MetadataError, r"row 2 .* pixel size of 0 Å .*; 3 of 6"),
        (set_column("rlnImagePixelSize", [-1, 2.5]), MetadataError, "row 1 .* pixel size of -1 Å"),
        (set_column("rlnImagePixelSize", [2.5, 1e308]), MetadataError, r"between 0\.01 and 1000 Å; 3 of 6"),
        (drop("rlnVoltage"), MetadataError, "lacks rlnVoltage"),
        (drop("rlnAmplitudeContrast"), MetadataError, "lacks rlnAmplitudeContrast"),
        (set_column("rlnOpticsGroup", [1, 1]), MetadataError, "names an optics group twice"),
        (set_column("rlnImageSize", [16, 16]), MetadataError, "16 px wide .* are 8"),
        (set_column("rlnImageDimensionality", [2, 3]), MetadataError, "subtomograms"),
    ],
)
def test_optics_that_cannot_be_used_are_named(project, spoil, error, message):
    with pytest.raises(error, match=message):
        read_particles(project(optics=spoil))


def test_tables_that_contradict_each_other_are_refused(project):
    def add_voltage(columns):
        columns["rlnVoltage"] = [300, 200, 300, 300, 300, 200]

    with pytest.raises(MetadataError, match=r"row 4 .* 300 as rlnVoltage, but its optics group says 200"):
        read_particles(project(particles=add_voltage))


def times(factor):
    return lambda values: np.asarray(values) * factor


@pytest.mark.parametrize(
    ("column", "spoil", "message"),
    [
        ("rlnDefocusU", lambda u: u, None),
        ("rlnDefocusU", times(1e-4), "largest defocus .* expected in Å.* 10,000 if they are in µm"),
        ("rlnDefocusU", times(1e-3), "largest defocus"),
        ("rlnDefocusU", times(0), "no CTF"),
        ("rlnDefocusU", times(100), "row 1 .* rlnDefocusU, which is expected in Å"),
        ("rlnVoltage", times(1000), "row 1 .* rlnVoltage.*kV.*divided by 1000"),
        ("rlnVoltage", times(0), "row 1 .* rlnVoltage"),
        ("rlnSphericalAberration", times(1000), "row 1 .*µm must be divided by 1000"),
        ("rlnAmplitudeContrast", times(100), "row 1 .*percent must be divided by 100"),
        ("rlnAmplitudeContrast", times(-1), "row 1 .*rlnAmplitudeContrast"),
        ("rlnPhaseShift", times(1000), "row 1 .*rlnPhaseShift.*degrees"),
    ],
)
def test_ctf_values_in_other_units_are_refused_with_the_fix(old_project, column, spoil, message):
    def change(columns):
        if column == "rlnDefocusU":
            columns["rlnDefocusV"] = spoil(columns["rlnDefocusV"])
        columns[column] = spoil(columns[column])

    if message is None:
        assert len(read_particles(old_project(change)).ctf) == COUNT
    else:
        with pytest.raises(MetadataError, match=message):
            read_particles(old_project(change))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_images_with_pixels_that_are_not_finite_are_named(project, tmp_path, value):
    path = project()
    pixels = noise_images()
    pixels[3, 2, 1] = value
    write_stack(tmp_path / "stack.mrcs", pixels)
    particles = read_particles(path)
    particles.images([0, 1, 2])
    with pytest.raises(ImageDataError, match=r"row 4 of .*, number 4 of .*stack.mrcs, has 1 pixels"):
        particles[[2, 3]].images([0, 1])


def test_large_finite_pixels_are_no_error(project, tmp_path):
    path = project()
    write_stack(tmp_path / "stack.mrcs", np.full((COUNT, BOX, BOX), 3e38, np.float32))
    assert torch.isfinite(read_particles(path).images([0])).all()


def test_stacks_of_different_boxes_are_refused(project, tmp_path):
    write_stack(tmp_path / "large.mrcs", noise_images(2, 10))
    names = ["1@stack.mrcs"] * 5 + ["1@large.mrcs"]
    with pytest.raises(ImageDataError, match=r"large.mrcs holds images of 10 px and .*stack.mrcs of 8 px"):
        read_particles(project(set_column("rlnImageName", names)))


def test_a_truncated_stack_is_refused_before_any_work(project, tmp_path):
    path = project()
    raw = (tmp_path / "stack.mrcs").read_bytes()
    (tmp_path / "stack.mrcs").write_bytes(raw[:-100])
    with pytest.raises(FormatError, match="truncated"):
        read_particles(path)


def test_a_folder_in_place_of_a_stack_is_refused(project, tmp_path):
    (tmp_path / "folder.mrcs").mkdir()
    with pytest.raises(FormatError, match="is a folder"):
        read_particles(project(set_column("rlnImageName", ["1@folder.mrcs"] * 6)))


def test_a_file_with_several_tables_must_say_which_holds_the_particles(tmp_path):
    table = StarTable.from_columns({"rlnX": [1]})
    write_star(tmp_path / "x.star", {"a": table, "b": table})
    with pytest.raises(FormatError, match="data_a, data_b"):
        read_particles(tmp_path / "x.star")


@pytest.mark.data
def test_optics_of_the_shared_files(shared_data):
    stacks = shared_data / "stacks"
    mixed = read_particles(stacks / "aspire_sample" / "sample_particles_relion31.star")
    old = read_particles(stacks / "aspire_sample" / "sample_particles_relion30.star")
    assert sorted(set(mixed.ctf.voltage_kv.tolist())) == [200, 300]
    assert torch.equal(mixed.ctf.voltage_kv, old.ctf.voltage_kv)
    assert torch.equal(mixed.images([16, 3]), old.images([16, 3]))
    # 5 µm over a magnification of 37,369.2 is 1.338 Å.
    np.testing.assert_allclose(old.pixel_size, 1.338, atol=1e-6)
    single = read_particles(stacks / "cryodrgn_tests" / "empiar_10076_7.star")
    assert (len(single), single.box_size, single.pose) == (7, 320, None)


@pytest.mark.data
def test_poses_of_a_star_and_of_its_pickle_are_the_same(shared_data):
    from cryoatlas.particles.sources import read_poses

    folder = shared_data / "stacks" / "tomodrgn_10076_classDE"
    star = read_particles(folder / "10076_classD_32_sim.star", datadir=folder)
    pickle = read_poses(folder / "pose_classD.pkl", box_size=32, pixel_size=13.1)
    # The pickle holds float32 fractions of the box of 419 Å.
    torch.testing.assert_close(star.pose.rotation, pickle.rotation, atol=2e-6, rtol=0)
    torch.testing.assert_close(star.pose.shift, pickle.shift, atol=1e-4, rtol=0)
