"""Folders of results that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoatlas.errors import OutputError
from cryoatlas.io.output import explained_os_errors, refuse_folder_in_use


@contextmanager
def atomic_directory(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed to `path` when the block ends without an error.

    Args:
        path: may exist if it is empty.
        overwrite: replace what is there, once the new folder is complete.

    Raises:
        OutputError: the folder holds something and `overwrite` is off, `path` is a file, or it cannot
            be written. Nothing is left of the new folder, and an older one is as it was.
    """
    path = Path(path)
    refuse_folder_in_use(path, overwrite=overwrite)
    place = Path(os.path.abspath(path))
    temporary = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with explained_os_errors(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            _put_in_place(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_space(path: Path | str, needed_bytes: int) -> None:
    """Check that the disk of a folder to be made has room for what will be written.

    Raises:
        OutputError: it has not.
    """
    place = Path(os.path.abspath(path))
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise OutputError(
            f"{path} will take {needed_bytes / 2**30:.2f} GiB, but its disk has {free / 2**30:.2f} GiB free; "
            "nothing was written. Free some space, choose another --out, or make a smaller set."
        )


def _put_in_place(temporary: Path, place: Path) -> None:
    """Rename, moving an older folder aside until the new one stands in its place."""
    if not place.exists():
        os.replace(temporary, place)
        return
    aside = place.with_name(f"{temporary.name}.old")
    os.replace(place, aside)
    try:
        os.replace(temporary, place)
    except OSError:
        os.replace(aside, place)
        raise
    shutil.rmtree(aside)
