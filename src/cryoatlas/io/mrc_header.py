"""The 1,024-byte header of MRC files, read with suspicion and written to the MRC2014 standard.

Old programs leave out the ``MAP`` mark, the byte-order stamp or the cell, so none of these is needed
to read a file; sizes, mode and axes must make sense, and the file must be as long as they say.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from cryoatlas.errors import FormatError, ImageDataError
from cryoatlas.io.inputs import require_file

HEADER_BYTES = 1024
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""Supported modes; mode 0 is signed, as MRC2014 has it."""
UNSUPPORTED = {3: "complex 16-bit integers", 4: "complex 32-bit floats", 101: "4-bit integers"}
LARGEST_SIDE = 2**16
"""Sides from here on are nonsense; below it, a side read in the wrong byte order is always above it."""
ByteOrder = Literal["<", ">"]
STAMPS: dict[int, ByteOrder] = {0x44: "<", 0x11: ">"}
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"PK": "zip"}


@dataclass(frozen=True)
class MrcHeader:
    """What the header of an MRC stack or volume says, checked against the length of the file."""

    path: Path
    columns: int
    rows: int
    sections: int
    """Images of a stack, or sections of a volume."""
    mode: int
    byte_order: ByteOrder
    """``<`` little-endian or ``>`` big-endian."""
    data_offset: int
    """Bytes before the first pixel: the header and its extension."""
    spacing: tuple[float, float, float] | None
    """Sampling along x, y, z in Å; None where the header has no usable cell."""
    origin: tuple[float, float, float]
    """Coordinates x, y, z of the first voxel, Å."""
    axes: tuple[int, int, int]
    """The axes (1, 2, 3 for x, y, z) of columns, rows and sections."""
    space_group: int
    surplus_bytes: int
    """Bytes of the file beyond the last pixel."""

    @property
    def dtype(self) -> np.dtype:
        """Type of a pixel as stored."""
        return np.dtype(self.byte_order + DTYPES[self.mode])

    @property
    def section_bytes(self) -> int:
        """Bytes of one image or section."""
        return self.columns * self.rows * self.dtype.itemsize

    @property
    def pixel_size(self) -> float | None:
        """Sampling along x in Å, None where the header does not say; often wrong in particle stacks."""
        return None if self.spacing is None else self.spacing[0]

    @property
    def box_size(self) -> int:
        """Side of the square images of a stack, px.

        Raises:
            ImageDataError: the images are not square.
        """
        if self.columns != self.rows:
            raise ImageDataError(
                f"{self.path} holds images of {self.columns} × {self.rows} px, but particle images must be "
                "square: extract the particles again with a square box."
            )
        return self.columns


def read_header(path: Path | str) -> MrcHeader:
    """The header of an ``.mrc``, ``.mrcs``, ``.map`` or ``.st`` file.

    Raises:
        InputError: there is no such file, or no permission to read it.
        FormatError: it is empty, a folder, not MRC, of an unsupported mode, or shorter than its header
            says.
    """
    path = require_file(path, "an MRC file")
    with path.open("rb") as stream:
        raw = stream.read(HEADER_BYTES)
        size = os.fstat(stream.fileno()).st_size
    for magic, name in COMPRESSED.items():
        if raw.startswith(magic) and raw[208:212] != b"MAP ":
            raise FormatError(f"{path} is compressed ({name}): uncompress it first.")
    if len(raw) < HEADER_BYTES:
        raise FormatError(
            f"{path} holds {len(raw)} bytes, less than the {HEADER_BYTES} of an MRC header: it is not an "
            "MRC file, or was cut off while being written or copied."
        )
    words, byte_order = _decode(path, raw)
    header = _interpret(path, words, byte_order, size)
    _check_length(header, size, marked=bytes(words["map"])[:3] == b"MAP")
    return header


def encode_header(
    shape: tuple[int, int, int],
    pixel_size: float,
    origin: tuple[float, float, float],
    statistics: tuple[float, float, float, float],
    *,
    stack: bool,
    mode: int = 2,
) -> bytes:
    """The header of a little-endian file.

    Args:
        shape: sections (images of a stack), rows, columns.
        pixel_size: Å.
        origin: coordinates x, y, z of the first voxel, Å.
        statistics: minimum, maximum, mean and standard deviation of all pixels.
        stack: images (space group 0, one section per image) instead of a volume (space group 1).
        mode: type of the pixels, a key of `DTYPES`.
    """
    words = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    sections, rows, columns = shape
    sampling = (columns, rows, 1 if stack else sections)
    words["nx"], words["ny"], words["nz"] = columns, rows, sections
    words["mode"] = mode
    words["mx"], words["my"], words["mz"] = sampling
    words["cella"] = tuple(pixel_size * count for count in sampling)
    words["cellb"] = (90, 90, 90)
    words["mapc"], words["mapr"], words["maps"] = 1, 2, 3
    words["dmin"], words["dmax"], words["dmean"], words["rms"] = statistics
    words["ispg"] = 0 if stack else 1
    words["nversion"] = 20140
    words["origin"] = origin
    words["map"] = b"MAP "
    words["machst"] = (0x44, 0x44, 0, 0)
    words["nlabl"] = 1
    words["label"][0] = b"written by CryoAtlas"
    return words.tobytes()


