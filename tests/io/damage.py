"""Random damage to the bytes of a file, and a limit on the memory that reading it may take."""

import contextlib
import tracemalloc
from collections.abc import Iterator

from hypothesis import strategies as st

TOKENS = [
    b"'",
    b'"',
    b";",
    b"\n",
    b"\n;\n",
    b"\x00",
    b"#",
    b" ",
    b"\xff\xff",
    b"data_",
    b"loop_ ",
    b"_",
    b"9" * 20,
]
"""What changes the meaning of a text most; in a binary file as good as any bytes."""
PARSER = 2**21
"""Bytes that a parser may take for any file, however small."""


@st.composite
def damaged(draw: st.DrawFn, raw: bytes, within: int | None = None) -> bytes:
    """The bytes with up to six places overwritten, inserted into or deleted, and perhaps cut off.

    `within`: only the first so many bytes are damaged, where all of a header lies.
    """
    content = bytearray(raw)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, min(len(content), within or len(content)) - 1)))
        kind = draw(st.sampled_from(["overwrite", "insert", "token", "delete"]))
        if kind == "overwrite":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "delete":
            del content[place : place + draw(st.integers(1, 8))]
        else:
            content[place:place] = draw(st.sampled_from(TOKENS) if kind == "token" else st.binary(max_size=4))
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


@contextlib.contextmanager
def little_memory(size: int, times: int = 100) -> Iterator[None]:
    """Fails if more than `times` the bytes of a file are taken at once, beside `PARSER`.

    A value of one character in a text becomes an object of some 50 bytes in Python, held twice.
    """
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < PARSER + times * size
