"""Image names of a star file → stacks on disk: where they are sought, and what must fit."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatlas.errors import ImageDataError, InputError, MetadataError
from cryoatlas.io.mrc import MrcHeader
from cryoatlas.io.star import StarTable
from cryoatlas.shapes import Array, Int

IMAGE_NAME = "rlnImageName"
LARGEST_NUMBER = 2**31
PROJECT_DEPTH = 3
"""A project's folder is sought up to this many folders above that of the file."""
LISTED = 3
"""This many of several missing files are named in a message."""


@dataclass(frozen=True)
class ImageAddresses:
    """Where each particle image lies: a stack by name and a position in it."""

    names: tuple[str, ...]
    """Stack names as the file writes them, each once."""
    stack: Int[Array, "image"]
    """Position of each image's stack in `names`."""
    section: Int[Array, "image"]
    """Position of each image in its stack, from 0."""


def image_addresses(table: StarTable) -> ImageAddresses:
    """Take apart rlnImageName, ``000001@stack.mrcs`` (counted from 1).

    A name without ``@`` is a file that holds this image alone.

    Raises:
        MetadataError: there is no such column, or an entry is not of this form.
    """
    names: dict[str, int] = {}
    stack = np.empty(len(table), np.int64)
    section = np.empty(len(table), np.int64)
    for row, entry in enumerate(table.text(IMAGE_NAME)):
        number, at, name = entry.rpartition("@")
        if not name or (at and not 0 < _image_number(number) <= LARGEST_NUMBER):
            raise MetadataError(
                f"{table.row_name(row)} has '{entry}' in {IMAGE_NAME}, but an image "
                "number from 1 and a stack were expected, as 000001@stack.mrcs."
            )
        stack[row] = names.setdefault(name, len(names))
        section[row] = int(number) - 1 if at else 0
    return ImageAddresses(tuple(names), stack, section)


def locate_stacks(names: Sequence[str], star: Path, datadir: Path | str | None) -> list[Path]:
    """The files of image stacks.

    A name is sought in `datadir` (with its folders, then without), then beside the star file, then
    from the working folder, then from the folders above the star file, one of which is the project's;
    absolute names are taken as they are unless `datadir` has the file.

    Args:
        names: as the star file writes them.
        star: the star file.
        datadir: the user's folder of stacks.

    Raises:
        InputError: files are missing; the message names some, and where they were sought.
        MetadataError: two names lead to the same file because `datadir` holds it without its folders.
    """
    if datadir is not None and not Path(datadir).is_dir():
        raise InputError(f"--datadir {datadir} is not a folder: give the folder that holds the image stacks.")
    found = find_stacks(names, star, datadir)
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        sought = ", ".join(str(folder) for folder in _folders(star, datadir))
        raise InputError(
            f"{len(missing)} of {len(names)} image stacks named in {star} are not there: "
            f"{', '.join(missing[:LISTED])}{more}. They were sought in {sought}. {_advice(missing[0], star)}"
        )
    paths = [path for path in found if path is not None]
    _refuse_confusion(names, paths, star)
    return paths


def find_stacks(names: Sequence[str], star: Path, datadir: Path | str | None) -> list[Path | None]:
    """The file of each stack as `locate_stacks` seeks it, None where there is none."""
    return [_locate(name, star, datadir) for name in names]


def check_boxes(headers: Sequence[MrcHeader]) -> None:
    """Refuse images that are not square, or not all of one size.

    Raises:
        ImageDataError: naming the stack.
    """
    for header in headers:
        if header.box_size != headers[0].box_size:
            raise ImageDataError(
                f"{header.path} holds images of {header.box_size} px and {headers[0].path} of "
                f"{headers[0].box_size} px, but all particles must have one box: bring them to one with "
                "`cryoatlas prepare`, or extract them again."
            )


def check_sections(headers: Sequence[MrcHeader], addresses: ImageAddresses, table: StarTable) -> None:
    """Refuse images beyond the end of their stack.

    Raises:
        ImageDataError: naming the row.
    """
    counts = np.array([header.sections for header in headers])
    beyond = np.flatnonzero(addresses.section >= counts[addresses.stack]).tolist()
    if beyond:
        row = beyond[0]
        header = headers[addresses.stack[row]]
        raise ImageDataError(
            f"{table.row_name(row)} asks for image {addresses.section[row] + 1} of {header.path}, which "
            f"holds {header.sections}; {len(beyond)} of {len(table)} rows ask for images beyond the end. "
            "Star file and stack do not belong together, or the stack is not complete."
        )


def check_whole_files(headers: Sequence[MrcHeader], addresses: ImageAddresses, table: StarTable) -> None:
    """Refuse stacks of several images named without an image number.

    Raises:
        MetadataError: naming the row.
    """
    numbered = np.strings.find(table.text(IMAGE_NAME), "@") >= 0
    for row in np.flatnonzero(~numbered).tolist():
        header = headers[addresses.stack[row]]
        if header.sections != 1:
            raise MetadataError(
                f"{table.row_name(row)} names {header.path} without an image number, but that file holds "
                f"{header.sections} images: write {IMAGE_NAME} as 000001@stack.mrcs."
            )


def _advice(missing: str, star: Path) -> str:
    beside = star.parent / Path(missing).name
    if os.path.exists(beside):  # false, not an error, for a name longer than the disk allows
        return f"If {beside} is the first of them, give --datadir {star.parent}."
    return "Give the folder that holds them with --datadir, or run in the project's folder."


def _image_number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _locate(name: str, star: Path, datadir: Path | str | None) -> Path | None:
    relative = Path(name)
    candidates = [folder / relative for folder in _folders(star, None)]
    if datadir is not None:
        inside = relative.relative_to(relative.anchor)
        candidates = [Path(datadir) / inside, Path(datadir) / relative.name, *candidates]
    return next((path for path in candidates if os.path.exists(path)), None)


def _folders(star: Path, datadir: Path | str | None) -> list[Path]:
    given = [] if datadir is None else [Path(datadir)]
    above = Path(os.path.abspath(star)).parents[1 : 1 + PROJECT_DEPTH]
    return [*given, star.parent, Path.cwd(), *above]


def _refuse_confusion(names: Sequence[str], paths: Sequence[Path], star: Path) -> None:
    seen: dict[Path, str] = {}
    for name, path in zip(names, paths, strict=True):
        other = seen.setdefault(path, name)
        if Path(other) != Path(name):
            raise MetadataError(
                f"{star} names the stacks {other} and {name}, and both lead to {path}, which cannot hold the "
                "images of both: keep their folders inside --datadir."
            )
