"""A look at a file tells what it holds and finds all that is wrong with it at once."""

import pickle
import re

import numpy as np
import pytest
import torch

from cryoatlas.errors import FormatError, InputError
from cryoatlas.io.mrc import write_volume
from cryoatlas.particles.inspection import LISTED, Findings, inspect_file
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.table_inspection import NUMERIC

from .small_cryosparc import write_cs_project
from .small_project import COUNT, noise_images, write_stack


def facts(findings: Findings) -> dict[str, str]:
    return dict(findings.facts)


def test_a_good_star_file_is_described_and_nothing_is_wrong(project):
    found = inspect_file(project())
    assert found.problems == []
    assert found.remarks == []
    assert found.kind == "particles, RELION 3.1 or later (optics groups)"
    told = facts(found)
    assert told["particles"] == "6 in data_particles"
    assert told["pixel size"] == "2.5 … 5 Å"
    assert told["voltage"] == "200 … 300 kV"
    assert told["poses"].startswith("yes, shifts up to")
    assert told["box"] == "8 px"
    assert told["stacks"] == "1"
    assert told["images looked at"] == "6 of 6"
    assert "Voltage 200.0" in told["optics group 2"]


def test_an_old_star_file_without_ctf_and_poses_says_so(old_project):
    def bare(columns):
        for name in NUMERIC:
            columns.pop(name, None)

    found = inspect_file(old_project(bare))
    assert found.problems == []
    assert found.kind.endswith("3.0 or earlier")
    assert (facts(found)["CTF"], facts(found)["poses"]) == ("none", "no")


def test_all_that_is_wrong_is_found_at_once(project, tmp_path):
    def spoil(columns):
        columns["rlnImageName"] = ["1@stack.mrcs"] * 3 + ["2@stack.mrcs", "9@stack.mrcs", "3@stack.mrcs"]
        columns["rlnDefocusU"] = columns["rlnDefocusU"] * 1e-4
        columns["rlnDefocusV"] = columns["rlnDefocusV"] * 1e-4
        columns["rlnPhaseShift"] = [0, 0, "x", 0, 0, 0]
        columns["rlnOriginXAngst"] = [0, 0, 0, 0, 0, 99]

    def spoil_optics(columns):
        columns["rlnVoltage"] = [300000, 200]
        columns["rlnImageSize"] = [16, 16]

    path = project(spoil, spoil_optics)
    pixels = noise_images()
    pixels[1, 0, 0] = np.nan
    pixels[2] = 5
    write_stack(tmp_path / "stack.mrcs", pixels)
    found = inspect_file(path)
    expected = [
        "row 3 .* column rlnPhaseShift",
        "kV.* must be divided by 1000",
        "largest defocus",
        "16 px wide",
        "row 6 .* outside its box",
        "row 5 .* asks for image 9",
        "row 4 .* NaN or infinite",
        r"1 of 5 images hold one value everywhere \(number 6\)",
    ]
    text = "\n".join(found.problems)
    for pattern in expected:
        assert re.search(pattern, text), pattern
    assert len(found.problems) == len(expected)
    assert found.remarks == [
        "2 of 6 rows name an image that another row names too.",
        "2 of 6 images in the stacks are not named in the star file.",
    ]


def test_whatever_reading_refuses_is_among_the_problems(project, tmp_path):
    def spoilers():
        for name in ("rlnImageName", "rlnDefocusV", "rlnAngleTilt", "rlnOriginXAngst", "rlnOpticsGroup"):
            yield lambda columns, name=name: columns.pop(name)
        for name in ("rlnAngleRot", "rlnDefocusAngle", "rlnOriginYAngst"):
            yield lambda columns, name=name: columns.update({name: ["nan"] * COUNT})
        yield lambda columns: columns.update(rlnImageName=["7@stack.mrcs"] * COUNT)
        yield lambda columns: columns.update(rlnImageName=["1@missing.mrcs"] * COUNT)
        yield lambda columns: columns.update(rlnOriginYAngst=[99] * COUNT)

    for spoil in spoilers():
        path = project(spoil)
        with pytest.raises(InputError) as refusal:
            read_particles(path)
        assert str(refusal.value) in inspect_file(path).problems


