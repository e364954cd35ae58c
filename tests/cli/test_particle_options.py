"""The options of particles as a user types them: every way in gives the same reconstruction."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.cli import app
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.recipes.run import open_run


@pytest.fixture(scope="module")
def particles(tmp_path_factory) -> ParticleSet:
    """48 images of 16 px with poses and CTF."""
    folder = tmp_path_factory.mktemp("set") / "set"
    simulate(SimulationConfig("homogeneous", images=48, box=16, snr=5.0, seed=0, ctf=True), folder)
    return read_particles(folder / "truth" / "particles.star")


@pytest.fixture
def other_forms(particles, tmp_path) -> dict[str, list[object]]:
    """The same particles in the words of other programs: what stands after the verb."""
    assert particles.pose is not None
    assert particles.ctf is not None
    stack, width = particles.stacks[0].path, particles.box_size * particles.pixel_size[:, None]
    rotation, origin = particles.pose.rotation.numpy(), -particles.pose.shift
    ctf = particles.ctf
    values = [
        torch.full_like(particles.pixel_size, particles.box_size),
        particles.pixel_size,
        ctf.defocus_u,
        ctf.defocus_v,
        torch.rad2deg(ctf.defocus_angle),
        ctf.voltage_kv,
        ctf.spherical_aberration_mm,
        ctf.amplitude_contrast,
        torch.rad2deg(ctf.phase_shift),
    ]
    columns = [value.numpy() for value in values]
    pose_file, ctf_file, stack_list = tmp_path / "poses.pkl", tmp_path / "ctf.pkl", tmp_path / "list.txt"
    pose_file.write_bytes(pickle.dumps((rotation, (origin / width).numpy())))
    ctf_file.write_bytes(pickle.dumps(np.stack(columns, -1)))
    stack_list.write_text(f"{stack.name}\n")
    kinds = {
        "uid": "<u8",
        "blob/path": "S200",
        "blob/idx": "<u4",
        "blob/shape": "(2,)<u4",
        "blob/sign": "<f4",
    }
    numbers = ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast", "phase_shift_rad")
    kinds |= dict.fromkeys(
        (*(f"ctf/{name}" for name in numbers), "blob/psize_A", "alignments3D/psize_A"), "<f8"
    )
    kinds |= {"alignments3D/pose": "(3,)<f8", "alignments3D/shift": "(2,)<f8"}
    table = np.zeros(len(particles), list(kinds.items()))
    table["uid"] = table["blob/idx"] = np.arange(len(particles))
    table["blob/path"], table["blob/shape"], table["blob/sign"] = str(stack).encode(), particles.box_size, -1
    table["blob/psize_A"] = table["alignments3D/psize_A"] = columns[1]
    for name, values in zip(numbers, columns[2:], strict=True):
        table[f"ctf/{name}"] = np.deg2rad(values) if name == "df_angle_rad" else values
    table["alignments3D/pose"] = Rotation.from_matrix(rotation).inv().as_rotvec()
    table["alignments3D/shift"] = (origin / particles.pixel_size[:, None]).numpy()
    poses = [name for name in kinds if name.startswith("align")]
    save(tmp_path / "main.cs", table[["uid", *poses]])
    save(tmp_path / "passthrough.cs", table[[name for name in kinds if name not in poses]][::-1])
    with_pickles = ["--poses", pose_file, "--ctf", ctf_file]
    return {
        "stack": [stack, *with_pickles],
        "list": [stack_list, "--datadir", stack.parent, *with_pickles],
        "cs": [tmp_path / "main.cs", "--passthrough", tmp_path / "passthrough.cs", "--no-invert"],
    }


def save(path: Path, table: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, table)


def type_in(*words: object) -> int:
    """Exit status of ``cryoatlas WORDS``."""
    return app.run([str(word) for word in words])


def reconstructed(out: Path, *words: object) -> np.ndarray:
    assert type_in("backproject", *words, "--out", out) == 0
    return read_volume(out / "map.mrc").array


@pytest.mark.parametrize("form", ["stack", "list", "cs"])
def test_every_way_in_gives_the_map_of_the_star_file(particles, other_forms, tmp_path, form):
    expected = reconstructed(tmp_path / "star", particles.path)
    found = reconstructed(tmp_path / form, *other_forms[form])
    # Angles go through other words; the map is of float32.
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_sign_of_a_cs_file_counts_unless_contradicted(other_forms, tmp_path, capsys):
    as_they_are = reconstructed(tmp_path / "plain", *other_forms["cs"])
    inverted = reconstructed(tmp_path / "inverted", *other_forms["cs"][:-1])
    np.testing.assert_allclose(inverted, -as_they_are, atol=1e-4 * np.abs(as_they_are).max())
    assert "says that its particles are dark: images are multiplied by −1" in capsys.readouterr().err


def test_indices_take_some_particles(particles, tmp_path):
    (tmp_path / "some.csv").write_text("index\n" + "\n".join(map(str, range(0, 48, 2))))
    some = reconstructed(tmp_path / "some", particles.path, "--indices", tmp_path / "some.csv")
    assert np.abs(some).max() > 0
    assert type_in("info", particles.path, "--indices", tmp_path / "some.csv") == 0
    (tmp_path / "some.csv").write_text("48\n")
    assert type_in("info", particles.path, "--indices", tmp_path / "some.csv") == 1
    assert (
        type_in("backproject", particles.path, "--indices", tmp_path / "some.csv", "--out", tmp_path / "x")
        == 2
    )


def test_a_run_on_other_forms_keeps_its_particles_and_notices_other_files(other_forms, tmp_path, capsys):
    words = [
        "train",
        *other_forms["stack"],
        "--latent",
        1,
        "--recipe",
        "network",
        "--epochs",
        1,
        "--width",
        8,
        "--out",
        tmp_path / "run",
    ]
    assert type_in(*words) == 0
    run = open_run(tmp_path / "run")
    assert run.particles.pose is not None
    assert run.particles.ctf is not None
    assert run.config["input"]["poses"].endswith("poses.pkl")
    assert type_in(*words, "--resume") == 0
    poses = tmp_path / "poses.pkl"
    rotations, shifts = pickle.loads(poses.read_bytes())
    poses.write_bytes(pickle.dumps((rotations[::-1], shifts)))
    assert type_in(*words, "--resume") == 2
    assert "poses_sha256" in capsys.readouterr().err


def test_cryosparc_runs_keep_the_sign_they_were_trained_with(other_forms, tmp_path):
    words = [
        "train",
        *other_forms["cs"][:-1],
        "--latent",
        0,
        "--out",
        tmp_path / "run",
    ]
    assert type_in(*words) == 0
    particles = open_run(tmp_path / "run").particles
    assert particles.sign == -1
    assert particles.tables.particles.text("cryoatlasUid").tolist() == [str(uid) for uid in range(48)]


def test_passthrough_files_go_with_cs_files_alone(particles, capsys, tmp_path):
    words = [
        "backproject",
        particles.path,
        "--passthrough",
        "a.cs",
        "--passthrough",
        "b.cs",
        "--out",
        tmp_path / "x",
    ]
    assert type_in(*words) == 2
    assert "--passthrough goes with a .cs file" in capsys.readouterr().err
