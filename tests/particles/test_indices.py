"""Row numbers from files of every kind, counted from 0, and nothing else taken for them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from cryoatlas.errors import CryoAtlasError, FormatError, InputError, MetadataError
from cryoatlas.particles.indices import read_indices

WANTED = [7, 0, 3]


def write_pickle(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def write_npy(path: Path, content: np.ndarray) -> Path:
    np.save(path, content)
    return path


def write_text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


KINDS = {
    "an array": lambda folder: write_pickle(folder / "x.pkl", np.array(WANTED)),
    "an array of 32 bits": lambda folder: write_pickle(folder / "x.pkl", np.array(WANTED, np.int32)),
    "a list": lambda folder: write_pickle(folder / "x.pkl", WANTED),
    "a tuple": lambda folder: write_pickle(folder / "x.pkl", tuple(WANTED)),
    "floats that are whole": lambda folder: write_pickle(folder / "x.pkl", np.array(WANTED, np.float64)),
    "npy": lambda folder: write_npy(folder / "x.npy", np.array(WANTED, np.uint16)),
    "lines": lambda folder: write_text(folder / "x.txt", "7\n0\n3\n"),
    "one line": lambda folder: write_text(folder / "x.txt", "7, 0,3"),
    "csv with a heading": lambda folder: write_text(folder / "x.csv", "index\n7\n0\n3\n"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_read_in_their_order(tmp_path, kind):
    chosen = read_indices(KINDS[kind](tmp_path), 8)
    assert chosen.tolist() == WANTED
    assert chosen.dtype == np.int64


def test_a_mask_takes_the_particles_where_it_says_yes(tmp_path):
    mask = np.array([True, False, False, True])
    assert read_indices(write_npy(tmp_path / "x.npy", mask), 4).tolist() == [0, 3]
    with pytest.raises(MetadataError, match="4 of yes or no, but there are 5 particles"):
        read_indices(tmp_path / "x.npy", 5)


REFUSED = {
    "a number too large": ([0, 8], r"number 2 of .* is 8, but positions of 8 particles are .*counts from 1"),
    "a negative number": ([-1, 2], "number 1 of .* is -1"),
    "a fraction": ([0.0, 1.5], "number 2 of .* is 1.5"),
    "not a number": ([0.0, np.nan], "number 2 of .* is nan"),
    "a number twice": ([3, 1, 3], "names 1 particles twice, the first at position 3"),
    "none": (np.zeros(0, int), "names no particle"),
    "a table": ([[1, 2], [3, 4]], r"of shape \(2, 2\), but a list of row numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_are_no_row_numbers_is_refused(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(MetadataError, match=message):
        read_indices(write_npy(tmp_path / "x.npy", np.array(content)), 8)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(MetadataError, match="2 parts"):
        read_indices(write_pickle(tmp_path / "x.pkl", [np.zeros(3), 1]), 8)
    with pytest.raises(MetadataError, match="beyond 64 bits"):
        read_indices(write_pickle(tmp_path / "x.pkl", [2**70]), 8)
    with pytest.raises(FormatError, match=r"line 2 of .* is 'a b'"):
        read_indices(write_text(tmp_path / "x.txt", "1\na b\n"), 8)
    with pytest.raises(MetadataError, match="names no particle"):
        read_indices(write_text(tmp_path / "x.csv", "index\n"), 8)
    with pytest.raises(FormatError, match="its suffix says nothing"):
        read_indices(write_text(tmp_path / "x.dat", "1"), 8)
    with pytest.raises(InputError, match="there is no file"):
        read_indices(tmp_path / "missing.pkl", 8)
    (tmp_path / "y.txt").write_bytes(b"1\n\xff\xfe")
    with pytest.raises(FormatError, match="is no text file"):
        read_indices(tmp_path / "y.txt", 8)


class Hostile:
    """What a pickle can do to those who trust it."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trap,)


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: [trap], lambda trap: [1, 2, trap]])
def test_a_hostile_pickle_is_refused_before_it_does_anything(tmp_path, wrap):
    path = write_pickle(tmp_path / "x.pkl", wrap(Hostile(tmp_path / "done")))
    with pytest.raises(CryoAtlasError, match="is refused"):
        read_indices(path, 8)
    assert not (tmp_path / "done").exists()
