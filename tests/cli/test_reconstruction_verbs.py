"""``train``, ``backproject``, ``volumes`` and ``demo`` as a user types them, bad input included."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.recipes.small_search import small_subspace

import cryoatlas
from cryoatlas.cli import app
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.recipes.run import open_run

NETWORK = ("--recipe", "network")


@pytest.fixture(scope="module")
def star(tmp_path_factory) -> Path:
    """96 images of 16 px with poses."""
    folder = tmp_path_factory.mktemp("set") / "set"
    simulate(SimulationConfig("linear1d", images=96, box=16, snr=2.0, seed=0, states=3), folder)
    return folder / "truth" / "particles.star"


@pytest.fixture(scope="module")
def run_folder(star, tmp_path_factory) -> Path:
    """A run with a latent of two dimensions."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert type_in("train", star, "--latent", 2, *NETWORK, "--epochs", 1, "--width", 16, "--out", folder) == 0
    return folder


def type_in(*words: object) -> int:
    """Exit status of ``cryoatlas WORDS``."""
    return app.run([str(word) for word in words])


def test_backproject_writes_maps_and_their_fsc(star, tmp_path):
    out = tmp_path / "check"
    assert type_in("backproject", star, "--out", out) == 0
    assert {p.name for p in out.iterdir()} == {
        "map.mrc",
        "half_map_1.mrc",
        "half_map_2.mrc",
        "fsc.csv",
        "fsc.png",
        "view.cxc",
    }
    assert read_volume(out / "map.mrc").pixel_size == pytest.approx(12.0)
    table = np.loadtxt(out / "fsc.csv", delimiter=",", skiprows=1)
    assert table.shape == (9, 3)
    assert table[-1, 1] == pytest.approx(1 / 24.0, rel=1e-4)  # Nyquist of 12 Å pixels.


def test_written_maps_keep_the_axes_x_y_z_apart_and_alike(star, tmp_path):
    """Sections along z have means as sections along x and y do, and the axes are in the file's order."""
    assert type_in("backproject", star, "--out", tmp_path / "out") == 0
    written = read_volume(tmp_path / "out" / "map.mrc").array
    truth = np.mean([read_volume(path).array for path in (star.parent / "volumes").glob("*.mrc")], axis=0)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        means, expected = written.mean(others), truth.mean(others)
        # The images are noisy and 96; a lost axis would give 0, two swapped ones less than half of this.
        assert np.corrcoef(means, expected)[0, 1] > 0.9
        assert np.ptp(means) > 0.5 * np.ptp(expected)


