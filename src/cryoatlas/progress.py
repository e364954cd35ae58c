"""How long work reports on itself: a function that it calls now and then.

The library knows nothing of terminals. Whoever starts the work hands it a `Progress`; the command
line hands one that draws a bar (`cryoatlas.cli.console.progress`), everybody else gets `silent`.
"""

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
