"""What `analyze` makes of a run: files that hold what they say, and a report that shows them."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoatlas.analysis.latent import kmeans
from cryoatlas.analysis.leakage import Imaging
from cryoatlas.analysis.overview import Options, Overview, Subject
from cryoatlas.analysis.plots import Colouring
from cryoatlas.analysis.report import report_html
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.io.mrc import read_volume

BOX, PIXEL_SIZE, IMAGES = 16, 3.0, 90


def decoded(z: np.ndarray) -> np.ndarray:
    """A ball, and a smaller one that moves along x with the first coordinate of z."""
    axis = np.arange(BOX) - BOX // 2
    z_, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    place = 4 * np.tanh(z[0]) if len(z) else 0.0
    core = np.exp(-(x**2 + y**2 + z_**2) / 8)
    return (core + np.exp(-((x - place) ** 2 + (y - 4) ** 2 + z_**2) / 3)).astype(np.float32)


def subject(size: int) -> Subject:
    latents = np.random.default_rng(0).standard_normal((IMAGES, size)).astype(np.float32)
    return Subject(
        name="run",
        latents=latents,
        volumes=lambda z: (decoded(row) for row in z),
        box_size=BOX,
        pixel_size=PIXEL_SIZE,
        log=[{"epoch": n, "misfit": 3.0 - n, "kl": 1.0} for n in range(3)],
        half_map_fsc=np.linspace(1, 0, BOX // 2 + 1),
        colourings=[Colouring("defocus <Å>", latents.sum(1))] if size else [],
    )


@pytest.fixture(scope="module", params=[1, 3, 0], ids=["1-D", "3-D", "single volume"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    about = subject(request.param)
    heard = []
    options = Options(clusters=3, points=4, picture_px=60)
    report = Overview(about, options, folder, "analysis", lambda *said: heard.append(said)).report()
    return about, folder, report, heard


def test_every_file_is_listed_and_every_listed_file_is_there(made):
    _, folder, report, _ = made
    listed = [path.removeprefix("analysis/") for path, _ in report.sections[-1].blocks[0].entries]
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {name for path in there for name in [path] if re.sub(r"vol_\d+", "vol_…", path) in listed}
    assert {path for path in listed if "…" not in path} <= there


def test_volumes_are_decoded_at_the_latents_in_their_table(made):
    about, folder, _, _ = made
    size = about.latents.shape[1]
    if size == 0:
        np.testing.assert_array_equal(read_volume(folder / "volume.mrc").array, decoded(np.zeros(0)))
        return
    for name, count in (("path", 4), ("kmeans", 3)):
        with (folder / name / "volumes.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert len(rows) == count
        for row in rows:
            z = np.array([row[f"z{axis}"] for axis in range(size)], dtype=np.float32)
            volume = read_volume(folder / name / row["volume"])
            np.testing.assert_array_equal(volume.array, decoded(z))
            assert volume.pixel_size == pytest.approx(PIXEL_SIZE)


def test_groups_are_written_for_every_image(made):
    about, folder, _, _ = made
    if about.latents.shape[1] == 0:
        return
    with (folder / "kmeans" / "clusters.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["image"]) for row in rows] == list(range(IMAGES))
    np.testing.assert_array_equal([int(row["cluster"]) - 1 for row in rows], kmeans(about.latents, 3).labels)


def test_the_report_shows_all_sections_in_words(made):
    about, _, report, _ = made
    titles = [section.title for section in report.sections]
    if about.latents.shape[1] == 0:
        assert titles == ["The map", "Inside the map", "How well it went", "Files"]
    else:
        latent_parts = ["The motion", "Typical structures", "The latent space"]
        assert titles == [*latent_parts, "Inside the map", "How well it went", "Files"]
    page = report_html(report).split("<script>")[0]
    lights = set(re.findall(r'data-lights="([^"]+)"', page))
    marks = set(re.findall(r'data-mark="([^"]+)"', page))
    assert lights <= marks
    assert "defocus &lt;Å&gt;" in page or about.latents.shape[1] == 0


def test_progress_is_told_in_phases_that_end(made):
    about, _, _, heard = made
    phases = dict.fromkeys(note for *_, note in heard)
    expected = ["decoding volumes", "drawing volumes", "drawing the gallery"]
    assert list(phases) == (expected if about.latents.shape[1] else ["decoding volumes"])
    for phase in phases:
        done, total, _ = [said for said in heard if said[2] == phase][-1]
        assert done == total


def test_a_chosen_component_is_followed_in_a_straight_line(tmp_path):
    about = subject(3)
    Overview(about, Options(clusters=2, component=2, points=5, picture_px=60), tmp_path, "analysis").report()
    table = np.loadtxt(tmp_path / "pc2" / "volumes.csv", delimiter=",", skiprows=1, usecols=(1, 2, 3))
    steps = np.diff(table, axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-5)  # float32 latents
    assert np.linalg.norm(table[-1] - table[0]) > 1


@pytest.mark.parametrize("size", [1, 3])
def test_a_latent_that_is_the_same_for_all_images_still_gives_a_report(tmp_path, size):
    """A collapsed posterior: one group, one structure, and plots that show it."""
    about = replace(subject(size), latents=np.zeros((IMAGES, size), np.float32), colourings=[])
    report = Overview(about, Options(points=3, picture_px=40), tmp_path, "analysis").report()
    assert len(report.sections[1].blocks[0].wide.cards) == 1
    volumes = [read_volume(path).array for path in sorted((tmp_path / "path").glob("*.mrc"))]
    assert len(volumes) == 3
    np.testing.assert_array_equal(volumes[0], volumes[2])


@pytest.mark.parametrize("guilty", [True, False])
def test_the_report_says_what_z_knows_about_how_images_were_taken(tmp_path, guilty):
    pose = Pose(random_rotations(300, np.random.default_rng(1)), torch.zeros(300, 2, dtype=torch.float64))
    view, state = pose.rotation[:, 2, :1].numpy(), np.random.default_rng(2).standard_normal((300, 1))
    latents = (view if guilty else state).astype(np.float32)
    about = replace(subject(1), latents=latents, colourings=[], imaging=Imaging(pose))
    overview = Overview(about, Options(clusters=2, points=2, picture_px=40), tmp_path, "analysis")
    page = report_html(overview.report())
    assert "What z knows about how images were taken" in page
    assert '<th scope="row">in-plane angle</th>' in page
    accusation = r"z tells the viewing direction \(\d\.\d nats\): what it shows may be the view and not"
    assert bool(re.search(accusation, page)) == guilty
    assert ("z tells none of these." in page) != guilty
    with (tmp_path / "leakage.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["telling"] for row in rows] == ["true" if guilty else "false", "false"]
    assert float(rows[0]["shared_with_z_nats"]) == pytest.approx(overview.leaks[0].excess, abs=1e-3)
