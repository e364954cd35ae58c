""".npy files are read for what they hold, whatever their header says."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoatlas.errors import CryoAtlasError, FormatError, InputError
from cryoatlas.io.npy import read_npy

TABLE = np.zeros(5, [("uid", "<u8"), ("blob/path", "S9"), ("pose", "<f4", (3,)), ("name", "<U4")])
ALLOCATION = 2**24
"""Bytes that reading a small file may take: Python's parser needs some for any header."""


def save(path: Path, array: np.ndarray, **kwargs) -> Path:
    with path.open("wb") as stream:
        np.save(stream, array, **kwargs)
    return path


def saved_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_header(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text + data


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=">i2").reshape(3, 4)),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.zeros((0, 3)),
        np.array(7),
        TABLE,
    ],
)
def test_what_numpy_wrote_is_read(tmp_path, array):
    back = read_npy(save(tmp_path / "x.npy", array), "an array")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_long_header_of_version_2_is_read(tmp_path):
    many = np.ones(2, [(f"alignments_class_{number}/class_posterior", "<f4") for number in range(1500)])
    with pytest.warns(UserWarning, match="format 2"):
        path = save(tmp_path / "x.npy", many)
    assert read_npy(path, "an array").dtype == many.dtype


def test_objects_are_refused_and_never_unpickled(tmp_path):
    path = save(tmp_path / "x.npy", np.array([print, None], object), allow_pickle=True)
    with pytest.raises(FormatError, match="would have to be unpickled"):
        read_npy(path, "an array")
    mixed = np.zeros(2, [("uid", "u8"), ("what", object)])
    with pytest.raises(FormatError, match="column 'what'"):
        read_npy(save(tmp_path / "y.npy", mixed, allow_pickle=True), "an array")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000, 1000000), }",
        "{'descr': [('uid', '<u8', (500000000,))], 'fortran_order': False, 'shape': (500000000,), }",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (10**18,), }",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000000000,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-4, -4), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': 5, }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', [('b', '<f8')])], 'fortran_order': False, 'shape': (1,), }",
        "__import__('os').getcwd()",
        "[" * 5000,
        "",
    ],
)
def test_headers_that_lie_are_refused_without_allocating(tmp_path, header):
    path = tmp_path / "x.npy"
    path.write_bytes(with_header(header, bytes(64)))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            read_npy(path, "an array")
        assert tracemalloc.get_traced_memory()[1] < ALLOCATION
    finally:
        tracemalloc.stop()


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'")
    with pytest.raises(FormatError, match="is not an array"):
        read_npy(path, "an array")


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(saved_bytes(TABLE)[:-1])
    with pytest.raises(FormatError, match=r"announces 5 items of 45 bytes, but 224 bytes"):
        read_npy(path, "an array")
    with pytest.raises(InputError, match="there is no file"):
        read_npy(tmp_path / "missing.npy", "an array")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 500)
)
def test_damaged_files_give_our_errors_or_arrays_no_larger_than_the_file(tmp_path, changes, length):
    content = bytearray(saved_bytes(TABLE))
    for place, value in changes:
        content[place] = value
    path = tmp_path / "x.npy"
    path.write_bytes(content[: len(content) - length] or b"\x93")
    try:
        array = read_npy(path, "an array")
    except CryoAtlasError:
        return
    assert array.nbytes <= path.stat().st_size