def test_decoded_maps_have_all_their_sections(run_folder, tmp_path):
    """No axis of a decoded volume is empty: it is not a stack of slices that each lost their mean."""
    assert type_in("volumes", run_folder, "--out", tmp_path / "maps", "--particles", "0,50") == 0
    for path in (tmp_path / "maps").glob("*.mrc"):
        volume = read_volume(path).array
        spread = [np.ptp(volume.mean(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        # The body is longer along one axis than along another, by less than three times.
        assert min(spread) > max(spread) / 3


def contour_levels(folder: Path) -> list[float]:
    """Levels that the ChimeraX script of a folder gives, after checking that it opens what is there."""
    lines = (folder / "view.cxc").read_text().splitlines()
    opened = [line.removeprefix("open ") for line in lines if line.startswith("open ")]
    assert sorted(opened) == sorted(path.name for path in folder.glob("*.mrc"))
    return [float(line.split("level ")[1]) for line in lines if " level " in line and line[0] != "#"]


def test_the_script_for_chimerax_shows_every_map_at_a_level_it_has(star, run_folder, tmp_path):
    assert type_in("volumes", run_folder, "--out", tmp_path / "maps", "--kmeans", 3) == 0
    assert type_in("backproject", star, "--out", tmp_path / "back") == 0
    for folder in (tmp_path / "maps", tmp_path / "back"):
        (level,) = contour_levels(folder)
        for path in folder.glob("*.mrc"):
            inside = (read_volume(path).array > level).mean()
            assert 0 < inside < 0.3


def test_a_folder_in_use_is_refused_before_the_work(star, tmp_path, capsys, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("cryoatlas.recipes.backprojection.backproject_particles", None)
    assert type_in("backproject", star, "--out", tmp_path) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (("--particles", "0,10,20"), 3),
        (("--latent", "0.1,-0.2"), 1),
        (("--latent=0.1,-0.2", "--latent=0,0"), 2),
        (("--kmeans", 4), 4),
        (("--pc", 2, "--points", 5), 5),
    ],
)
def test_volumes_are_numbered_and_their_latents_listed(run_folder, tmp_path, choice, count):
    out = tmp_path / "maps"
    assert type_in("volumes", run_folder, "--out", out, *choice) == 0
    assert sorted(p.name for p in out.glob("*.mrc")) == [f"vol_{i:06d}.mrc" for i in range(count)]
    listed = np.loadtxt(out / "volumes.csv", delimiter=",", skiprows=1, usecols=(1, 2), ndmin=2)
    run = open_run(run_folder)
    last = read_volume(out / f"vol_{count - 1:06d}.mrc").array
    np.testing.assert_allclose(last, run.volume(np.float32(listed[-1])), atol=1e-4 * np.abs(last).max())


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ((), "exactly one of"),
        (("--kmeans", 3, "--pc", 1), "exactly one of"),
        (("--particles", "0,96"), "96 is not among the particles 0 … 95"),
        (("--particles", "first"), "numbers from 0"),
        (("--latent", "0.1"), "has 1 coordinates, but the latent of this run has 2"),
        (("--latent", "a,b"), "numbers separated by commas"),
        (("--pc", 3), "between 1 and the latent's dimension 2"),
        (("--kmeans", 0), "between 1 and the 96 particles"),
    ],
)
def test_volumes_that_cannot_be_made_are_refused(run_folder, tmp_path, capsys, choice, words):
    assert type_in("volumes", run_folder, "--out", tmp_path / "maps", *choice) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def test_a_single_volume_needs_no_choice(star, tmp_path, capsys):
    assert type_in("train", star, "--latent", 0, "--out", tmp_path / "run") == 0
    assert (tmp_path / "run/volumes/class_001_half_2.mrc").exists()
    assert type_in("analyze", tmp_path / "run") == 0
    assert (tmp_path / "run/report.html").exists()
    assert type_in("volumes", tmp_path / "run", "--out", tmp_path / "maps") == 0
    assert (tmp_path / "maps/vol_000000.mrc").exists()
    capsys.readouterr()
    assert type_in("volumes", tmp_path / "run", "--out", tmp_path / "more", "--kmeans", 2) == 2
    assert "single volume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--latent", -1), "latent must be 0 or more"),
        (("--latent", 1, *NETWORK, "--epochs", 0), "epochs must be 1 or more"),
        (("--latent", 1, "--epochs", 1), "epochs must be 2 or more"),
        (("--latent", 1, *NETWORK, "--width", 0), "width ≥ 1"),
        (
            ("--latent", 1, "--width", 8),
            "--width has no meaning for --recipe default: leave it out, or add --recipe network",
        ),
        (("--latent", 0, "--components", 3), "--components has no meaning for --recipe default"),
        (("--latent", 1, "--device", "cuda:99"), "CUDA devices"),
    ],
)
def test_training_options_out_of_range_leave_no_folder(star, tmp_path, capsys, words, message):
    assert type_in("train", star, *words, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_noise_and_contrast_are_as_typed(star, tmp_path):
    words = ("--latent", 0, *NETWORK, "--epochs", 1, "--width", 8, "--noise", "white", "--no-contrast")
    assert type_in("train", star, "--out", tmp_path / "run", *words) == 0
    stored = open_run(tmp_path / "run").config["train"]
    assert (stored["noise"], stored["contrast"]) == ("white", False)
    assert (open_run(tmp_path / "run").contrasts() == 1).all()


def test_a_star_without_poses_is_refused_with_the_columns_it_lacks(star, tmp_path, capsys):
    bare = star.parents[1] / "particles.star"
    for verb in (("train", "--latent", 1), ("backproject",)):
        assert type_in(verb[0], bare, *verb[1:], "--out", tmp_path / "out") == 2
        assert "rlnAngleRot" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_an_image_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, capsys):
    simulate(SimulationConfig("homogeneous", images=40, box=16, seed=0), tmp_path / "set")
    stack = tmp_path / "set/particles.mrcs"
    data = bytearray(stack.read_bytes())
    data[1024 + 7 * 1024 : 1024 + 7 * 1024 + 4] = np.float32(np.nan).tobytes()
    stack.write_bytes(data)
    star = tmp_path / "set/truth/particles.star"
    assert type_in("backproject", star, "--out", tmp_path / "out") == 2
    assert "row 8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_explained_and_leaves_nothing(star, tmp_path, capsys, monkeypatch):
    """The disk fills up when the first file is to be put in place."""

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cryoatlas.io.output.os.replace", no_space)
    assert type_in("backproject", star, "--out", tmp_path / "out") == 2
    assert "disk is full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def interrupted_when(command: list[str], log: Path, reached: str) -> tuple[int, str]:
    """Start a command, press Ctrl-C once its log says `reached`; its exit status and messages."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if log.exists() and reached in log.read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_the_run_goes_on_from_there(star, tmp_path):
    words = [
        "train",
        star,
        "--latent",
        1,
        *NETWORK,
        "--epochs",
        5000,
        "--width",
        16,
        "--out",
        tmp_path / "run",
    ]
    command = [sys.executable, "-m", "cryoatlas", *map(str, words)]
    log = tmp_path / "run/log.jsonl"
    status, messages = interrupted_when(command, log, '"epoch", "epoch": 1')
    assert status == 130
    assert "--resume" in messages
    epochs = len(log.read_text().splitlines()) - 2  # Without the consensus and the start.
    next_epoch = f'"start", "epoch": {epochs}'
    status, _ = interrupted_when([*command, "--resume"], log, next_epoch)
    assert status == 130
    assert next_epoch in log.read_text()


@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_a_report(tmp_path, capsys, monkeypatch):
    # The real one's first maps take minutes; these take a few steps.
    monkeypatch.setattr("cryoatlas.cli.abinit.abinit_recipe", lambda *_, **__: small_subspace())
    monkeypatch.setattr("cryoatlas.cli.demo.SCORED_VOLUMES", 4)
    assert type_in("demo", "--out", tmp_path / "demo", "--images", 100, "--box", 16) == 0
    report = tmp_path / "demo/run/report.html"
    assert report.stat().st_size > 10_000
    assert str(report) in capsys.readouterr().err.splitlines()[-1]


def test_the_story_in_python(star, tmp_path):
    particles = cryoatlas.read_particles(star)
    options = dataclasses.replace(cryoatlas.recipes.network(latent=2), epochs=1)
    run = cryoatlas.train(particles, options, out=tmp_path / "run")
    z = run.latents()
    cryoatlas.write_mrc(tmp_path / "state.mrc", run.volume(z[0]), pixel_size=run.pixel_size)
    assert z.shape == (len(particles), 2)
    assert cryoatlas.read_volume(tmp_path / "state.mrc").pixel_size == pytest.approx(12.0)
