"""Files of random content come back as they went out; damaged ones give our errors and take little memory."""

import contextlib
import os
import pickle
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoatlas.errors import CryoAtlasError
from cryoatlas.io.cryodrgn import read_all_arrays, read_arrays, read_ctf_table, read_latents, read_poses
from cryoatlas.io.cryosparc import read_cs, read_cs_array
from cryoatlas.io.cryosparc_write import write_cs_rows
from cryoatlas.io.mrc import StackWriter, read_header, read_images, read_volume
from cryoatlas.io.npy import read_npy
from cryoatlas.io.star import StarTable, read_star, write_star

from .damage import damaged, little_memory

same_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Every example writes the same file anew."""

words = st.text(string.ascii_letters + string.digits + "_.[]-", min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8) | st.sampled_from(
    [
        "",
        "?",
        ".",
        "_x",
        "#",
        "data_x",
        "LOOP_",
        "two words",
        "it's",
        'a"b',
        "a'b \" c",
        ";",
        "two\nlines",
        "\n",
    ]
)
columns = st.sampled_from(
    [
        (texts, str),
        (st.floats(allow_nan=False, allow_infinity=False), float),
        (st.integers(-(2**63), 2**63 - 1), int),
    ]
)


@st.composite
def star_files(draw: st.DrawFn) -> dict[str, tuple[dict[str, list], bool]]:
    """Block name → columns, and whether they are a loop."""
    names = draw(st.lists(words | st.just(""), min_size=1, max_size=3, unique_by=str.lower))
    blocks = {}
    for name in names:
        rows = draw(st.integers(1, 4))
        keys = draw(st.lists(words, min_size=1, max_size=4, unique_by=str.lower))
        kinds = [draw(columns) for _ in keys]
        values = [draw(st.lists(kind, min_size=rows, max_size=rows)) for kind, _ in kinds]
        blocks[name] = (dict(zip(keys, values, strict=True)), rows > 1 or draw(st.booleans()))
    return blocks


@settings(same_folder, max_examples=80)
@given(blocks=star_files())
def test_any_star_file_reads_back_as_what_was_written(tmp_path, blocks):
    tables = {
        name: StarTable(StarTable.from_columns(values).columns, is_loop=is_loop)
        for name, (values, is_loop) in blocks.items()
    }
    write_star(tmp_path / "x.star", tables)
    back = read_star(tmp_path / "x.star")
    assert list(back) == list(blocks)
    for name, (values, is_loop) in blocks.items():
        assert back[name].names == list(values)
        assert back[name].is_loop == is_loop
        for key, column in values.items():
            if isinstance(column[0], float):
                assert back[name].number(key).tolist() == column
            else:
                assert back[name].text(key).tolist() == [str(value) for value in column]
    write_star(tmp_path / "again.star", back)
    assert (tmp_path / "again.star").read_bytes() == (tmp_path / "x.star").read_bytes()


STAR = b"""
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
           1 'optics group' 300.000000

data_general

