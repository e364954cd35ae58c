"""cryoDRGN's pickles of poses, CTF parameters, row numbers and latents, read without trusting them.

A pickle is a program that may run anything. Here it runs with two callables of ours in place of
numpy's, which only write down what an array is made of; every other name it asks for is refused.
Arrays are then built from the bytes, for plain numbers only and no longer than the bytes are.
"""

import io
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cryoatlas.errors import FormatError, InputError, MetadataError
from cryoatlas.io.inputs import require_file
from cryoatlas.shapes import Array, Float

PLAIN_NUMBER = re.compile(r"[<>|=]?[biuf][1248]")
CTF_COLUMNS = ("D", "pixel size", "defocus U", "defocus V", "defocus angle", "kV", "Cs", "w", "phase shift")
ORTHOGONALITY_TOLERANCE = 1e-3
"""Largest |RᵀR − 1|: rotations stored as float32 and multiplied a few times stay well below."""


def read_poses(
    path: Path | str, box_size: int, pixel_size: float
) -> tuple[Float[Array, "pose 3 3"], Float[Array, "pose 2"]]:
    """Rotations and shifts of a ``poses.pkl``.

    cryoDRGN's rotations follow convention C3, as ours. Its shifts are RELION's origins as a fraction
    of the box, so the shift in our sign (C4) is t = −fraction · box · pixel size. A file of rotations
    alone means that all shifts are zero.

    Args:
        path: the pickle.
        box_size: of the images that the poses belong to, px.
        pixel_size: Å.

    Returns:
        Rotations that take volume to image coordinates, and shifts in Å, float64.

    Raises:
        InputError: there is no such file.
        FormatError: the file is no pickle of arrays, or asks for anything else to be done.
        MetadataError: shapes are wrong, or a matrix is no rotation, or a shift leaves the box.
    """
    content = read_arrays(path)
    parts = content if isinstance(content, tuple) else (content,)
    shapes = [part.shape if isinstance(part, np.ndarray) else None for part in parts]
    count = len(parts[0]) if shapes and shapes[0] else 0
    if shapes not in ([(count, 3, 3)], [(count, 3, 3), (count, 2)]):
        raise MetadataError(
            f"{path} holds {_describe(content)}, but poses are rotations (N, 3, 3), alone or with shifts "
            "(N, 2)."
        )
    rotations = _float64(parts[0])
    fractions = _float64(parts[1]) if len(parts) == 2 else np.zeros((count, 2))
    _check_rotations(path, rotations)
    _check_fractions(path, fractions)
    return rotations, -fractions * box_size * pixel_size


def read_ctf_table(path: Path | str) -> Float[Array, "image 9"]:
    """The table of a ``ctf.pkl``, as it is stored, in float64.

    Columns: box size (px), pixel size (Å), defocus U and V (Å), defocus angle (degrees), voltage (kV),
    spherical aberration (mm), amplitude contrast, phase shift (degrees).

    Raises:
        InputError: there is no such file.
        FormatError: the file is no pickle of arrays, or asks for anything else to be done.
        MetadataError: the table has other than nine columns, or values that are not finite.
    """
    content = read_arrays(path)
    if not isinstance(content, np.ndarray) or content.ndim != 2 or content.shape[1] != len(CTF_COLUMNS):
        raise MetadataError(
            f"{path} holds {_describe(content)}, but a table of {len(CTF_COLUMNS)} columns was expected "
            f"({', '.join(CTF_COLUMNS)}): make it with a recent `cryodrgn parse_ctf_star`."
        )
    table = _float64(content)
    rows, columns = np.nonzero(~np.isfinite(table))
    if len(rows):
        raise MetadataError(
            f"row {rows[0] + 1} of {path} has {table[rows[0], columns[0]]} as {CTF_COLUMNS[columns[0]]}, but "
            "a finite number was expected: remove or correct this row."
        )
    return table


def read_latents(
    path: Path | str,
) -> tuple[Float[Array, "image latent"], Float[Array, "image latent"] | None]:
    """The z of every image in a ``z.pkl``, and ln of its posterior variance.

    cryoDRGN's `train_vae` writes two pickles one after the other, other programs of it the first alone.

    Returns:
        Mean and logarithm of the variance, float64; None for a variance that is not there.

    Raises:
        InputError: there is no such file.
        FormatError: the file is no pickle of arrays, or asks for anything else to be done.
        MetadataError: the arrays are no tables of one shape, or hold what is not finite.
    """
    parts = read_all_arrays(path)
    shapes = [
        part.shape if isinstance(part, np.ndarray) and part.dtype.kind == "f" else None for part in parts
    ]
    if shapes[0] is None or len(shapes[0]) != 2 or len(parts) > 2 or shapes[-1] != shapes[0]:
        raise MetadataError(
            f"{path} holds {', '.join(map(_describe, parts))}, but latents are one or two tables of one "
            "shape, with one row for each image."
        )
    tables = [_float64(np.asarray(part)) for part in parts]
    bad = np.flatnonzero(~np.isfinite(tables[0]).all(1))
    if len(bad):
        raise MetadataError(
            f"row {bad[0] + 1} of {path} has {tables[0][bad[0]]} as z, but finite numbers were expected; "
            f"{len(bad)} of {len(tables[0])} rows are bad: the training diverged."
        )
    return tables[0], tables[1] if len(tables) == 2 else None


def read_arrays(path: Path | str) -> Array | tuple:
    """The array of a pickle, or the tuple (from a list or tuple) of its arrays and plain values.

    Raises:
        InputError: there is no such file.
        FormatError: the file is no pickle, or holds or asks for anything but arrays of plain numbers.
    """
    path = require_file(path, "a pickle of arrays (.pkl)")
    return _load(path, io.BytesIO(path.read_bytes()))


