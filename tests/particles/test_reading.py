"""Stacks without star file, and poses and CTF from files of their own, give the particles of the star."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.errors import ConfigError, FormatError, ImageDataError, InputError, MetadataError
from cryoatlas.io.mrc import write_volume
from cryoatlas.io.star import read_star, write_star
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.write import write_particles

from .small_cryosparc import UID, cs_columns, write_cs, write_cs_project
from .small_project import BOX, COUNT, PIXEL_SIZE, noise_images, optics_columns, particle_columns, write_stack


def ctf_table(box: int = BOX) -> np.ndarray:
    """A ctf.pkl of the small project, as of images of another box."""
    star, optics = particle_columns(), optics_columns()
    group = np.array(star["rlnOpticsGroup"]) - 1
    shared = {name: np.array(values)[group] for name, values in optics.items()}
    columns = [
        np.full(COUNT, box),
        shared["rlnImagePixelSize"] * BOX / box,
        *(star[f"rlnDefocus{name}"] for name in ("U", "V", "Angle")),
        shared["rlnVoltage"],
        shared["rlnSphericalAberration"],
        shared["rlnAmplitudeContrast"],
        star["rlnPhaseShift"],
    ]
    return np.stack(columns, -1)


def poses() -> tuple[np.ndarray, np.ndarray]:
    """A poses.pkl of the small project: matrices, and origins as fractions of the box."""
    star = particle_columns()
    angles = np.stack([star[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")], -1)
    rotations = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    width = BOX * ctf_table()[:, 1]
    return rotations, np.stack([star["rlnOriginXAngst"], star["rlnOriginYAngst"]], -1) / width[:, None]


def dump(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def assert_same_particles(ours: ParticleSet, theirs: ParticleSet) -> None:
    assert len(ours) == len(theirs)
    assert ours.pose is not None
    assert theirs.pose is not None
    assert ours.ctf is not None
    assert theirs.ctf is not None
    torch.testing.assert_close(ours.pixel_size, theirs.pixel_size, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.pose.rotation, theirs.pose.rotation, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.pose.shift, theirs.pose.shift, rtol=0, atol=1e-12)
    for name, values in vars(ours.ctf).items():
        torch.testing.assert_close(values, getattr(theirs.ctf, name), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.images(slice(None)), theirs.images(slice(None)), rtol=0, atol=0)


def test_a_bare_stack_with_pickles_is_the_star_file(project, tmp_path):
    star = read_particles(project())
    files: dict[str, Any] = {
        "poses": dump(tmp_path / "p.pkl", poses()),
        "ctf": dump(tmp_path / "c.pkl", ctf_table()),
    }
    assert_same_particles(read_particles(tmp_path / "stack.mrcs", **files), star)


def test_a_bare_stack_with_a_star_file_is_the_star_file(project, old_project, tmp_path):
    star = read_particles(project())
    for path in (project(), old_project()):
        assert_same_particles(read_particles(tmp_path / "stack.mrcs", poses=path, ctf=path), star)


def test_poses_and_ctf_of_a_cs_file_go_with_stacks_and_stars(project, tmp_path):
    cs = read_particles(write_cs_project(tmp_path / "P1"), invert=False)
    for path in (project(), tmp_path / "stack.mrcs"):
        joined = read_particles(path, poses=cs.path, ctf=cs.path)
        assert_same_particles(joined, cs)


@pytest.mark.parametrize("box", [4, 8, 9, 256])
def test_a_shift_of_some_pixels_is_that_many_pixels_for_every_box_of_the_ctf_table(project, tmp_path, box):
    # The table is of the same images before or after binning: their width in Å is what stays.
    star = read_particles(project())
    files: dict[str, Any] = {
        "poses": dump(tmp_path / "p.pkl", poses()),
        "ctf": dump(tmp_path / "c.pkl", ctf_table(box)),
    }
    particles = read_particles(tmp_path / "stack.mrcs", **files)
    assert_same_particles(particles, star)


@pytest.mark.parametrize("box", [7, 8, 128])
def test_a_shift_of_three_pixels_is_three_pixels_for_every_box(tmp_path, box):
    stack = write_stack(tmp_path / "stack.mrcs", noise_images(2, box))
    fractions = np.array([[3, -2], [0, 1]]) / box
    path = dump(tmp_path / "p.pkl", (np.stack([np.eye(3)] * 2), fractions))
    pose = read_particles(stack, poses=path).require_pose()
    expected = torch.tensor([[-3, 2], [0, -1]], dtype=torch.float64) * PIXEL_SIZE
    torch.testing.assert_close(pose.shift, expected, rtol=1e-12, atol=0)


def test_a_list_of_stacks_has_their_images_in_its_order(tmp_path):
    pixels = noise_images(5)
    write_stack(tmp_path / "sub" / "b.mrcs", pixels[:2])
    write_stack(tmp_path / "a.mrc", pixels[2:])
    (tmp_path / "list.txt").write_text("# first these\nsub/b.mrcs\n\na.mrc\n")
    particles = read_particles(tmp_path / "list.txt")
    torch.testing.assert_close(particles.images(slice(None)), torch.from_numpy(pixels), rtol=0, atol=0)
    assert particles.pixel_size.tolist() == [PIXEL_SIZE] * 5
    assert particles.tables.particles.row_name(2) == f"row 3 of {tmp_path / 'list.txt'}"


def test_stacks_of_a_list_are_sought_in_the_datadir_first(tmp_path):
    write_stack(tmp_path / "a.mrcs", noise_images(2, seed=1))
    write_stack(tmp_path / "data" / "a.mrcs", noise_images(3, seed=2))
    (tmp_path / "list.txt").write_text("a.mrcs\n")
    assert len(read_particles(tmp_path / "list.txt")) == 2
    assert len(read_particles(tmp_path / "list.txt", datadir=tmp_path / "data")) == 3
    (tmp_path / "list.txt").write_text("b.mrcs\n")
    with pytest.raises(InputError, match=r"1 of 1 image stacks named in .*list\.txt are not there"):
        read_particles(tmp_path / "list.txt")


def test_the_pixel_size_of_bare_stacks_comes_from_the_first_file_that_has_one(project, tmp_path, caplog):
    caplog.set_level(logging.INFO, "cryoatlas")
    path = project()
    stack = tmp_path / "stack.mrcs"
    assert read_particles(stack, poses=path).pixel_size.tolist() == [PIXEL_SIZE, 2 * PIXEL_SIZE] * 3
    double = ctf_table() * [1, 2, 1, 1, 1, 1, 1, 1, 1]
    of_ctf = read_particles(stack, ctf=dump(tmp_path / "c.pkl", double), poses=path)
    assert of_ctf.pixel_size.tolist() == [2 * PIXEL_SIZE, 4 * PIXEL_SIZE] * 3
    assert "from the header" not in caplog.text
    assert read_particles(stack).pixel_size.tolist() == [PIXEL_SIZE] * COUNT
    assert "pixel size 2.5 Å, from the header of the stack" in caplog.text


def test_without_any_pixel_size_bare_stacks_are_refused(tmp_path):
    stack = write_stack(tmp_path / "stack.mrcs", noise_images())
    content = bytearray(stack.read_bytes())
    content[40:52] = bytes(12)  # the cell, from which the pixel size follows
    stack.write_bytes(content)
    with pytest.raises(MetadataError, match=r"pixel size .* is not known.*--ctf"):
        read_particles(stack)


def test_ctf_from_another_file_replaces_all_of_the_ctf_and_no_pixel_size(project, old_project, tmp_path):
    def decaying(columns: dict) -> None:
        columns["rlnCtfBfactor"] = [50.0] * COUNT

    other = ctf_table()
    other[:, 5] = 120  # kV
    path = dump(tmp_path / "c.pkl", other)
    for write in (project, old_project):
        particles = read_particles(write(decaying), ctf=path)
        assert particles.ctf is not None
        assert particles.ctf.voltage_kv.tolist() == [120] * COUNT
        assert particles.ctf.b_factor.tolist() == [0] * COUNT
        assert particles.pixel_size.tolist() == [PIXEL_SIZE, 2 * PIXEL_SIZE] * 3
    tables = read_particles(project(), ctf=path).tables
    assert tables.optics is not None
    assert tables.optics.text("rlnOpticsGroupName").tolist() == ["first", "second"]
    assert not tables.particles.has("rlnVoltage")
    assert tables.particles.text("rlnMicrographName").tolist() == ["a b.mrc"] * COUNT


def test_what_was_joined_is_written_and_reads_as_the_same(project, tmp_path):
    files: dict[str, Any] = {
        "poses": dump(tmp_path / "p.pkl", poses()),
        "ctf": dump(tmp_path / "c.pkl", ctf_table()),
    }
    project()
    particles = read_particles(tmp_path / "stack.mrcs", **files)
    write_particles(tmp_path / "out.star", particles)
    assert set(read_star(tmp_path / "out.star")) == {"optics", "particles"}
    assert_same_particles(read_particles(tmp_path / "out.star"), particles)


def test_indices_take_particles_with_their_poses_and_ctf(project, tmp_path):
    star = read_particles(project())
    chosen = dump(tmp_path / "ind.pkl", np.array([4, 0, 5]))
    files: dict[str, Any] = {
        "poses": dump(tmp_path / "p.pkl", poses()),
        "ctf": dump(tmp_path / "c.pkl", ctf_table()),
    }
    ways: list[tuple[Path, dict[str, Any]]] = [(star.path, {}), (tmp_path / "stack.mrcs", files)]
    for path, others in ways:
        some = read_particles(path, indices=chosen, **others)
        assert_same_particles(some, star[[4, 0, 5]])
        assert some.tables.particles.row_name(1).startswith("row 1 of ")


def test_particles_of_cryosparc_are_joined_by_uid_whatever_the_order(tmp_path):
    path = write_cs_project(tmp_path / "P1")
    turned = np.array([5, 3, 1, 0, 2, 4])
    columns = {name: values[turned] for name, values in cs_columns().items()}
    other = write_cs(tmp_path / "other.cs", columns)
    plain = read_particles(path)
    assert_same_particles(read_particles(path, poses=other, ctf=other), plain)
    columns["uid"] = np.concatenate([[np.uint64(1)], UID[turned][1:]])
    with pytest.raises(MetadataError, match=rf"1 of 6 particles .* the first with uid {UID[5]}"):
        read_particles(path, poses=write_cs(tmp_path / "other.cs", columns))


def test_counts_that_differ_are_refused_with_both(project, tmp_path):
    project()
    rotations, shifts = poses()
    short = dump(tmp_path / "p.pkl", (rotations[:4], shifts[:4]))
    with pytest.raises(MetadataError, match=r"poses of 4 particles, but .*stack\.mrcs lists 6"):
        read_particles(tmp_path / "stack.mrcs", poses=short)
    with pytest.raises(MetadataError, match=r"CTF parameters of 5 particles, but .*particles\.star lists 6"):
        read_particles(tmp_path / "particles.star", ctf=dump(tmp_path / "c.pkl", ctf_table()[:5]))


def test_the_same_images_in_another_order_are_refused(project, tmp_path):
    path = project()
    tables = read_star(path)
    turned = {**tables, "particles": tables["particles"].select(np.array([0, 2, 1, 3, 4, 5]))}
    write_star(tmp_path / "turned.star", turned)
    with pytest.raises(
        MetadataError, match=r"the same images .* in another order, the first other one in row 2"
    ):
        read_particles(path, poses=tmp_path / "turned.star")


def test_files_that_do_not_belong_together_are_refused(project, tmp_path):
    path = project()
    other = dump(tmp_path / "c.pkl", ctf_table() * [1, 3, 1, 1, 1, 1, 1, 1, 1])
    with pytest.raises(MetadataError, match=r"60 Å wide .* is 20 Å wide"):
        read_particles(path, ctf=other)
    with pytest.raises(MetadataError, match=r"c\.pkl holds"):
        read_particles(path, poses=other)
    with pytest.raises(ConfigError, match=r"--passthrough goes with a \.cs file"):
        read_particles(path, passthrough=[path])
    with pytest.raises(FormatError, match="holds no images"):
        read_particles(other)
    plain = tmp_path / "plain.star"
    columns = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    tables = read_star(path)
    write_star(plain, {**tables, "particles": tables["particles"].without_columns(*columns)})
    with pytest.raises(MetadataError, match="has no poses"):
        read_particles(path, poses=plain)
    with pytest.raises(MetadataError, match="has no CTF: it lacks rlnDefocusU"):
        read_particles(path, ctf=plain)


def test_volumes_and_lists_of_other_things_are_refused(tmp_path):
    write_volume(tmp_path / "map.mrc", np.zeros((8, 8, 8), np.float32), pixel_size=2.0)
    with pytest.raises(ImageDataError, match="is a volume of 8³ voxels"):
        read_particles(tmp_path / "map.mrc")
    (tmp_path / "list.txt").write_text("map.mrc\n")
    with pytest.raises(ImageDataError, match="is a volume"):
        read_particles(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(FormatError, match="lists no stack"):
        read_particles(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.mrcs\n17\n")
    with pytest.raises(FormatError, match=r"line 2 of .* is '17'"):
        read_particles(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="no text file"):
        read_particles(tmp_path / "list.txt")
    with pytest.raises(InputError, match="there is no file"):
        read_particles(tmp_path / "missing.mrcs")


def test_what_was_done_to_bare_images_is_in_the_file_of_their_ctf(project, tmp_path):
    def premultiply(optics: dict) -> None:
        optics["rlnCtfDataAreCtfPremultiplied"] = [1, 0]

    marked = project(optics=premultiply).rename(tmp_path / "marked.star")
    bare = read_particles(tmp_path / "stack.mrcs", ctf=marked, poses=marked)
    alone = read_particles(marked)
    assert bare.applied_ctf is not None
    assert alone.applied_ctf is not None
    assert torch.equal(bare.applied_ctf, alone.applied_ctf)
    # A star file speaks for its own images.
    assert read_particles(project(), ctf=marked).applied_ctf is None