def test_missing_and_damaged_stacks_are_told_together(project, tmp_path):
    names = ["1@stack.mrcs", "1@missing.mrcs", "1@short.mrcs", "1@text.mrcs", "2@stack.mrcs", "3@stack.mrcs"]
    path = project(lambda columns: columns.update(rlnImageName=names))
    raw = (tmp_path / "stack.mrcs").read_bytes()
    (tmp_path / "short.mrcs").write_bytes(raw[:-8])
    (tmp_path / "text.mrcs").write_text("hello")
    problems = inspect_file(path).problems
    assert len(problems) == 3
    for problem, word in zip(problems, ("missing.mrcs", "short.mrcs is truncated", "text.mrcs"), strict=True):
        assert word in problem


def test_many_problems_of_one_kind_are_cut_short(tmp_path):
    pixels = noise_images(LISTED + 5)
    pixels[:, 0, 0] = np.inf
    found = inspect_file(write_stack(tmp_path / "x.mrcs", pixels))
    assert len(found.problems) == LISTED + 1
    assert found.problems[-1].startswith("5 more")


def test_a_header_of_another_pixel_size_is_remarked_on(project):
    path = project(optics=lambda columns: columns.update(rlnImagePixelSize=[3.0, 3.0]))
    found = inspect_file(path)
    assert found.problems == []
    assert "says 2.5 Å per pixel, the star file 3 Å" in found.remarks[0]


def test_stacks_and_volumes_are_told_apart(tmp_path):
    stack = inspect_file(write_stack(tmp_path / "x.mrcs", noise_images()))
    assert stack.kind == "MRC stack of images"
    assert facts(stack)["size"] == "8 × 8 × 6"
    write_volume(tmp_path / "x.mrc", torch.ones(8, 8, 8), 1.5)
    volume = inspect_file(tmp_path / "x.mrc")
    assert (volume.kind, facts(volume)["pixel size"]) == ("MRC volume", "1.5 Å")
    assert volume.problems == stack.problems == []


def test_a_volume_that_is_not_finite_has_a_problem(tmp_path):
    density = np.ones((8, 8, 8), np.float32)
    density[0, 0, 0] = np.nan
    write_volume(tmp_path / "x.mrc", density, 1.5)
    assert "NaN or infinite" in inspect_file(tmp_path / "x.mrc").problems[0]


def test_a_damaged_stack_has_a_problem(tmp_path):
    path = write_stack(tmp_path / "x.mrcs", noise_images())
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in inspect_file(path).problems[0]


def test_pickles_are_described(tmp_path):
    poses, ctf, other, hostile = (tmp_path / f"{name}.pkl" for name in ("poses", "ctf", "other", "hostile"))
    poses.write_bytes(pickle.dumps((np.stack([np.eye(3)] * 4), np.full((4, 2), -0.25))))
    ctf.write_bytes(pickle.dumps(np.array([[64, 2.0, 15000, 14000, 30, 300000, 2.7, 0.07, 0]])))
    other.write_bytes(pickle.dumps(np.arange(5)))
    hostile.write_bytes(pickle.dumps(print))
    found = inspect_file(poses)
    assert (found.kind, facts(found)["largest shift"], found.problems) == (
        "cryoDRGN poses",
        "0.250 of the box",
        [],
    )
    found = inspect_file(ctf)
    assert (found.kind, facts(found)["defocus U"]) == ("cryoDRGN CTF parameters", "15000")
    assert "divided by 1000" in found.problems[0]
    assert inspect_file(other).kind == "row numbers"
    assert "refused" in inspect_file(hostile).problems[0]


def test_files_of_no_known_kind_are_refused(tmp_path):
    (tmp_path / "x.doc").write_text("hello")
    with pytest.raises(FormatError, match="says nothing of its kind"):
        inspect_file(tmp_path / "x.doc")
    with pytest.raises(InputError, match="there is no file"):
        inspect_file(tmp_path / "x.star")
    (tmp_path / "y.star").write_text("hello")
    assert "not a star file" in inspect_file(tmp_path / "y.star").problems[0]


@pytest.mark.data
def test_every_shared_file_can_be_looked_at(shared_data):
    suffixes = {".star", ".mrc", ".mrcs", ".pkl"}
    files = sorted(path for path in shared_data.rglob("*") if path.suffix in suffixes)
    assert len(files) > 40
    for path in files:
        found = inspect_file(path, datadir=path.parent)
        assert found.facts
        assert all(problem.strip().endswith(".") for problem in found.problems)


