"""cryoDRGN's pickles are read for their arrays, and nothing that a pickle could do is done."""

import contextlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryoatlas.errors import CryoAtlasError, FormatError, InputError, MetadataError
from cryoatlas.io.cryodrgn import read_arrays, read_ctf_table, read_latents, read_poses

ROTATIONS = Rotation.random(5, np.random.default_rng(0)).as_matrix()
FRACTIONS = np.random.default_rng(1).uniform(-0.2, 0.2, (5, 2))


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["f4", ">f8", "i8", "?"])
def test_arrays_of_every_protocol_and_type_are_read(tmp_path, protocol, dtype):
    array = np.random.default_rng(2).integers(0, 2, (3, 4)).astype(dtype)
    content = [array, np.asfortranarray(array), array[::2], np.float64(2.5), 7, "word", None]
    back = read_arrays(dump(tmp_path / "x.pkl", content, protocol))
    assert isinstance(back, tuple)
    for read, written in zip(back[:3], content[:3], strict=True):
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)
    assert back[3:] == (2.5, 7, "word", None)


def test_shifts_change_sign_and_unit(tmp_path):
    path = dump(tmp_path / "poses.pkl", (ROTATIONS, FRACTIONS))
    rotations, shifts = read_poses(path, box_size=64, pixel_size=2.5)
    np.testing.assert_array_equal(rotations, ROTATIONS)
    np.testing.assert_allclose(shifts, -FRACTIONS * 160, rtol=1e-15)


@pytest.mark.parametrize("wrap", [lambda rotations: rotations, lambda rotations: (rotations,)])
def test_rotations_alone_mean_no_shift(tmp_path, wrap):
    rotations, shifts = read_poses(dump(tmp_path / "poses.pkl", wrap(ROTATIONS)), 64, 2.5)
    np.testing.assert_array_equal(rotations, ROTATIONS)
    np.testing.assert_array_equal(shifts, np.zeros((5, 2)))


@pytest.mark.parametrize(
    "content",
    [
        (ROTATIONS, FRACTIONS[:4]),
        (ROTATIONS, FRACTIONS, FRACTIONS),
        FRACTIONS,
        (ROTATIONS, 3.0),
        (),
        5,
        np.float64(3),
        [ROTATIONS.astype(str)],
    ],
)
def test_what_are_no_poses_is_refused(tmp_path, content):
    with pytest.raises(InputError):
        read_poses(dump(tmp_path / "poses.pkl", content), 64, 2.5)


@pytest.mark.parametrize("spoil", [lambda r: 1.1 * r, lambda r: -r, lambda r: np.nan * r])
def test_a_matrix_that_is_no_rotation_is_named(tmp_path, spoil):
    rotations = ROTATIONS.copy()
    rotations[3] = spoil(rotations[3])
    with pytest.raises(MetadataError, match=r"matrix 4 of .*; 1 of 5 are wrong"):
        read_poses(dump(tmp_path / "poses.pkl", (rotations, FRACTIONS)), 64, 2.5)


@pytest.mark.parametrize("value", [0.51, -3.0, np.nan])
def test_a_shift_beyond_half_the_box_is_named(tmp_path, value):
    fractions = FRACTIONS.copy()
    fractions[2, 1] = value
    with pytest.raises(MetadataError, match=r"shift 3 of .*beyond half the box"):
        read_poses(dump(tmp_path / "poses.pkl", (ROTATIONS, fractions)), 64, 2.5)


def test_ctf_tables_have_nine_finite_columns(tmp_path):
    table = np.arange(36, dtype=np.float32).reshape(4, 9)
    np.testing.assert_array_equal(read_ctf_table(dump(tmp_path / "ctf.pkl", table)), table)
    with pytest.raises(MetadataError, match="table of 9 columns"):
        read_ctf_table(dump(tmp_path / "ctf.pkl", table[:, :8]))
    table[2, 5] = np.inf
    with pytest.raises(MetadataError, match=r"row 3 .* inf as kV"):
        read_ctf_table(dump(tmp_path / "ctf.pkl", table))


class Hostile:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_a_program_is_refused_before_it_runs(tmp_path):
    for protocol in range(6):
        content = (ROTATIONS, Hostile(Path.touch, tmp_path / "was_here"))
        path = dump(tmp_path / "hostile.pkl", content, protocol)
        with pytest.raises(FormatError, match="is refused"):
            read_arrays(path)
        assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.frombuffer, open, bytearray])
