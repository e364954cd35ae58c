"""How long work reports on itself, and how it is stopped.

The library knows nothing of terminals. Whoever starts the work hands it a `Progress`; the command
line hands one that draws a bar (`cryoatlas.cli.console.progress`), everybody else gets `silent`.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called during the work, as often as convenient."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say how far the work is.

        Args:
            done: units finished so far (images, unless the work says otherwise). A resumed run
                starts above zero; a smaller number than before, or another total, is a new phase.
            total: units in all, of this phase.
            note: a few words on the phase or state, such as ``epoch 3 of 20``.
        """
        ...


def silent(done: int, total: int, note: str = "") -> None:
    """The `Progress` of callers who do not want to hear: does nothing."""


StopRequested = Callable[[], bool]
"""Asked by long work where it could stop and keep what is done; says whether it should."""


def never() -> bool:
    """The `StopRequested` of callers who do not stop."""
    return False


class Interrupted(Exception):
    """Work stopped because it was asked to; what is done is kept, and the same work can go on from there.

    The message says how far it came.
    """
