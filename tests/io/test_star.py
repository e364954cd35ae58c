"""Star files: what is read can be written back untouched, and what is wrong is named by row and column."""

import math

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoatlas.errors import CryoAtlasError, FormatError, InputError, MetadataError, OutputError
from cryoatlas.io.star import StarTable, read_star, write_star

RELION31 = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
           1 opticsGroup1   300.000000


# version 30001

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3 [Angstrom]
000001@a.mrcs            1 1.234500e+04
000002@a.mrcs            1 -12345.0

"""


@pytest.fixture
def star(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "particles.star"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def assert_same(first: dict[str, StarTable], second: dict[str, StarTable]) -> None:
    assert list(first) == list(second)
    for name in first:
        assert first[name].names == second[name].names
        assert first[name].is_loop == second[name].is_loop
        for column in first[name].names:
            assert first[name].columns[column].tolist() == second[name].columns[column].tolist()


def test_a_relion_file_gives_its_tables_with_every_value_as_written(star):
    tables = read_star(star(RELION31))
    assert list(tables) == ["optics", "particles"]
    particles = tables["particles"]
    assert particles.names == ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU"]
    assert particles.columns["rlnDefocusU"].tolist() == ["1.234500e+04", "-12345.0"]
    np.testing.assert_array_equal(particles.number("rlnDefocusU"), [12345.0, -12345.0])
    assert particles.text("rlnImageName").tolist() == ["000001@a.mrcs", "000002@a.mrcs"]
    assert particles.has("rlnImageName", "rlnDefocusU")
    assert not particles.has("rlnImageName", "rlnVoltage")


def test_what_was_written_reads_back_the_same(star, tmp_path):
    tables = read_star(star(RELION31))
    write_star(tmp_path / "copy.star", tables)
    assert_same(read_star(tmp_path / "copy.star"), tables)


def test_files_with_optics_carry_relions_version_mark(star, tmp_path):
    write_star(tmp_path / "copy.star", read_star(star(RELION31)))
    assert (tmp_path / "copy.star").read_text().count("# version 30001") == 2
    write_star(tmp_path / "plain.star", {"": StarTable.from_columns({"rlnX": [1]})})
    assert "version" not in (tmp_path / "plain.star").read_text()


def test_an_outside_reader_reads_what_we_write(tmp_path):
    table = StarTable.from_columns({"rlnImageName": ["1@a b.mrcs", "2@c.mrcs"], "rlnDefocusU": [1.5, 1e-7]})
    write_star(tmp_path / "x.star", {"particles": table})
    frame = starfile.read(tmp_path / "x.star")
    assert frame["rlnImageName"].tolist() == ["1@a b.mrcs", "2@c.mrcs"]
    assert frame["rlnDefocusU"].tolist() == [1.5, 1e-7]


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
awkward = st.sampled_from(
    ["", "?", ".", "_x", "#", "data_", "loop_", "a b", "it's", 'a"b', "a'b \" c", ";", "$1", "[1,2]"]
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(texts | awkward, texts | awkward), min_size=1, max_size=5))
def test_any_text_survives_a_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("star") / "x.star"
    first, second = zip(*rows, strict=True)
    tables = {"particles": StarTable.from_columns({"a": first, "b": second})}
    write_star(path, tables)
    back = read_star(path)["particles"]
    assert back.text("a").tolist() == list(first)
    assert back.text("b").tolist() == list(second)
    write_star(path, {"particles": back})
    assert_same(read_star(path), {"particles": back})


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_survive_a_round_trip_exactly(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("star") / "x.star"
    write_star(path, {"": StarTable.from_columns({"x": np.array(values)})})
    assert read_star(path)[""].number("x").tolist() == values


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_only_our_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.star"
    raw = bytearray(RELION31.encode())
    for _ in range(data.draw(st.integers(0, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        for table in read_star(path).values():
            for name in table.names:
                table.text(name)
                table.number(name)
    except CryoAtlasError:
        pass


def test_single_values_make_a_table_of_one_row(star, tmp_path):
    tables = read_star(star("data_general\n\n_rlnIs2D 1\n_rlnName 'two words'\n"))
    assert len(tables["general"]) == 1
    assert tables["general"].text("rlnName").tolist() == ["two words"]
    write_star(tmp_path / "copy.star", tables)
    assert_same(read_star(tmp_path / "copy.star"), tables)


def test_rows_are_selected_in_the_order_given_and_remember_their_numbers(star):
    table = read_star(star("data_\nloop_\n_x\n1\n2\nbad\n4\n"))[""].select(np.array([3, 2]))
    assert table.columns["x"].tolist() == ["4", "bad"]
    with pytest.raises(MetadataError, match="row 3 "):
        table.number("x")
    assert table.select(np.array([0])).row_name(0).startswith("row 4 of ")


def test_a_column_is_replaced_in_place_or_added_at_the_end():
    table = StarTable.from_columns({"a": [1, 2], "b": ["x", "y z"]})
    changed = table.with_column("a", [0.5, 1.0]).with_column("c", ["p", "q"])
    assert changed.names == ["a", "b", "c"]
    assert changed.columns["a"].tolist() == ["0.5", "1.0"]
    assert table.columns["a"].tolist() == ["1", "2"]
    assert changed.without_columns("b", "never there").names == ["a", "c"]
    with pytest.raises(ValueError, match="3 values"):
        table.with_column("d", [1, 2, 3])
    with pytest.raises(ValueError, match="one length"):
        StarTable.from_columns({"a": [1], "b": [1, 2]})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1.2.3", "abc", "''", "?", "1e999"])
def test_what_is_no_finite_number_is_named_by_row_and_column(star, text):
    table = read_star(star(f"data_p\nloop_\n_x\n_rlnDefocusU\n1 2\n3 {text}\n"))["p"]
    with pytest.raises(MetadataError, match=r"row 2 of .*particles.star \(data_p\).* column rlnDefocusU"):
        table.number("rlnDefocusU")


def test_a_missing_column_is_named_beside_those_that_are_there(star):
    table = read_star(star(RELION31))["particles"]
    for read in (table.number, table.text):
        with pytest.raises(MetadataError, match="no column rlnVoltage; it has rlnImageName"):
            read("rlnVoltage")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n# nothing\n", "no data_ block"),
        ("hello", "not a star file"),
        (b"\x00\x01\x02", "not a star file"),
        (b"data_\nloop_\n_a\n'\xff'\n", "not a star file"),
        ("data_\nloop_\n_a #1\n_b #2\n1 2\n3\n4 5\n", r"1 values in row 2 \(line 6\), but 2 columns"),
        ("data_\nloop_\n_a #1\n_b #2\n1 2\n3 4 5\n", r"3 values in row 2 \(line 6\), but 2 columns"),
        ("data_\nloop_\n_a\n_a\n1 2\n", "names something twice"),
        ("data_x\nloop_\n_a\n1\ndata_x\nloop_\n_a\n1\n", "names something twice"),
        ("data_x\n", "0 loops and 0 single values"),
        ("data_x\nloop_\n_a\n1\nloop_\n_b\n1\n", "2 loops and 0 single"),
        ("data_x\n_c 2\nloop_\n_a\n1\n", "1 loops and 1 single"),
        ("data_x\nloop_\n_a\n", "no rows"),
    ],
)
def test_files_that_are_no_tables_are_refused(star, text, message):
    with pytest.raises(FormatError, match=message):
        read_star(star(text))


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(FormatError, match="is a folder"):
        read_star(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        read_star(tmp_path / "missing.star")


def test_a_star_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        write_star(tmp_path / "missing" / "x.star", {"": StarTable.from_columns({"x": [1]})})
    assert not list(tmp_path.iterdir())


@pytest.mark.data
def test_every_shared_star_file_survives_a_round_trip(shared_data, tmp_path):
    files = sorted(shared_data.rglob("*.star"))
    assert len(files) > 10
    for path in files:
        tables = read_star(path)
        write_star(tmp_path / "copy.star", tables)
        assert_same(read_star(tmp_path / "copy.star"), tables)


@pytest.mark.data
def test_an_outside_reader_agrees_on_the_numbers(shared_data):
    path = shared_data / "dist" / "empiar10204_betagal_particles.star"
    ours, frame = read_star(path)["particles"], starfile.read(path)["particles"]
    for name in ("rlnDefocusU", "rlnAngleRot", "rlnOriginXAngst"):
        assert all(map(math.isclose, ours.number(name), frame[name].astype(float)))


def test_names_of_files_are_written_without_quotes(tmp_path):
    """Not every program that reads star files knows quotes; what needs them gets them."""
    plain = ["000001@stacks/my_particles.mrcs", "-0.5", "opticsGroup_1", "a[1]"]
    for text in plain:
        assert StarTable.from_columns({"a": [text]}).columns["a"][0] == text
    for text in ["a b", "", "_a", "data_1", "loop_", "'a'", "#1", "[1,2]", "a'b"]:
        table = StarTable.from_columns({"a": [text], "b": ["1"]})
        write_star(tmp_path / "quoted.star", {"t": table})
        assert read_star(tmp_path / "quoted.star")["t"].text("a")[0] == text