def read_all_arrays(path: Path | str) -> list[Array | tuple]:
    """What `read_arrays` gives, of each of the pickles that stand one after the other in a file.

    Raises:
        InputError, FormatError: as `read_arrays`.
    """
    path = require_file(path, "a pickle of arrays (.pkl)")
    stream = io.BytesIO(path.read_bytes())
    contents = []
    while stream.tell() < stream.getbuffer().nbytes:
        contents.append(_load(path, stream))
    return contents


def _load(path: Path, stream: io.BytesIO) -> Array | tuple:
    try:
        content = _ArrayUnpickler(stream).load()
        if isinstance(content, list | tuple):
            return tuple(_finished(part) for part in content)
        if not isinstance(content, _ArrayParts):
            raise FormatError(f"holds a {type(content).__name__}, but arrays were expected.")
        return content.build()
    except InputError as error:
        raise FormatError(f"{path} {error}") from None
    # Damaged opcodes fail in as many ways as Python has; none of them is our fault.
    except (Exception, RecursionError) as error:
        raise FormatError(
            f"{path} is not a pickle of arrays ({type(error).__name__}: {error}): give the .pkl written by "
            "cryoDRGN."
        ) from error


@dataclass
class _ArrayParts:
    """What a pickle says about an array, in place of the array."""

    dtype: "_DType | None" = None
    shape: tuple = ()
    fortran: bool = False
    data: bytes | bytearray = b""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def build(self) -> Array:
        """The array, if it is one of plain numbers and as long as its data."""
        if not isinstance(self.dtype, _DType) or not isinstance(self.data, bytes | bytearray):
            raise FormatError("holds an array of something else than plain numbers, which is not read.")
        flat = np.frombuffer(bytearray(self.data), self.dtype.numpy())
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


@dataclass
class _DType:
    """What a pickle says about the type of an array's elements."""

    code: str
    byte_order: str = "="

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = state[1]

    def numpy(self) -> np.dtype:
        """The type, if it is a plain number."""
        spelled = self.byte_order + self.code.lstrip("<>|=")
        if not PLAIN_NUMBER.fullmatch(spelled):
            raise FormatError(f"holds an array of type {spelled[:20]!r}, but only plain numbers are read.")
        return np.dtype(spelled)


def _reconstruct(*_: object) -> _ArrayParts:
    return _ArrayParts()


def _from_buffer(data: bytes | bytearray, dtype: _DType, shape: tuple, order: str) -> _ArrayParts:
    return _ArrayParts(dtype, shape, order == "F", data)


def _dtype(code: str, *_: object) -> _DType:
    return _DType(code)


def _scalar(dtype: _DType, data: bytes) -> _ArrayParts:
    return _ArrayParts(dtype, (), False, data)


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 carry bytes."""
    if encoding != "latin1":
        raise FormatError(f"encodes text as {encoding!r}, which arrays do not.")
    return text.encode("latin1")


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayParts,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]
"""The unpickler written in Python: the one in C takes the memory that a hostile file asks for."""


class _ArrayUnpickler(PythonUnpickler):
    dispatch: ClassVar[dict] = dict(PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise FormatError(
                f"asks for {module}.{name}, which is refused: a pickle can run any program, and only plain "
                "arrays are read from one. If you trust its source, save the arrays again with cryoDRGN."
            )
        return ADMITTED[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise FormatError("refers to objects outside itself, which is refused.")

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], _ArrayParts | _DType):
            raise FormatError("sets the state of something that is no array, which is refused.")
        super().load_build()

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)  # never more than the file holds
        if len(data) < length:
            raise FormatError("ends before the data of its arrays do: it was cut off.")
        self.append(bytearray(data))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _finished(content: object) -> Any:
    if isinstance(content, _ArrayParts):
        return content.build()
    if content is None or isinstance(content, bool | int | float | str):
        return content
    raise FormatError(f"holds a {type(content).__name__}, but only arrays and plain values are read.")


def _float64(array: Array) -> Float[Array, "..."]:
    with np.errstate(invalid="ignore"):  # a damaged NaN of few bits
        return np.ascontiguousarray(array, dtype=np.float64)


def _describe(content: object) -> str:
    if isinstance(content, tuple):
        return "(" + ", ".join(_describe(part) for part in content) + ")"
    if isinstance(content, np.ndarray):
        return f"an array of shape {content.shape}"
    return f"a {type(content).__name__}"


def _check_rotations(path: Path | str, rotations: Float[Array, "pose 3 3"]) -> None:
    wrong = ~(np.abs(rotations).max((1, 2)) < 2)
    plausible = np.where(wrong[:, None, None], 0.0, rotations)
    identity = plausible.transpose(0, 2, 1) @ plausible
    wrong |= ~(np.abs(identity - np.eye(3)).max((1, 2)) < ORTHOGONALITY_TOLERANCE)
    wrong |= ~(np.linalg.det(plausible) > 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MetadataError(
            f"matrix {row + 1} of {path} is no rotation (RᵀR differs from 1, or it mirrors); {wrong.sum()} "
            f"of {len(wrong)} are wrong: make the poses again, or remove these rows."
        )


def _check_fractions(path: Path | str, fractions: Float[Array, "pose 2"]) -> None:
    beyond = ~(np.abs(fractions).max(1) <= 0.5)
    if beyond.any():
        row = int(np.argmax(beyond))
        raise MetadataError(
            f"shift {row + 1} of {path} is {fractions[row].tolist()} boxes, beyond half the box; "
            f"{beyond.sum()} of {len(beyond)} are. Shifts must be fractions of the box: files of old "
            "versions hold pixels, parse the poses again with a recent cryoDRGN."
        )