def test_no_function_but_ours_is_admitted(tmp_path, function):
    with pytest.raises(FormatError, match=r"asks for .* refused"):
        read_arrays(dump(tmp_path / "x.pkl", Hostile(function, "1")))


@pytest.mark.parametrize(
    "content",
    [
        np.array([{}, 1], dtype=object),
        np.array(["a", "b"]),
        np.zeros(2, "c16"),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, "M8[s]"),
        {"a": np.zeros(2)},
        [[np.zeros(2)]],
        {1, 2},
    ],
)
def test_anything_but_arrays_of_plain_numbers_is_refused(tmp_path, content):
    with pytest.raises(FormatError):
        read_arrays(dump(tmp_path / "x.pkl", content))


def test_the_readers_own_functions_cannot_be_altered(tmp_path):
    # numpy's dtype function on the stack, then BUILD with attributes for it.
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(FormatError, match="state of something that is no array"):
        read_arrays(path)


def test_lengths_beyond_the_file_take_no_memory(tmp_path):
    huge = struct.pack("<Q", 2**40)
    for opcode in (b"\x96", b"\x8e", b"\x8d", b"\x95"):  # BYTEARRAY8, BINBYTES8, BINUNICODE8, FRAME
        (tmp_path / "x.pkl").write_bytes(b"\x80\x05" + opcode + huge + b"abc.")
        with pytest.raises(FormatError):
            read_arrays(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04]K\x01r\xff\xff\xff\x7fa.")  # LONG_BINPUT far out
    assert read_arrays(tmp_path / "x.pkl") == (1,)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04", b"\x80\xff."])
def test_what_is_no_pickle_is_refused(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(FormatError):
        read_arrays(tmp_path / "x.pkl")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_pickles_raise_only_our_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.pkl"
    raw = bytearray(pickle.dumps((ROTATIONS, FRACTIONS), data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(0, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with contextlib.suppress(CryoAtlasError):
        read_poses(path, 64, 1.0)


@pytest.mark.data
def test_the_shared_pickles_agree_with_plain_unpickling(shared_data):
    files = sorted(shared_data.rglob("*.pkl"))
    assert len(files) > 10
    for path in files:
        ours, plain = read_arrays(path), pickle.loads(path.read_bytes())
        for read, written in zip(
            ours if isinstance(ours, tuple) else (ours,),
            plain if isinstance(plain, tuple) else (plain,),
            strict=True,
        ):
            assert read.dtype == written.dtype
            np.testing.assert_array_equal(read, written)


def write_pickles(path: Path, *contents: object) -> Path:
    path.write_bytes(b"".join(pickle.dumps(content) for content in contents))
    return path


def test_latents_are_read_with_and_without_variances(tmp_path):
    mean, log_variance = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    z, nothing = read_latents(write_pickles(tmp_path / "z.pkl", mean))
    assert nothing is None
    np.testing.assert_array_equal(z, mean)
    z, variance = read_latents(write_pickles(tmp_path / "z.pkl", mean, log_variance))
    np.testing.assert_array_equal(z, mean)
    np.testing.assert_array_equal(variance, log_variance)


@pytest.mark.parametrize(
    "contents",
    [
        (np.zeros(5),),
        (np.zeros((5, 2)), np.zeros((5, 3))),
        (np.zeros((5, 2)),) * 3,
        (np.zeros((5, 2), int),),
        ([np.zeros((5, 2)), np.zeros((5, 2))],),
        (np.array([[0.0, np.nan]]),),
    ],
)
def test_what_are_no_latents_is_refused(tmp_path, contents):
    with pytest.raises(MetadataError, match=r"z\.pkl"):
        read_latents(write_pickles(tmp_path / "z.pkl", *contents))


def test_a_hostile_pickle_behind_a_harmless_one_is_refused(tmp_path):
    with pytest.raises(FormatError, match="is refused"):
        read_latents(write_pickles(tmp_path / "z.pkl", np.zeros((5, 2)), print))
    path = tmp_path / "z.pkl"
    path.write_bytes(pickle.dumps(np.zeros((5, 2))) + b"trailing")
    with pytest.raises(FormatError, match="not a pickle of arrays"):
        read_latents(path)
