"""``cryoatlas export`` as a user types it: rows of the file that ``train`` was given."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from cryoatlas.analysis.latent import PrincipalComponents
from cryoatlas.cli import app
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.star import read_star, write_star
from cryoatlas.particles.cryosparc import pose_columns_of
from cryoatlas.particles.metadata import pixel_sizes, poses, read_tables
from cryoatlas.recipes.run import open_run

IMAGES = 96
NETWORK = ("--recipe", "network", "--epochs", 1)
NOTES = [f"note no. {number}" for number in range(IMAGES)]


def type_in(*words: object) -> int:
    """Exit status of ``cryoatlas WORDS``."""
    return app.run([str(word) for word in words])


@pytest.fixture(scope="module")
def star(tmp_path_factory) -> Path:
    """Images of 16 px with poses, CTF, and a column that nobody knows."""
    folder = tmp_path_factory.mktemp("set") / "set"
    simulate(SimulationConfig("linear1d", images=IMAGES, box=16, snr=2.0, seed=0, states=3, ctf=True), folder)
    path = folder / "truth" / "particles.star"
    tables = read_star(path)
    write_star(path, {**tables, "particles": tables["particles"].with_column("myNote", NOTES)})
    return path


@pytest.fixture(scope="module")
def run(star, tmp_path_factory) -> Path:
    """An analysed run of two latents, on the particles in reverse order of the file."""
    place = tmp_path_factory.mktemp("run")
    (place / "reversed.txt").write_text("\n".join(map(str, reversed(range(IMAGES)))))
    words = ("--latent", 2, *NETWORK, "--width", 16, "--indices", place / "reversed.txt")
    assert type_in("train", star, *words, "--out", place / "run") == 0
    assert type_in("analyze", place / "run", "--kmeans", 3, "--points", 2) == 0
    return place / "run"


@pytest.fixture(scope="module")
def cs_file(star, tmp_path_factory) -> Path:
    """The same particles as a project of cryoSPARC: poses in a passthrough file in another order."""
    project = tmp_path_factory.mktemp("project")
    (project / "J1").symlink_to(star.parents[1])
    tables = read_tables(star)
    kinds = [("uid", "<u8"), ("blob/path", "S30"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,))]
    kinds += [("blob/psize_A", "<f4"), ("blob/sign", "<f4")]
    table = np.zeros(IMAGES, kinds)
    table["uid"] = np.random.default_rng(1).permutation(IMAGES).astype(np.uint64) + np.uint64(2**63)
    table["blob/path"], table["blob/idx"] = b">J1/particles.mrcs", np.arange(IMAGES)
    table["blob/shape"], table["blob/psize_A"], table["blob/sign"] = 16, pixel_sizes(tables), 1
    pose = poses(tables, pixel_sizes(tables))
    assert pose is not None
    columns = pose_columns_of(pose, pixel_sizes(tables))
    other = np.zeros(IMAGES, [("uid", "<u8"), *((name, "<f4", v.shape[1:]) for name, v in columns.items())])
    other["uid"] = table["uid"]
    for name, values in columns.items():
        other[name] = values
    for name, array in (("particles.cs", table), ("passthrough.cs", other[::-1])):
        with (project / name).open("wb") as stream:
            np.save(stream, array)
    return project / "particles.cs"


def exported_rows(run: Path, out: Path, *words: object) -> list[int]:
    """Rows of the user's file, from 0, that an export holds, after checking that they are untouched."""
    assert type_in("export", run, "--to", out, *words) == 0
    source = Path(open_run(run).config["input"]["source"])
    before, after = read_star(source)["particles"], read_star(out)["particles"]
    position = {note: row for row, note in enumerate(before.columns["myNote"])}
    rows = [position[note] for note in after.columns["myNote"]]
    assert after.names == before.names
    for name in before.names:
        assert list(after.columns[name]) == list(before.columns[name][rows])
    return rows


def in_file(chosen: np.ndarray) -> list[int]:
    """Rows of the file, from 0, of the run's particles of these numbers."""
    return (IMAGES - 1 - np.flatnonzero(chosen)).tolist()


def test_all_particles_are_written_by_default(run, tmp_path):
    assert exported_rows(run, tmp_path / "all.star") == in_file(np.ones(IMAGES, bool))


