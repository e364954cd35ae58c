"""Image stacks: any images of a file read on request, new stacks written piece by piece.

Images are read by offset with `os.preadv` and the file is opened for each request: nothing stays
mapped or open, however many stacks a set of particles is spread over.
"""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch

from cryoatlas.errors import FormatError, ImageDataError
from cryoatlas.io.mrc_header import HEADER_BYTES, MrcHeader, encode_header
from cryoatlas.io.output import atomic_path
from cryoatlas.shapes import Array, Float, Int, Tensor

NO_ORIGIN = (0.0, 0.0, 0.0)
PixelType = Literal["float32", "float16"]
MODES: dict[PixelType, int] = {"float32": 2, "float16": 12}


def read_images(header: MrcHeader, indices: Int[Array, "image"]) -> Float[Array, "image box box"]:
    """Some images of a stack as float32, in the order asked for.

    Args:
        header: of the stack.
        indices: positions in the stack, from 0; any order, repeats allowed.

    Raises:
        ImageDataError: the images are not square, or an index lies outside the stack.
        FormatError: the file has changed since its header was read, or can no longer be read.
    """
    outside = indices[(indices < 0) | (indices >= header.sections)]
    if len(outside):
        raise ImageDataError(
            f"image {outside[0] + 1} was asked of {header.path}, which holds {header.sections} images."
        )
    _ = header.box_size  # refuses images that are not square
    wanted, places = np.unique(indices, return_inverse=True)
    images = read_sections(header, wanted)
    return images if np.array_equal(wanted, indices) else images[places]


def read_sections(
    header: MrcHeader, sorted_indices: Int[Array, "section"]
) -> Float[Array, "section row column"]:
    """Sections of a file as float32, given by increasing position."""
    raw = np.empty((len(sorted_indices), header.rows, header.columns), header.dtype)
    try:
        descriptor = os.open(header.path, os.O_RDONLY)
        try:
            for start, stop in _runs(sorted_indices):
                offset = header.data_offset + int(sorted_indices[start]) * header.section_bytes
                _fill(descriptor, raw[start:stop].data.cast("B"), offset)
        finally:
            os.close(descriptor)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FormatError(
            f"{header.path} can no longer be read ({reason}): it was moved, cut short or lost its disk since "
            "the work began."
        ) from error
    return raw.astype(np.float32, copy=False)


class StackWriter:
    """Writes a stack of images piece by piece; the file appears under its name when all went well.

    ::

        with StackWriter("particles.mrcs", box_size=64, pixel_size=2.0) as stack:
            stack.append(images)

    Pixels are little-endian float32 (mode 2) or float16 (mode 12). The header is completed at the end with
    the number of images and their statistics. If the block is left by an error, nothing remains.

    Args:
        path: the new file.
        box_size: side of the images, px.
        pixel_size: Å.
        dtype: of the pixels in the file; values beyond ±65,504 become infinite in float16.

    Raises:
        OutputError: on leaving the block, if the file could not be written.
    """

    def __init__(
        self, path: Path | str, box_size: int, pixel_size: float, dtype: PixelType = "float32"
    ) -> None:
        self.path = Path(path)
        self.dtype: PixelType = dtype
        self.box_size = box_size
        self.pixel_size = pixel_size
        self.count = 0
        """Images written so far."""
        self._statistics = RunningStatistics()
        self._stream: BinaryIO | None = None
        self._session: AbstractContextManager[StackWriter] | None = None

    def append(self, images: Float[Array, "image box box"] | Float[Tensor, "image box box"]) -> None:
        """Add images after those written so far."""
        if self._stream is None:
            raise ValueError("a StackWriter takes images inside its `with` block")
        pixels = np.ascontiguousarray(images, dtype="<f4")
        if pixels.shape[1:] != (self.box_size, self.box_size):
            raise ValueError(f"a stack of box {self.box_size} cannot take images of shape {pixels.shape[1:]}")
        if self.dtype == "float16":
            stored = torch.from_numpy(pixels).half()
            self._statistics.add(stored.float().numpy())
            self._stream.write(stored.numpy().data)
        else:
            self._statistics.add(pixels)
            self._stream.write(pixels.data)
        self.count += len(pixels)

    def __enter__(self) -> "StackWriter":
        self._session = self._writing()
        return self._session.__enter__()

    def __exit__(self, *error: object) -> bool | None:
        assert self._session is not None
        return self._session.__exit__(*error)  # type: ignore[arg-type]

    @contextmanager
    def _writing(self) -> Iterator["StackWriter"]:
        with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
            stream.write(bytes(HEADER_BYTES))
            self._stream = stream
            try:
                yield self
            finally:
                self._stream = None
            if self.count == 0:
                raise ValueError(f"no image was written to {self.path}; a stack holds at least one")
            shape = (self.count, self.box_size, self.box_size)
            stream.seek(0)
            stream.write(
                encode_header(
                    shape,
                    self.pixel_size,
                    NO_ORIGIN,
                    self._statistics.summary(),
                    stack=True,
                    mode=MODES[self.dtype],
                )
            )


class RunningStatistics:
    """Minimum, maximum, mean and standard deviation of pixels that come in pieces."""

    def __init__(self) -> None:
        self.count = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.mean = 0.0
        self._squares = 0.0

    def add(self, pixels: Float[Array, "..."]) -> None:
        """Take in more pixels (Chan's update: no loss of digits however many there are)."""
        if pixels.size == 0:
            return
        with np.errstate(invalid="ignore"):  # infinite pixels give NaN, which the header may hold
            mean = float(pixels.mean(dtype=np.float64))
            squares = float(pixels.var(dtype=np.float64)) * pixels.size
        total = self.count + pixels.size
        step = mean - self.mean
        self._squares += squares + step**2 * self.count * pixels.size / total
        self.mean += step * pixels.size / total
        self.count = total
        self.minimum = min(self.minimum, float(pixels.min()))
        self.maximum = max(self.maximum, float(pixels.max()))

    @property
    def deviation(self) -> float:
        """Standard deviation of all pixels; 0 before the first."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def summary(self) -> tuple[float, float, float, float]:
        """Minimum, maximum, mean and standard deviation."""
        return self.minimum, self.maximum, self.mean, self.deviation


def _runs(sorted_indices: Int[Array, "section"]) -> Iterator[tuple[int, int]]:
    """Ranges of the list that are consecutive in the file, as start and stop."""
    breaks = np.flatnonzero(np.diff(sorted_indices) != 1) + 1
    edges = [0, *breaks.tolist(), len(sorted_indices)]
    return ((start, stop) for start, stop in pairwise(edges) if stop > start)


def _fill(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Read until the buffer is full; the system may hand over less than was asked for at a time."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise EOFError("the file ended early")
        done += count
