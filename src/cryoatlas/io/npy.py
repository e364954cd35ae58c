"""NumPy's ``.npy`` files of plain numbers and texts, opened without trusting their header.

The header says of what type and shape the data are. Here it is read first and compared with the
file, and only then is the file mapped into memory: nothing is allocated that it does not hold.
"""

import io
import math
import warnings
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from cryoatlas.errors import FormatError
from cryoatlas.io.inputs import require_file
from cryoatlas.shapes import Array

LONGEST_HEADER = 2**17
"""Bytes. cryoSPARC's longest, of some hundred columns, stay below a third of it."""
PLAIN_KINDS = "biufSU"
"""Kinds of numbers and texts; all else is objects, which only unpickling could make."""


def read_npy(path: Path | str, kind: str) -> Array:
    """The array of a file, mapped from disk and read-only.

    Args:
        path: the file.
        kind: what it should be, for messages, such as ``a .npy file of indices``.

    Raises:
        InputError: there is no such file.
        FormatError: it is no such file, is cut off, or holds anything but plain numbers and texts.
    """
    path = require_file(path, kind)
    shape, fortran, dtype, offset = _header(path, kind)
    _check_plain(path, dtype)
    held, announced = path.stat().st_size - offset, math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape) or announced > held:
        raise FormatError(
            f"{path} announces {_product(shape)} items of {dtype.itemsize} bytes, but {max(held, 0):,} bytes "
            "follow its header: the file was cut off or damaged; copy or export it again."
        )
    if announced == 0:
        return np.zeros(shape, dtype)
    order = "F" if fortran else "C"
    return np.asarray(np.memmap(path, dtype, "r", offset=offset, shape=shape, order=order))


def _header(path: Path, kind: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, type, and where the data begin."""
    with path.open("rb") as file:
        start = io.BytesIO(file.read(LONGEST_HEADER))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old Pythons spelled headers otherwise; that is no one's concern
            major, _ = npy.read_magic(start)
            read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
            shape, fortran, dtype = read(start, max_header_size=LONGEST_HEADER)
    # Damaged headers fail in as many ways as Python's parser has.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise FormatError(
            f"{path} is not {kind} ({reason}): the file is damaged, or of another format."
        ) from error
    return shape, fortran, dtype, start.tell()


def _check_plain(path: Path, dtype: np.dtype) -> None:
    """Refuse types that are no plain numbers or texts, or a table of such."""
    columns = {"": dtype} if dtype.names is None else {name: dtype[name] for name in dtype.names}
    for name, column in columns.items():
        plain = column.base
        if plain.kind not in PLAIN_KINDS or plain.itemsize == 0 or plain.names is not None:
            where = f"column {name!r} of {path}" if name else str(path)
            raise FormatError(
                f"{where} holds items of type {str(plain)[:50]}, but only plain numbers and texts are "
                "read; Python objects would have to be unpickled, which can run any program. Export the file "
                "again."
            )


def _product(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{length:,}" for length in shape) or "1"
