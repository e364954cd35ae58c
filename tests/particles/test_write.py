"""Particles written back: the user's rows in their order, every value as it was, but for what is asked."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoatlas.errors import OutputError
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.io.star import read_star
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.write import write_particles

from .small_project import COUNT


def some_pose(seed: int = 5) -> Pose:
    rng = np.random.default_rng(seed)
    return Pose(random_rotations(COUNT, rng), torch.from_numpy(rng.uniform(-5, 5, (COUNT, 2))))


def test_nothing_but_image_names_changes_unless_asked(project, tmp_path):
    path = project()
    (tmp_path / "run").mkdir()
    write_particles(tmp_path / "run" / "particles.star", read_particles(path))
    before, after = read_star(path), read_star(tmp_path / "run" / "particles.star")
    assert list(after) == list(before)
    for name in before["particles"].names:
        old, new = (tables["particles"].columns[name].tolist() for tables in (before, after))
        if name == "rlnImageName":
            assert new == [f"{number:06d}@../stack.mrcs" for number in range(1, COUNT + 1)]
        else:
            assert new == old
    for name in before["optics"].names:
        assert after["optics"].columns[name].tolist() == before["optics"].columns[name].tolist()


def test_written_particles_are_found_again_from_their_new_folder(project, tmp_path):
    particles = read_particles(project())
    (tmp_path / "deep" / "run").mkdir(parents=True)
    write_particles(tmp_path / "deep" / "run" / "x.star", particles[[3, 0]])
    again = read_particles(tmp_path / "deep" / "run" / "x.star")
    assert torch.equal(again.images([0, 1]), particles.images([3, 0]))


def test_image_names_can_be_kept_for_the_users_own_project(project, tmp_path):
    path = project()
    write_particles(tmp_path / "x.star", read_particles(path), keep_image_names=True)
    names = [
        read_star(file)["particles"].columns["rlnImageName"].tolist() for file in (path, tmp_path / "x.star")
    ]
    assert names[0] == names[1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=2 * COUNT))
def test_any_selection_is_written_in_its_order(project, tmp_path, order):
    particles = read_particles(project())
    write_particles(tmp_path / "x.star", particles[order])
    again = read_particles(tmp_path / "x.star")
    assert torch.equal(again.images(range(len(order))), particles.images(order))
    assert torch.equal(again.pose.rotation, particles.pose.rotation[order])


@pytest.mark.parametrize("kind", ["project", "old_project"])
def test_new_poses_come_back_as_they_were_given(kind, request, tmp_path):
    particles = read_particles(request.getfixturevalue(kind)())
    pose = some_pose()
    write_particles(tmp_path / "x.star", particles, pose=pose)
    again = read_particles(tmp_path / "x.star").pose
    # Through angles in degrees and, for RELION 3.0, through pixels: a few roundings.
    torch.testing.assert_close(again.rotation, pose.rotation, atol=1e-12, rtol=0)
    torch.testing.assert_close(again.shift, pose.shift, atol=1e-12, rtol=0)
    names = read_star(tmp_path / "x.star")
    written = next(table for name, table in names.items() if name != "optics").names
    assert ("rlnOriginXAngst" in written) == (kind == "project")
    assert ("rlnOriginX" in written) == (kind == "old_project")


def test_poses_in_single_precision_are_written(project, tmp_path):
    pose = some_pose().to(torch.float32)
    write_particles(tmp_path / "x.star", read_particles(project()), pose=pose)
    again = read_particles(tmp_path / "x.star").pose
    torch.testing.assert_close(again.shift, pose.shift.double(), atol=0, rtol=0)


def test_columns_are_added(project, tmp_path):
    latent = np.random.default_rng(0).standard_normal((COUNT, 2))
    columns = {"caLatent1": latent[:, 0], "caLatent2": latent[:, 1], "caClass": ["a b"] * COUNT}
    write_particles(tmp_path / "x.star", read_particles(project()), extra_columns=columns)
    table = read_star(tmp_path / "x.star")["particles"]
    assert table.names[-3:] == list(columns)
    np.testing.assert_array_equal(table.number("caLatent2"), latent[:, 1])
    assert table.text("caClass").tolist() == ["a b"] * COUNT


def test_an_output_that_cannot_be_written_leaves_nothing(project, tmp_path):
    with pytest.raises(OutputError):
        write_particles(tmp_path / "nowhere" / "x.star", read_particles(project()))


@pytest.mark.data
def test_a_shared_file_survives_the_way_through_a_run_folder(shared_data, tmp_path):
    folder = shared_data / "stacks" / "aspire_sample"
    for name in ("sample_particles_relion30.star", "sample_particles_relion31.star"):
        particles = read_particles(folder / name)
        write_particles(tmp_path / name, particles)
        again = read_particles(tmp_path / name)
        assert torch.equal(again.images([16, 2]), particles.images([16, 2]))
        assert torch.equal(again.pose.rotation, particles.pose.rotation)
        kept = [column for column in particles.tables.particles.names if column != "rlnImageName"]
        for column in kept:
            old, new = particles.tables.particles.columns[column], again.tables.particles.columns[column]
            assert old.tolist() == new.tolist()
