"""Rows of .cs files go out as they came in, byte for byte."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoatlas.errors import FormatError, InputError, OutputError
from cryoatlas.io.cryosparc_write import find_group_file, tables_of_group, write_cs_rows, write_group_file

ROWS = 12
GROUP = """created: 2024-01-02 03:04:05.678901
group:
  description: All particles
  name: particles
  type: particle
results:
  blob:
    metafile: '>J7_particles.cs'
    num_items: 12
    type: particle.blob
  location:
    metafile: '>J7_passthrough_particles.cs'
    num_items: 12
    type: particle.location
version: v4.4.1
"""


def columns(seed: int = 0) -> np.ndarray:
    kinds = [
        ("uid", "<u8"),
        ("blob/path", "S20"),
        ("blob/shape", "<u4", (2,)),
        ("alignments3D/pose", "<f4", (3,)),
    ]
    table = np.zeros(ROWS, kinds)
    rng = np.random.default_rng(seed)
    table["uid"] = rng.integers(2**63, 2**64 - 1, ROWS, dtype=np.uint64)
    table["blob/path"] = [b"J1/a.mrc", b"J1/\xc3\xa9.mrc"] * (ROWS // 2)
    table["alignments3D/pose"] = rng.normal(size=(ROWS, 3))
    return table


def saved(path: Path, *, old: bool = False) -> Path:
    """A .cs file; `old`: with a header padded to 16 bytes, as cryoSPARC's NumPy writes it."""
    with path.open("wb") as stream:
        np.save(stream, columns())
    if old:
        raw = path.read_bytes()
        length = int.from_bytes(raw[8:10], "little")
        text = raw[10 : 10 + length].rstrip()
        short = -(10 + len(text) + 1) % 16 + len(text) + 1
        header = text.ljust(short - 1) + b"\n"
        path.write_bytes(raw[:8] + len(header).to_bytes(2, "little") + header + raw[10 + length :])
    return path


@pytest.mark.parametrize("old", [False, True])
def test_all_rows_give_the_same_file(tmp_path, old):
    original = saved(tmp_path / "a.cs", old=old)
    write_cs_rows(tmp_path / "b.cs", original, np.arange(ROWS))
    assert (tmp_path / "b.cs").read_bytes() == original.read_bytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(ROWS)), count=st.integers(1, ROWS), old=st.booleans())
def test_chosen_rows_are_those_that_numpy_chooses(tmp_path, order, count, old):
    original = saved(tmp_path / "a.cs", old=old)
    write_cs_rows(tmp_path / "b.cs", original, np.array(order[:count]))
    chosen = np.load(tmp_path / "b.cs", allow_pickle=False)
    assert chosen.dtype == columns().dtype
    assert chosen.tobytes() == columns()[order[:count]].tobytes()


def test_only_what_is_asked_for_changes(tmp_path):
    original = saved(tmp_path / "a.cs")
    pose = np.random.default_rng(5).normal(size=(2, 3)).astype(np.float32)
    write_cs_rows(tmp_path / "b.cs", original, np.array([7, 2]), {"alignments3D/pose": pose})
    chosen, before = np.load(tmp_path / "b.cs"), columns()[[7, 2]]
    np.testing.assert_array_equal(chosen["alignments3D/pose"], pose)
    for name in ("uid", "blob/path", "blob/shape"):
        assert chosen[name].tobytes() == before[name].tobytes()
    np.testing.assert_array_equal(np.load(original), columns())


def test_a_failed_export_leaves_nothing(tmp_path):
    with pytest.raises(OutputError):
        write_cs_rows(tmp_path / "nowhere" / "b.cs", saved(tmp_path / "a.cs"), np.arange(3))
    with pytest.raises(InputError):
        write_cs_rows(tmp_path / "b.cs", tmp_path / "missing.cs", np.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.cs"]


def test_the_group_file_of_an_export_is_the_original_with_other_names_and_numbers(tmp_path):
    (tmp_path / "J7.csg").write_text(GROUP)
    found = find_group_file(tmp_path / "J7_particles.cs")
    assert found is not None
    assert found == tmp_path / "J7.csg"
    assert tables_of_group(found) == ["J7_particles.cs", "J7_passthrough_particles.cs"]
    names = {"J7_particles.cs": "out.cs", "J7_passthrough_particles.cs": "out_passthrough.cs"}
    write_group_file(tmp_path / "out.csg", found, names, 5)
    expected = GROUP.replace("J7_particles.cs", "out.cs").replace("num_items: 12", "num_items: 5")
    assert (tmp_path / "out.csg").read_text() == expected.replace(
        "J7_passthrough_particles.cs", "out_passthrough.cs"
    )


def test_other_group_files_are_passed_over(tmp_path):
    (tmp_path / "other.csg").write_text(GROUP)
    assert find_group_file(tmp_path / "J8_particles.cs") is None


def test_a_group_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "J7.csg").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="csg"):
        tables_of_group(tmp_path / "J7.csg")
    assert find_group_file(tmp_path / "J7_particles.cs") is None


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["dist/cryosparc_P12_J24_001_particles.cs", "stacks/cryodrgn_tests/empiar_10076_7.cs"]
)
def test_files_of_cryosparc_go_through_unchanged(shared_data, tmp_path, name):
    original = shared_data / name
    table = np.load(original)
    write_cs_rows(tmp_path / "all.cs", original, np.arange(len(table)))
    assert (tmp_path / "all.cs").read_bytes() == original.read_bytes()
    write_cs_rows(tmp_path / "some.cs", original, np.array([5, 1]))
    assert np.load(tmp_path / "some.cs").tobytes() == table[[5, 1]].tobytes()