def test_a_cs_file_tells_all_that_is_wrong_in_one_go(tmp_path):
    path = write_cs_project(
        tmp_path,
        blob__idx=np.full(COUNT, 40, np.uint32),
        blob__sign=np.array([1, -1] * 3, np.float32),
        ctf__df1_A=np.array([np.nan] * COUNT, np.float32),
        ctf__cs_mm=np.array([np.inf] * COUNT, np.float32),
        alignments3D__psize_A=np.zeros(COUNT, np.float32),
    )
    problems = "\n".join(inspect_file(path).problems)
    for words in (
        "blob/sign",
        "column ctf/df1_A",
        "column ctf/cs_mm",
        "pixel size of its shift",
        "asks for image 41",
    ):
        assert words in problems
    with pytest.raises(InputError) as refusal:
        read_particles(path)
    assert str(refusal.value) in problems


def test_a_good_cs_file_is_described(tmp_path):
    found = inspect_file(write_cs_project(tmp_path))
    assert found.kind == "particles, cryoSPARC"
    assert found.problems == []
    assert facts(found)["contrast"] == "dark particles, inverted when read"
    assert facts(found)["poses"].startswith("yes")
    assert "alignments3D/pose" in facts(found)["columns"]
    assert "OpticsGroupName exposureGroup1" in facts(found)["optics group 2"]


def test_a_cs_file_without_images_says_what_to_give(tmp_path):
    path = write_cs_project(tmp_path, blob__path=None)
    assert ["--passthrough" in problem for problem in inspect_file(path).problems] == [True]
    (tmp_path / "J2" / "stream.cs").write_bytes(b"\x94CSDAT" + bytes(20))
    assert "CSDAT" in inspect_file(tmp_path / "J2" / "stream.cs").problems[0]


def test_a_list_of_stacks_tells_what_is_wrong_with_each(tmp_path):
    write_stack(tmp_path / "a.mrcs", noise_images())
    write_stack(tmp_path / "b.mrcs", noise_images(box=10))
    (tmp_path / "c.mrcs").write_bytes(b"nothing")
    (tmp_path / "list.txt").write_text("a.mrcs\nb.mrcs\nc.mrcs\nd.mrcs\n")
    problems = inspect_file(tmp_path / "list.txt").problems
    assert len(problems) == 2
    assert "1 of 4 image stacks" in problems[0]
    assert "c.mrcs" in problems[1]
    (tmp_path / "list.txt").write_text("a.mrcs\nb.mrcs\n")
    assert "all particles must have one box" in inspect_file(tmp_path / "list.txt").problems[0]
    (tmp_path / "list.txt").write_text("a.mrcs\n")
    found = inspect_file(tmp_path / "list.txt")
    assert (found.kind, facts(found)["particles"], found.problems) == ("image stacks", str(COUNT), [])


def test_what_is_given_beside_a_file_is_looked_at_too(project, tmp_path):
    path = project()
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(np.stack([np.eye(3)] * 4)))
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(print))
    np.save(tmp_path / "i.npy", [0, 99])
    others = {"poses": tmp_path / "p.pkl", "ctf": tmp_path / "c.pkl", "indices": tmp_path / "i.npy"}
    problems = inspect_file(path, **others).problems
    assert ["is refused" in problems[0], "of 4 particles" in problems[1], "is 99" in problems[2]] == [
        True
    ] * 3
    np.save(tmp_path / "i.npy", [5, 0])
    assert facts(inspect_file(path, indices=tmp_path / "i.npy"))["particles taken"] == "2"


def test_latents_and_row_numbers_are_told_apart(tmp_path):
    z = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(z) + pickle.dumps(z))
    found = inspect_file(path)
    assert (found.kind, facts(found)["images"], facts(found)["variances"]) == ("cryoDRGN latents", "5", "yes")
    for content, kind in (
        (np.array([4, 1, 2]), "row numbers"),
        ([4, 1, 2], "row numbers"),
        (np.array([0.0, 1, 1]), "labels or other numbers"),
    ):
        path.write_bytes(pickle.dumps(content))
        assert inspect_file(path).kind == kind
    (tmp_path / "x.txt").write_text("3\n1\n")
    assert inspect_file(tmp_path / "x.txt").kind == "row numbers"
    (tmp_path / "x.csv").write_text("index\n3\n-1\n")
    assert inspect_file(tmp_path / "x.csv").kind == "numbers"


def test_a_stack_whose_header_says_volume_is_remarked_on(tmp_path):
    write_volume(tmp_path / "x.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), pixel_size=2.0)
    assert inspect_file(tmp_path / "x.mrc").remarks == []
    stack = write_stack(tmp_path / "y.mrc", noise_images(count=5))
    content = bytearray(stack.read_bytes())
    content[88:92] = (1).to_bytes(4, "little")  # the space group
    stack.write_bytes(content)
    assert "read as a stack" in inspect_file(stack).remarks[0]
    assert len(read_particles(stack)) == 5
