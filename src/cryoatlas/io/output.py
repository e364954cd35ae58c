"""Results appear whole or not at all: written under a temporary name, then renamed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoatlas.errors import OutputError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary file name beside `path`; renamed to `path` when the block ends without an error.

    Raises:
        OutputError: the folder is missing or not writable, `path` is a folder, or the disk is full.
            The temporary file is removed and an older `path` is left as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder, but a file is to be written there: choose another name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with explained_os_errors(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` into an `OutputError` with the usual fix."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"could not write {path}: {_reason(error, path)}") from error


def new_directory(path: Path | str, *, overwrite: bool = False) -> Path:
    """Make the folder for results that are added one by one.

    Args:
        path: may exist if it is empty.
        overwrite: remove what is there first.

    Raises:
        OutputError: as `refuse_folder_in_use`, or it cannot be made.
    """
    path = Path(path)
    refuse_folder_in_use(path, overwrite=overwrite)
    with explained_os_errors(path):
        if path.is_dir():
            shutil.rmtree(path)
        path.mkdir(parents=True)
    return path


def refuse_folder_in_use(path: Path, *, overwrite: bool) -> None:
    """Check that results may be put into a folder of this name.

    Raises:
        OutputError: `path` is a file, or a folder that holds something while `overwrite` is off.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(
            f"{path} is a file, but a folder is to be made there: choose another name for --out."
        )
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(
            f"the folder {path} exists and is not empty; nothing was written. "
            "Choose another --out, or give --overwrite to replace it."
        )


def _reason(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = path.parent if path.parent.exists() else Path()
        free = shutil.disk_usage(folder).free / 2**20
        return (
            f"the disk is full ({free:.0f} MiB free in {folder.resolve()}). Nothing is left half-written: "
            "free some space or choose another --out, then run the same command again."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there. Choose another --out, or ask for write access to the folder."
    if error.errno == errno.ENOENT:
        return f"the folder {path.parent} does not exist. Make it first, or choose another --out."
    return f"{error.strerror or error}."
