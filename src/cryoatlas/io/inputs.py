"""What every reader checks before it looks inside a file."""

from pathlib import Path

from cryoatlas.errors import FormatError, InputError


def require_file(path: Path | str, kind: str) -> Path:
    """The path of a file that exists, is no folder, can be read and holds something.

    Args:
        path: as the user gave it.
        kind: what the file should be, for the message, such as ``a star file``.

    Raises:
        InputError: there is no such file, or no permission to read it.
        FormatError: it is a folder or some other thing that is not a file, or it is empty.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise FormatError(f"{path} is a folder, but {kind} was expected: give a file inside it.")
        if not path.exists():
            raise InputError(f"there is no file {path}; {kind} was expected. {_where_it_was_sought(path)}")
        if not path.is_file():
            raise FormatError(f"{path} is not a regular file, but {kind} was expected.")
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); {kind} was expected.") from error
    if empty:
        raise FormatError(
            f"{path} is empty (0 bytes), but {kind} was expected: it may be left from a job or a copy "
            "that was cut off; make or copy it again."
        )
    return path


def _where_it_was_sought(path: Path) -> str:
    if path.is_absolute():
        return "Check the spelling, and that its disk is mounted."
    return f"The working folder is {Path.cwd()}; check the spelling or give the full path."
