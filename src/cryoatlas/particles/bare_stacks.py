"""Image stacks without a star file, alone or listed in a text file → the tables of a star file."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoatlas.errors import FormatError, ImageDataError, MetadataError
from cryoatlas.io.inputs import require_file
from cryoatlas.io.mrc import MrcHeader, read_header
from cryoatlas.io.star import StarTable
from cryoatlas.particles.metadata import ParticleTables
from cryoatlas.particles.stack_files import IMAGE_NAME, locate_stacks
from cryoatlas.shapes import Array, Float

logger = logging.getLogger(__name__)

LIST_SUFFIX = ".txt"
STACK_SUFFIXES = (".mrcs", ".mrc", ".st")
BLOCK = "particles"


def read_stack_names(path: Path | str) -> list[str]:
    """Stacks that a text file lists, one in each line; empty lines and lines that begin with # do not count.

    Raises:
        InputError: there is no such file.
        FormatError: it is no text, or a line is no name of a stack; or it lists none.
    """
    path = require_file(path, "a list of image stacks (.txt)")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is no text file ({error.reason}), but a list of stacks was expected."
        ) from error
    named = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    named = [(number, name) for number, name in named if not name.startswith("#")]
    for number, name in named:
        if Path(name).suffix.lower() not in STACK_SUFFIXES:
            raise FormatError(
                f"line {number} of {path} is '{name[:80]}', but the name of an image stack "
                f"({', '.join(STACK_SUFFIXES)}) was expected in every line."
            )
    if not named:
        raise FormatError(f"{path} lists no stack: write the name of one in each line.")
    return [name for _, name in named]


def stack_tables(
    path: Path, datadir: Path | str | None
) -> tuple[ParticleTables, Float[Array, "image"] | None]:
    """All images of a stack, or of the stacks of a list in their order, as particles.

    Args:
        path: an image stack, or a text file that lists some.
        datadir: where the stacks of a list are sought first.

    Returns:
        Tables with names and box of the images and nothing else, and the pixel sizes that the stacks'
        headers state, Å; None if one of them states none.

    Raises:
        InputError: a file is missing.
        FormatError: it is of another format.
        ImageDataError: it is a volume, or images are not square.
    """
    if path.suffix.lower() == LIST_SUFFIX:
        names = read_stack_names(path)
        headers = [read_header(stack) for stack in locate_stacks(names, path, datadir)]
    else:
        names, headers = [path.name], [read_header(require_file(path, "an image stack"))]
    for header in headers:
        refuse_volume(header)
    columns = {
        IMAGE_NAME: [
            f"{number:06d}@{name}"
            for name, header in zip(names, headers, strict=True)
            for number in range(1, header.sections + 1)
        ],
        "rlnImageSize": _of_each_image([header.box_size for header in headers], headers),
        "rlnImageDimensionality": _of_each_image([2] * len(headers), headers),
    }
    stated = [header.pixel_size for header in headers]
    sizes = None if None in stated else _of_each_image(stated, headers).astype(np.float64)
    return ParticleTables(path, {BLOCK: StarTable.from_columns(columns, str(path))}, BLOCK), sizes


def header_pixel_sizes(path: Path, sizes: Float[Array, "image"] | None) -> Float[Array, "image"]:
    """The pixel sizes that `stack_tables` found, where there is no other source of them.

    Raises:
        MetadataError: there are none.
    """
    if sizes is None:
        raise MetadataError(
            f"the pixel size of the images of {path} is not known: their headers state none. Give a file "
            "that has it with --ctf: .star, .cs, or cryoDRGN's ctf.pkl."
        )
    logger.info("%s: pixel size %s Å, from the header of the stack", path, np.unique(sizes).tolist()[0])
    return sizes


def _of_each_image(values: Sequence, headers: Sequence[MrcHeader]) -> Array:
    return np.repeat(np.array(values), [header.sections for header in headers])


def refuse_volume(header: MrcHeader) -> None:
    """Refuse maps.

    Raises:
        ImageDataError: the file holds a cube and is not named as a stack.
    """
    if header.path.suffix.lower() != ".mrcs" and header.columns == header.rows == header.sections:
        raise ImageDataError(
            f"{header.path} is a volume of {header.columns}³ voxels, but images of particles were expected: "
            "give the stack of images, named .mrcs if it has as many images as pixels in a row."
        )
