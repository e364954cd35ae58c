"""Files of row numbers: which particles to take, counted from 0 as cryoDRGN and NumPy count."""

import re
from pathlib import Path

import numpy as np

from cryoatlas.errors import FormatError, MetadataError
from cryoatlas.io import cryodrgn
from cryoatlas.io.inputs import require_file
from cryoatlas.io.npy import read_npy
from cryoatlas.particles.sources import PICKLE_SUFFIXES
from cryoatlas.shapes import Array, Int

TEXT_SUFFIXES = (".txt", ".csv")
NUMBER = re.compile(rb"[-+]?[\d.]+(?:[eE][-+]?\d+)?")
FIRST_WORDS = 4096
KIND = "a file of row numbers (.pkl, .npy, .txt or .csv)"


def read_indices(path: Path | str, count: int) -> Int[Array, "some"]:
    """Positions of some of `count` particles, from 0, in the order of the file.

    A ``.pkl`` or ``.npy`` holds a list of whole numbers, or as many yes or no as there are particles. A
    ``.txt`` or ``.csv`` has one number in each line, or several apart by commas or blanks; a first line
    that is no number is a heading.

    Raises:
        InputError: there is no such file.
        FormatError: it is of another format.
        MetadataError: a number is negative, not whole, larger than there are particles, or stands twice;
            or there is none.
    """
    path = Path(path)
    values = read_numbers(path)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise MetadataError(
            f"{path} holds {values.dtype} of shape {values.shape}, but a list of row numbers was expected."
        )
    if values.dtype.kind == "b":
        return _from_mask(path, values, count)
    _check_numbers(path, values, count)
    return values.astype(np.int64)


def read_numbers(path: Path | str) -> Array:
    """The numbers of such a file, whatever they mean.

    Raises:
        InputError: there is no such file.
        FormatError: it is of another format.
        MetadataError: it is a pickle of several parts.
    """
    path = require_file(path, KIND)
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        return _from_pickle(path)
    if suffix == ".npy":
        return np.array(read_npy(path, KIND))
    if suffix in TEXT_SUFFIXES:
        return _from_text(path)
    raise FormatError(f"{path} is not {KIND}: its suffix says nothing of its kind.")


def is_list_of_numbers(path: Path) -> bool:
    """Whether a text file begins with a number, rather than with the name of a stack."""
    with path.open("rb") as file:
        words = re.split(rb"[,;\s]+", file.read(FIRST_WORDS).strip())
    return NUMBER.fullmatch(words[0]) is not None


def _from_pickle(path: Path) -> Array:
    content = cryodrgn.read_arrays(path)
    if isinstance(content, np.ndarray):
        return content
    if not all(isinstance(number, int) for number in content):
        raise MetadataError(f"{path} holds {len(content)} parts, but one list of row numbers was expected.")
    try:
        return np.array(content, np.int64)
    except OverflowError:
        raise MetadataError(f"{path} holds a number beyond 64 bits, which is no row number.") from None


def _from_text(path: Path) -> Array:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no text file ({error.reason}), but {KIND} was expected.") from error
    values: list[float] = []
    for number, line in enumerate(lines, 1):
        try:
            values += [float(word) for word in re.split(r"[,;\s]+", line.strip()) if word]
        except ValueError:
            if number > 1:
                raise FormatError(
                    f"line {number} of {path} is '{line[:50]}', but row numbers were expected."
                ) from None
    return np.array(values)


def _from_mask(path: Path, mask: Array, count: int) -> Int[Array, "some"]:
    if len(mask) != count:
        raise MetadataError(
            f"{path} holds {len(mask):,} of yes or no, but there are {count:,} particles: it belongs to "
            "another file."
        )
    return _some(path, np.flatnonzero(mask))


def _check_numbers(path: Path, values: Array, count: int) -> None:
    _some(path, values)
    wrong = np.flatnonzero(~((values >= 0) & (values < count) & (values == np.round(values)))).tolist()
    if wrong:
        raise MetadataError(
            f"number {wrong[0] + 1} of {path} is {values[wrong[0]]:g}, but positions of {count:,} particles "
            f"are whole and from 0 to {count - 1:,}; {len(wrong):,} of {len(values):,} are not: the file "
            "belongs to other particles, or counts from 1."
        )
    ordered = np.sort(values)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):
        raise MetadataError(
            f"{path} names {len(again):,} particles twice, the first at position {again[0]:g}: name each "
            "once."
        )


def _some(path: Path, values: Array) -> Array:
    if len(values) == 0:
        raise MetadataError(f"{path} names no particle: the selection is empty.")
    return values
