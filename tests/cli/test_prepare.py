"""``cryoatlas prepare`` as a user types it, bad input and interruption included."""

from pathlib import Path

import numpy as np
import pytest

from cryoatlas.cli import app
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import StackWriter
from cryoatlas.io.star import StarTable, read_star, write_star
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes import prepare as recipe


def type_in(*words: object) -> int:
    """Exit status of ``cryoatlas WORDS``."""
    return app.run([str(word) for word in words])


@pytest.fixture(scope="module")
def star(tmp_path_factory) -> Path:
    """50 images of 16 px with CTF."""
    folder = tmp_path_factory.mktemp("set") / "set"
    simulate(SimulationConfig("homogeneous", images=50, box=16, snr=1.0, ctf=True), folder)
    return folder / "particles.star"


def test_prepare_writes_a_star_file_that_every_verb_reads(star, tmp_path, capsys):
    out = tmp_path / "small"
    assert type_in("prepare", star, "--out", out, "--box", 8, "--phase-flip", "--dtype", "float32") == 0
    assert "wrote 50 images" in capsys.readouterr().err
    particles = read_particles(out / "particles.star")
    assert (particles.box_size, len(particles)) == (8, 50)
    assert type_in("info", out / "particles.star") == 0
    assert {path.name for path in out.iterdir()} == {
        "particles.star",
        "stacks",
        "background.csv",
        "prepare.toml",
        "source.toml",
    }


def test_everything_that_is_wrong_is_said_in_one_go(star, tmp_path, capsys):
    tables = read_star(star)
    table = tables["particles"].with_column("rlnDefocusU", ["nan", *["10000"] * 49])
    names = ["1@missing.mrcs", *["1@../absent.mrcs"] * 49]
    write_star(tmp_path / "bad.star", {**tables, "particles": table.with_column("rlnImageName", names)})
    assert type_in("prepare", tmp_path / "bad.star", "--out", tmp_path / "out", "--box", 8) == 2
    said = capsys.readouterr().err
    assert "rlnDefocusU" in said
    assert "missing.mrcs" in said
    assert not (tmp_path / "out").exists()


def test_groups_of_several_boxes_are_prepared_though_no_other_verb_takes_them(tmp_path, capsys):
    random = np.random.default_rng(0)
    for name, box in (("a", 16), ("b", 12)):
        with StackWriter(tmp_path / f"{name}.mrcs", box, 2.0) as stack:
            stack.append(random.standard_normal((20, box, box)).astype(np.float32))
    columns = {
        "rlnImageName": [f"{number % 20 + 1}@{'ab'[number // 20]}.mrcs" for number in range(40)],
        "rlnImagePixelSize": np.repeat([1.5, 2.0], 20),
    }
    write_star(tmp_path / "mixed.star", {"particles": StarTable.from_columns(columns)})
    assert type_in("info", tmp_path / "mixed.star") == 1
    assert type_in("prepare", tmp_path / "mixed.star", "--out", tmp_path / "out", "--box", 8) == 0
    assert set(read_particles(tmp_path / "out" / "particles.star").pixel_size.tolist()) == {3.0}


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(star, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "CHUNK_PIXELS", 10 * 16**2)
    command = ("prepare", star, "--out", tmp_path / "out", "--box", 8)
    answers = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr("cryoatlas.cli.console.stop_on_interrupt", lambda: _Answers(answers))
        assert type_in(*command) == app.INTERRUPTED_STATUS
    assert "20 of 50 images are prepared. The same command with --resume" in capsys.readouterr().err
    assert type_in(*command) == 2  # the folder is in use
    assert type_in(*command, "--resume") == 0
    assert len(read_particles(tmp_path / "out" / "particles.star")) == 50


class _Answers:
    """In place of `stop_on_interrupt`: says what it is told to."""

    def __init__(self, answers) -> None:
        self.answers = answers

    def __enter__(self):
        return lambda: next(self.answers)

    def __exit__(self, *error: object) -> None:
        return None