def test_thresholds_select_what_numpy_selects(run, tmp_path):
    z, loss = open_run(run).latents(), open_run(run).losses()
    defocus = open_run(run).particles.tables.number("rlnDefocusU")
    pc = PrincipalComponents.of(z).coordinates[:, 1]
    middle, far = float(np.median(z[:, 1])), float(np.median(defocus))
    for text, expected in (
        (f"latent1 > {middle}", z[:, 1] > middle),
        (f"latent1 <= {middle} and DefocusU < {far}", (z[:, 1] <= middle) & (defocus < far)),
        (f"rlnDefocusU >= {far} and pc2 > 0", (defocus >= far) & (pc > 0)),
        (f"loss < {np.median(loss)}", loss < np.median(loss)),
    ):
        out = tmp_path / "some.star"
        assert exported_rows(run, out, "--where", text, "--overwrite") == in_file(expected)


def test_groups_are_those_of_the_report(run, tmp_path):
    table = np.loadtxt(run / "analysis/kmeans/clusters.csv", delimiter=",", skiprows=1, dtype=int)
    for labels in ("1", "3,1"):
        wanted = np.isin(table[:, 1], [int(label) for label in labels.split(",")])
        rows = exported_rows(run, tmp_path / f"{labels}.star", "--kmeans", 3, "--labels", labels)
        assert rows == in_file(wanted)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".npy", ".pkl"])
def test_a_file_of_numbers_gives_the_particles_and_their_order(run, tmp_path, suffix):
    numbers, path = [5, 90, 0, 17], tmp_path / f"chosen{suffix}"
    if suffix == ".npy":
        np.save(path, numbers)
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps(np.array(numbers)))
    else:
        path.write_text("\n".join(map(str, numbers)) + "\n")
    rows = exported_rows(run, tmp_path / "out.star", "--select", path)
    assert rows == [IMAGES - 1 - number for number in numbers]


def test_selections_given_together_must_all_hold(run, tmp_path):
    (tmp_path / "chosen.txt").write_text("60\n3\n41\n7\n80\n")
    numbers, z = np.array([60, 3, 41, 7, 80]), open_run(run).latents()
    middle = float(np.median(z[numbers, 0]))
    words = ("--select", tmp_path / "chosen.txt", "--where", f"latent0 >= {middle}")
    expected = [IMAGES - 1 - number for number in numbers if z[number, 0] >= middle]
    assert exported_rows(run, tmp_path / "out.star", *words) == expected
    assert len(expected) == 3


def test_a_run_on_chosen_particles_of_a_run_leads_back_to_the_first_file(run, star, tmp_path):
    np.save(tmp_path / "chosen.npy", np.arange(40, 60))
    words = ("--latent", 1, *NETWORK, "--width", 8, "--indices", tmp_path / "chosen.npy")
    assert type_in("train", run / "particles.star", *words, "--out", tmp_path / "second") == 0
    assert open_run(tmp_path / "second").config["input"]["source"] == str(star)
    rows = exported_rows(tmp_path / "second", tmp_path / "out.star")
    assert rows == [IMAGES - 1 - number for number in range(40, 60)]


def test_particles_of_cryosparc_go_back_to_cryosparc(cs_file, tmp_path):
    project = cs_file.parent
    files = (cs_file, "--datadir", project, "--passthrough", project / "passthrough.cs")
    small = ("--latent", 1, *NETWORK, "--width", 8)
    assert type_in("train", *files, *small, "--out", tmp_path / "run") == 0
    (tmp_path / "chosen.txt").write_text("70\n2\n33\n")
    words = ("--select", tmp_path / "chosen.txt", "--poses")
    assert type_in("export", tmp_path / "run", "--to", tmp_path / "out.cs", *words) == 0
    before, after = np.load(cs_file), np.load(tmp_path / "out.cs")
    assert after.tobytes() == before[[70, 2, 33]].tobytes()
    there, beside = np.load(project / "passthrough.cs"), np.load(tmp_path / "out_passthrough.cs")
    assert beside["uid"].tolist() == after["uid"].tolist()
    for name in ("alignments3D/pose", "alignments3D/shift"):
        # The run kept the poses; they went through degrees and Å.
        np.testing.assert_allclose(beside[name], there[::-1][[70, 2, 33]][name], atol=1e-5)
    assert type_in("export", tmp_path / "run", "--to", tmp_path / "out.star") == 0
    uid = read_star(tmp_path / "out.star")["particles"].text("cryoatlasUid")
    assert uid.tolist() == [str(number) for number in before["uid"]]


