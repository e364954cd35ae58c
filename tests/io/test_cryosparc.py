"""cryoSPARC's tables: numbers as they were meant, and files joined by uid."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoatlas.errors import CryoAtlasError, FormatError, MetadataError
from cryoatlas.io.cryosparc import read_cs, read_cs_array

UID = np.array([2**64 - 1, 2**63 + 1, 5, 7], np.uint64)


def save_cs(path: Path, uid: np.ndarray = UID, **columns: np.ndarray) -> Path:
    """A .cs file; double underscores in names stand for slashes."""
    arrays = {name.replace("__", "/"): np.asarray(values) for name, values in columns.items()}
    kinds = [(name, values.dtype, values.shape[1:]) for name, values in arrays.items()]
    table = np.zeros(len(uid), [("uid", uid.dtype), *kinds])
    table["uid"] = uid
    for name, values in arrays.items():
        table[name] = values
    with path.open("wb") as stream:
        np.save(stream, table)
    return path


def test_numbers_are_the_decimals_that_were_meant(tmp_path):
    stored = np.array([2.95, 1.3099979, 45591.37, -1e-30], np.float32)
    table = read_cs(save_cs(tmp_path / "x.cs", blob__psize_A=stored, pair=np.stack([stored, stored], 1)))
    assert table.number("blob/psize_A").tolist() == [2.95, 1.3099979, 45591.37, -1e-30]
    assert table.number("pair", 2)[:, 1].tolist() == [2.95, 1.3099979, 45591.37, -1e-30]
    # Spelling a number out must not move it: it is still what is stored.
    random = np.random.default_rng(0).normal(scale=1e4, size=4).astype(np.float32)
    table = read_cs(save_cs(tmp_path / "x.cs", x=random))
    np.testing.assert_array_equal(table.number("x").astype(np.float32), random)


def test_uids_keep_all_their_64_bits(tmp_path):
    table = read_cs(save_cs(tmp_path / "x.cs"))
    assert table.uid.tolist() == [18446744073709551615, 9223372036854775809, 5, 7]


def test_texts_are_decoded(tmp_path):
    path = save_cs(
        tmp_path / "x.cs", a=np.array([b"J1/\xc3\xa9", b"", b"b", b"b"]), u=np.array(["é", "", "x", "y"])
    )
    table = read_cs(path)
    assert table.text("a").tolist() == ["J1/é", "", "b", "b"]
    assert table.text("u").tolist() == ["é", "", "x", "y"]
    with pytest.raises(MetadataError, match="no readable text"):
        read_cs(save_cs(tmp_path / "y.cs", a=np.array([b"\xff", b"", b"", b""]))).text("a")
    with pytest.raises(MetadataError, match="no readable text"):
        table.text("uid")
    beyond_unicode = np.full(4, 0x110000, "<u4").view("<U1")
    with pytest.raises(MetadataError, match="no readable text"):
        read_cs(save_cs(tmp_path / "z.cs", u=beyond_unicode)).text("u")


def test_passthrough_rows_are_found_by_uid_whatever_their_order(tmp_path):
    main = save_cs(tmp_path / "main.cs", x=np.arange(4.0))
    more = np.append(UID[[2, 0, 3, 1]], np.uint64(99))  # a passthrough file may have more particles
    extra = save_cs(tmp_path / "p.cs", more, x=np.full(5, -1.0), y=np.array([2.0, 0.0, 3.0, 1.0, 9.0]))
    last = save_cs(tmp_path / "q.cs", y=np.full(4, -2.0), z=np.arange(4.0))
    table = read_cs(main, [extra, last])
    assert table.number("x").tolist() == [0, 1, 2, 3]  # the main file's
    assert table.number("y").tolist() == [0, 1, 2, 3]  # of the first file that has it, in the main order
    assert table.number("z").tolist() == [0, 1, 2, 3]


def test_a_particle_that_the_passthrough_file_lacks_is_an_error(tmp_path):
    main = save_cs(tmp_path / "main.cs")
    with pytest.raises(
        MetadataError, match=r"2 of 4 particles .* the first with uid 9223372036854775809 in row 2"
    ):
        read_cs(main, [save_cs(tmp_path / "p.cs", UID[[0, 2]])])


def test_a_particle_that_stands_twice_is_an_error(tmp_path):
    twice = save_cs(tmp_path / "x.cs", UID[[0, 1, 0, 2]])
    with pytest.raises(
        MetadataError, match="1 particles twice or more, the first with uid 18446744073709551615"
    ):
        read_cs(twice)
    with pytest.raises(MetadataError, match="twice"):
        read_cs(save_cs(tmp_path / "main.cs"), [twice])


def test_bad_numbers_are_named_by_row_and_column(tmp_path):
    table = read_cs(
        save_cs(tmp_path / "x.cs", x=np.array([1.0, np.nan, 2.0, np.inf]), s=np.array([b"a"] * 4))
    )
    with pytest.raises(MetadataError, match=r"row 2 of .*x.cs has nan in column x.*2 of 4 rows"):
        table.number("x")
    with pytest.raises(MetadataError, match="3 numbers should stand there"):
        table.number("x", 3)
    with pytest.raises(MetadataError, match="one number should stand there"):
        table.number("s")


def test_other_files_are_refused_by_what_they_are(tmp_path):
    path = tmp_path / "x.cs"
    path.write_bytes(b"\x94CSDAT" + bytes(100))
    with pytest.raises(FormatError, match=r"stream format \(CSDAT\)"):
        read_cs(path)
    path.write_bytes(b"data_particles")
    with pytest.raises(FormatError, match=r"is not a cryoSPARC \.cs file"):
        read_cs(path)
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(FormatError, match="a table with a column uid was expected"):
        read_cs(path)
    with pytest.raises(FormatError, match="64-bit integers"):
        read_cs(save_cs(path, np.arange(3.0)))
    with pytest.raises(MetadataError, match="no rows"):
        read_cs(save_cs(path, UID[:0]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 255), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_damaged_files_give_our_errors_or_a_table_within_the_file(tmp_path, place, value, cut):
    path = save_cs(
        tmp_path / "x.cs", blob__path=np.array(["a", "b", "c", "d"]), blob__idx=np.arange(4, dtype="u4")
    )
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content[: max(1, len(content) - cut)])
    try:
        table = read_cs(path)
        assert read_cs_array(path).nbytes <= path.stat().st_size
        for name in table.columns:
            read_one_way_or_the_other(table, name)
    except CryoAtlasError:
        return


def read_one_way_or_the_other(table, name: str) -> None:
    try:
        table.number(name)
    except MetadataError:
        table.text(name)
