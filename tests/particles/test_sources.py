"""CTF parameters and poses from files without images."""

import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.errors import ConfigError, MetadataError
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.sources import read_ctf, read_poses

CTF_ROW = [256, 1.6375, 15000.0, 14000.0, 30.0, 300.0, 2.7, 0.07, 90.0]


@pytest.mark.parametrize("kind", ["project", "old_project"])
def test_a_star_gives_what_its_particles_have_even_without_stacks(kind, request, tmp_path):
    path = request.getfixturevalue(kind)()
    particles = read_particles(path)
    (tmp_path / "stack.mrcs").unlink()
    assert torch.equal(read_ctf(path).defocus_angle, particles.ctf.defocus_angle)
    assert torch.equal(read_poses(path).rotation, particles.pose.rotation)
    assert torch.equal(read_poses(path).shift, particles.pose.shift)


def test_a_ctf_pickle_is_read_column_by_column(tmp_path):
    path = tmp_path / "ctf.pkl"
    path.write_bytes(pickle.dumps(np.array([CTF_ROW] * 3)))
    ctf = read_ctf(path)
    assert len(ctf) == 3
    values = (
        ctf.defocus_u,
        ctf.defocus_v,
        ctf.voltage_kv,
        ctf.spherical_aberration_mm,
        ctf.amplitude_contrast,
    )
    assert [float(value[2]) for value in values] == [15000, 14000, 300, 2.7, 0.07]
    np.testing.assert_allclose(ctf.defocus_angle, np.pi / 6, rtol=1e-15)
    np.testing.assert_allclose(ctf.phase_shift, np.pi / 2, rtol=1e-15)
    assert not ctf.b_factor.any()


def test_a_ctf_pickle_in_other_units_is_refused(tmp_path):
    path = tmp_path / "ctf.pkl"
    row = np.array([CTF_ROW])
    row[0, 5] = 300000
    path.write_bytes(pickle.dumps(row))
    with pytest.raises(MetadataError, match=r"row 1 of .*ctf.pkl .*divided by 1000"):
        read_ctf(path)


def test_a_pose_pickle_needs_the_box(tmp_path):
    path = tmp_path / "poses.pkl"
    rotations = Rotation.random(4, np.random.default_rng(0)).as_matrix()
    path.write_bytes(pickle.dumps((rotations, np.full((4, 2), 0.1))))
    with pytest.raises(ConfigError, match="give the box size"):
        read_poses(path)
    pose = read_poses(path, box_size=100, pixel_size=2.0)
    np.testing.assert_array_equal(pose.rotation, rotations)
    np.testing.assert_allclose(pose.shift, -20, rtol=1e-15)


def test_files_without_ctf_or_poses_say_so(tmp_path):
    write_star(tmp_path / "x.star", {"": StarTable.from_columns({"rlnPixelSize": [1.0, 1.0]})})
    with pytest.raises(MetadataError, match="no CTF: it lacks rlnDefocusU"):
        read_ctf(tmp_path / "x.star")
    with pytest.raises(MetadataError, match="no poses: it lacks rlnAngleRot"):
        read_poses(tmp_path / "x.star")


@pytest.mark.data
def test_the_shared_distributions_are_read(shared_data):
    dist = shared_data / "dist"
    ctf = read_ctf(dist / "empiar10076" / "ctf.pkl")
    assert len(ctf) == 131_899
    # The range that the data's description gives: 0.47 to 4.29 µm.
    assert float(ctf.defocus_u.min()) == pytest.approx(4700, abs=50)
    assert float(ctf.defocus_u.max()) == pytest.approx(42900, abs=50)
    pose = read_poses(dist / "empiar10076" / "poses.pkl", box_size=256, pixel_size=1.6375)
    assert len(pose) == 131_899
    assert len(read_poses(dist / "empiar10017_betagal_relion_images.star")) == 6496
    assert len(read_ctf(dist / "empiar10204_betagal_particles.star")) == 4501