def test_a_run_on_prepared_particles_leads_back_to_the_users_file(star, tmp_path):
    np.save(tmp_path / "even.npy", np.arange(0, IMAGES, 2))
    prepared = ("--box", 8, "--indices", tmp_path / "even.npy", "--out", tmp_path / "small")
    assert type_in("prepare", star, *prepared) == 0
    words = ("--latent", 1, *NETWORK, "--width", 8, "--out", tmp_path / "run")
    assert type_in("train", tmp_path / "small" / "particles.star", *words) == 0
    assert open_run(tmp_path / "run").config["input"]["source"] == str(star)
    every_other = list(range(0, IMAGES, 2))
    assert exported_rows(tmp_path / "run", tmp_path / "out.star") == every_other
    # The prepared folder itself, and poses: the same in Å, whatever the size of the pixels.
    assert type_in("export", tmp_path / "small", "--to", tmp_path / "posed.star", "--poses") == 0
    written, given = (read_tables(path) for path in (tmp_path / "posed.star", star))
    ours, theirs = (poses(tables, pixel_sizes(tables)) for tables in (written, given))
    assert ours is not None
    assert theirs is not None
    # Angles and origins have at least six decimals in the file.
    np.testing.assert_allclose(ours.shift, theirs.shift[every_other], atol=1e-6)
    np.testing.assert_allclose(ours.rotation, theirs.rotation[every_other], atol=1e-7)


def test_a_file_of_particles_can_be_cut_without_a_run(star, tmp_path):
    (tmp_path / "chosen.txt").write_text("9\n2\n")
    words = ("--select", tmp_path / "chosen.txt", "--where", "rlnVoltage > 100")
    assert type_in("export", star, "--to", tmp_path / "out.star", *words) == 0
    notes = read_star(tmp_path / "out.star")["particles"].text("myNote")
    assert notes.tolist() == [NOTES[9], NOTES[2]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--where", "latent2 > 0"), "latent0 … latent1"),
        (("--where", "pc0 > 0"), "pc1 … pc2"),
        (("--where", "rlnNothing > 0"), "there is no such column"),
        (("--where", "myNote > 0"), "note no. "),
        (("--where", "latent0 > 1e9"), "none of the 96 particles is selected"),
        (("--where", "import os"), "--where takes"),
        (("--kmeans", 3), "--labels"),
        (("--kmeans", 3, "--labels", "0"), "numbered from 1 to 3"),
        (("--kmeans", 3, "--labels", "one"), "numbers separated by commas"),
        (("--kmeans", 0, "--labels", "1"), "between 1 and the 96 particles"),
    ],
)
def test_selections_that_make_no_sense_are_refused(run, tmp_path, capsys, words, message):
    assert type_in("export", run, "--to", tmp_path / "out.star", *words) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"), [("96\n", "from 0 to 95"), ("5\n5\n", "twice"), ("", "empty"), ("-1\n", "from 0")]
)
def test_numbers_out_of_range_or_repeated_are_refused(run, tmp_path, capsys, content, message):
    (tmp_path / "chosen.txt").write_text(content)
    assert type_in("export", run, "--to", tmp_path / "o.star", "--select", tmp_path / "chosen.txt") == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert type_in("export", tmp_path, "--to", tmp_path / "out.star") == 2
    assert "particles.star" in capsys.readouterr().err


def test_the_message_says_what_was_written(run, tmp_path, capsys):
    (tmp_path / "chosen.txt").write_text("3\n4\n")
    out = tmp_path / "out.star"
    assert type_in("export", run, "--to", out, "--select", tmp_path / "chosen.txt", "--poses") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "wrote 2 rows of" in said
    assert "2 of 96 images" in said
    assert "numbers from 0" in said
    assert "with the run's poses" in said