def _decode(path: Path, raw: bytes) -> tuple[np.void, ByteOrder]:
    """The header's words in the byte order in which they make sense, the stamped one tried first."""
    first = STAMPS.get(raw[212], "<")
    second: ByteOrder = ">" if first == "<" else "<"
    for byte_order in (first, second):
        words = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(byte_order))[0]
        if _is_plausible(words):
            return words, byte_order
    raise FormatError(
        f"{path} is not an MRC file: its sizes, mode and axes make no sense in either byte order "
        f"(read as {'little' if first == '<' else 'big'}-endian: {_sizes(raw, first)}). "
        "Give an .mrc, .mrcs or .map file."
    )


def _is_plausible(words: np.void) -> bool:
    columns, rows, sections, mode, extension, *axes = (
        int(words[name]) for name in ("nx", "ny", "nz", "mode", "nsymbt", "mapc", "mapr", "maps")
    )
    return (
        0 < columns < LARGEST_SIDE
        and 0 < rows < LARGEST_SIDE
        and sections > 0
        and 0 <= mode < 128
        and extension >= 0
        and sorted(axes) in ([1, 2, 3], [0, 0, 0])
    )


def _sizes(raw: bytes, byte_order: ByteOrder) -> str:
    words = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(byte_order))[0]
    return f"{words['nx']} × {words['ny']} × {words['nz']}, mode {words['mode']}"


def _interpret(path: Path, words: np.void, byte_order: ByteOrder, size: int) -> MrcHeader:
    mode = int(words["mode"])
    if mode not in DTYPES:
        stored = UNSUPPORTED.get(mode, "unknown")
        raise FormatError(
            f"{path} is of MRC mode {mode} ({stored}), but only real images can be used (modes "
            f"{', '.join(map(str, DTYPES))}): convert it to mode 2 (32-bit floats)."
        )
    columns, rows, sections = (int(words[name]) for name in ("nx", "ny", "nz"))
    offset = HEADER_BYTES + int(words["nsymbt"])
    axes = (int(words["mapc"]), int(words["mapr"]), int(words["maps"]))
    spacing = _spacing(words)
    needed = offset + columns * rows * sections * np.dtype(DTYPES[mode]).itemsize
    return MrcHeader(
        path=path,
        columns=columns,
        rows=rows,
        sections=sections,
        mode=mode,
        byte_order=byte_order,
        data_offset=offset,
        spacing=spacing,
        origin=_origin(words, axes, spacing),
        axes=axes if axes != (0, 0, 0) else (1, 2, 3),
        space_group=int(words["ispg"]),
        surplus_bytes=size - needed,
    )


def _spacing(words: np.void) -> tuple[float, float, float] | None:
    cell = [float(words["cella"][axis]) for axis in "xyz"]
    sampling = [int(words[name]) for name in ("mx", "my", "mz")]
    if not all(np.isfinite(cell)) or min(cell) <= 0 or min(sampling) <= 0:
        return None
    # Seven digits are what the file's 32-bit floats hold: 2.7 rather than 2.7000003.
    x, y, z = (float(f"{length / count:.7g}") for length, count in zip(cell, sampling, strict=True))
    return x, y, z


def _origin(
    words: np.void, axes: tuple[int, ...], spacing: tuple[float, float, float] | None
) -> tuple[float, float, float]:
    """The origin words, or where they are zero the start indices, which older programs use instead."""
    x, y, z = (float(words["origin"][axis]) for axis in "xyz")
    if any((x, y, z)) and all(np.isfinite((x, y, z))):
        return x, y, z
    if spacing is None:
        return (0.0, 0.0, 0.0)
    starts = dict(zip(axes, (int(words[name]) for name in ("nxstart", "nystart", "nzstart")), strict=True))
    x, y, z = (starts.get(axis, 0) * step for axis, step in zip((1, 2, 3), spacing, strict=True))
    return x, y, z


def _check_length(header: MrcHeader, size: int, *, marked: bool) -> None:
    announced = f"{header.sections} sections of {header.columns} × {header.rows} px in mode {header.mode}"
    if header.surplus_bytes < 0:
        whole = max(0, size - header.data_offset) // header.section_bytes
        raise FormatError(
            f"{header.path} is truncated: its header announces {announced} "
            f"({size - header.surplus_bytes:,} bytes), but the file holds {size:,} bytes, {whole} whole "
            "sections. It was cut off while being written or copied: copy or extract it again."
        )
    if header.surplus_bytes and not marked:
        raise FormatError(
            f"{header.path} is not an MRC file: it lacks the mark 'MAP ', and its length of {size:,} bytes "
            f"does not fit what its header would announce, {announced}."
        )