_rlnA 1
_rlnB
;two
lines
;

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3 [Angstrom]
000001@a.mrcs            1 1.234500e+04
"000002@a b.mrcs"            1 -12345.0
000003@\xc3\xa9.mrcs 1
;text
;
"""


@settings(same_folder, max_examples=250)
@given(raw=damaged(STAR))
def test_damaged_star_files_are_refused_or_survive_a_round_trip(tmp_path, raw):
    path, copy = tmp_path / "x.star", tmp_path / "copy.star"
    path.write_bytes(raw)
    with little_memory(len(raw)):
        try:
            tables = read_star(path)
        except CryoAtlasError:
            return
        write_star(copy, tables)
        back = read_star(copy)
        assert list(back) == list(tables)
        for name, table in tables.items():
            for key in table.names:
                assert back[name].columns[key].tolist() == table.columns[key].tolist()
                assert back[name].text(key).tolist() == table.text(key).tolist()
                with contextlib.suppress(CryoAtlasError):
                    table.number(key)


@st.composite
def cs_tables(draw: st.DrawFn) -> np.ndarray:
    """A table of numbers of random bytes, readable texts, and uids that differ."""
    rows = draw(st.integers(1, 6))
    kinds: list[tuple] = [("uid", draw(st.sampled_from(["<u8", "<i8"])))]
    for name in draw(st.lists(words.map("{}/x".format), max_size=5, unique=True)):
        dtype = draw(st.sampled_from(["<f4", "<f8", "<u4", "<i2", ">f4", "S5", "<U4"]))
        kinds.append((name, dtype, draw(st.sampled_from([(), (2,), (3, 3)]))))
    table = np.zeros(rows, kinds)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    table["uid"] = rng.choice(2**62, rows, replace=False)
    for name, *_ in kinds[1:]:
        column = table[name]
        readable = {"S": [b"", b">J1", b"\xc3\xa9"], "U": ["", ">J1", "é"]}.get(column.dtype.kind)
        if readable is None:
            column[...] = np.frombuffer(rng.bytes(column.nbytes), column.dtype).reshape(column.shape)
        else:
            column[...] = rng.choice(readable, column.shape)
    return table


def save(path: Path, table: np.ndarray) -> Path:
    with path.open("wb") as stream:
        np.save(stream, table)
    return path


@settings(same_folder, max_examples=80)
@given(table=cs_tables(), data=st.data())
def test_any_rows_of_any_cs_file_go_through_unchanged(tmp_path, table, data):
    original = save(tmp_path / "x.cs", table)
    rows = np.array(data.draw(st.lists(st.integers(0, len(table) - 1), min_size=1, unique=True)))
    write_cs_rows(tmp_path / "y.cs", original, rows)
    chosen = np.load(tmp_path / "y.cs", allow_pickle=False)
    assert chosen.dtype == table.dtype
    assert chosen.tobytes() == table[rows].tobytes()
    write_cs_rows(tmp_path / "z.cs", original, np.arange(len(table)))
    assert (tmp_path / "z.cs").read_bytes() == original.read_bytes()


@settings(same_folder, max_examples=80)
@given(table=cs_tables())
def test_every_column_of_a_cs_file_is_read_as_it_is_stored(tmp_path, table):
    """Texts are decoded, numbers are the stored ones when stored again, what is not finite is refused."""
    read = read_cs(save(tmp_path / "x.cs", table))
    np.testing.assert_array_equal(read.uid, table["uid"])
    for name in table.dtype.names[1:]:
        stored = table[name]
        if stored.dtype.kind in "SU":
            if stored.ndim == 1:
                decoded = [text.decode() if isinstance(text, bytes) else text for text in stored.tolist()]
                assert read.text(name).tolist() == decoded
        elif stored.ndim <= 2:
            width = None if stored.ndim == 1 else 2
            if np.isfinite(stored).all():
                assert read.number(name, width).astype(stored.dtype).tolist() == stored.tolist()
            else:
                with pytest.raises(CryoAtlasError, match="finite"):
                    read.number(name, width)


CS = np.zeros(4, [("uid", "<u8"), ("blob/path", "S9"), ("blob/idx", "<u4"), ("pose", "<f4", (3,))])
CS["uid"] = np.arange(4)


def npy_bytes(folder: Path) -> bytes:
    return save(folder / "whole.cs", CS).read_bytes()


@settings(same_folder, max_examples=250)
@given(data=st.data())
def test_damaged_cs_and_npy_files_give_our_errors_or_no_more_than_the_file_holds(tmp_path, data):
    whole = npy_bytes(tmp_path)
    raw = data.draw(damaged(whole, within=140) | damaged(whole))
    path = tmp_path / "x.cs"
    path.write_bytes(raw)
    for read in (read_cs_array, lambda path: read_npy(path, "an array")):
        # NumPy's parser of headers is Python's own, which needs much for any text.
        with little_memory(len(raw), times=2000), contextlib.suppress(CryoAtlasError):
            assert read(path).nbytes <= len(raw)


def mrc_bytes(folder: Path) -> bytes:
    with StackWriter(folder / "whole.mrcs", 6, 2.0) as stack:
        stack.append(np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32))
    return (folder / "whole.mrcs").read_bytes()


def read_all_images(path: Path) -> None:
    header = read_header(path)
    read_images(header, np.arange(header.sections))


@settings(same_folder, max_examples=250)
@given(data=st.data())
def test_damaged_mrc_files_give_our_errors_or_no_more_than_the_file_holds(tmp_path, data):
    whole = mrc_bytes(tmp_path)
    raw = data.draw(damaged(whole, within=256) | damaged(whole))
    (tmp_path / "x.mrcs").write_bytes(raw)
    for read in (read_all_images, read_volume):
        with little_memory(len(raw)), contextlib.suppress(CryoAtlasError):
            read(tmp_path / "x.mrcs")


class Touches:
    """Unpickled as Python would, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.path}'",)


READERS = (
    read_arrays,
    read_all_arrays,
    read_ctf_table,
    read_latents,
    lambda path: read_poses(path, 64, 1.0),
)


@settings(same_folder, max_examples=120)
@given(data=st.data())
def test_damaged_pickles_run_nothing_and_take_little_memory(tmp_path, data):
    touched = tmp_path / "touched"
    harmless = (np.eye(3)[None].repeat(3, 0), np.zeros((3, 2)))
    content = data.draw(st.sampled_from([harmless, (Touches(touched), *harmless), Touches(touched)]))
    whole = pickle.dumps(content, data.draw(st.integers(0, 5)))
    raw = data.draw(damaged(whole))
    path = tmp_path / "x.pkl"
    path.write_bytes(raw)
    for read in READERS:
        # Every byte may be an opcode that makes an object.
        with little_memory(len(raw), times=1000), contextlib.suppress(CryoAtlasError):
            read(path)
    assert not touched.exists()


def test_the_pickles_that_are_damaged_do_run_when_trusted(tmp_path):
    """Otherwise the test above would prove nothing."""
    pickle.loads(pickle.dumps(Touches(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@pytest.mark.data
@settings(same_folder, max_examples=60)
@given(data=st.data())
def test_damaged_copies_of_the_shared_pickles_raise_only_our_errors(shared_data, tmp_path, data):
    small = sorted(path for path in shared_data.rglob("*.pkl") if path.stat().st_size < 2**15)
    assert len(small) > 5
    raw = data.draw(damaged(data.draw(st.sampled_from(small)).read_bytes()))
    path = tmp_path / "x.pkl"
    path.write_bytes(raw)
    for read in READERS:
        with contextlib.suppress(CryoAtlasError):
            read(path)
