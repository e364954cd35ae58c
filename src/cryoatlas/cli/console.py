"""What the command line says while it works: messages, log lines and progress, all on stderr.

stdout is left to results (tables, numbers), so that they can be piped.
"""

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from cryoatlas.progress import Interrupted, Progress, StopRequested

if TYPE_CHECKING:
    from rich.console import Console

QUIET_INTERVAL_S = 30.0
"""Where stderr is no terminal, a line of progress appears this often."""
RATE_WINDOW_S = 20.0
"""The rate shown is the mean over this time, so that it follows work whose speed changes."""


@cache
def console() -> "Console":
    """The terminal, on stderr; shared by all messages so that they do not break a progress bar."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print a line for the person at the terminal."""
    console().print(message, markup=False)


def complain(message: str) -> None:
    """Print an error, one paragraph that starts with ``error:``."""
    console().print(f"error: {message}", markup=False, style="red" if console().is_terminal else None)


class ConsoleHandler(logging.Handler):
    """Sends the library's log records to the shared terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; warnings and worse carry their level."""
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        say(level + self.format(record))


def start_logging() -> None:
    """Show what the library logs at level INFO and above."""
    logger = logging.getLogger("cryoatlas")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [ConsoleHandler()]


@contextmanager
def progress(label: str, unit: str = "images") -> Iterator[Progress]:
    """Show how far a piece of work is: a bar with the rate and the time left.

    Where stderr is no terminal, a line every half minute and one at the end instead.

    Args:
        label: what is being done, such as ``simulating``.
        unit: what is being counted.
    """
    meter = RateMeter(unit)
    if console().is_terminal:
        with _bar(label, meter) as report:
            yield report
    else:
        yield _occasional_lines(label, meter)


class RateMeter:
    """Turns counts into the words ``1,200 of 5,000 images, 310 images/s, 0:12 left``.

    Args:
        unit: what is being counted.
        clock: seconds, from any origin.
    """

    def __init__(self, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.unit = unit
        self.clock = clock
        self.total = 0
        self.seen: deque[tuple[float, int]] = deque()

    def rate(self) -> float:
        """Units per second over the last `RATE_WINDOW_S`; 0 until two counts are known."""
        if len(self.seen) < 2 or self.seen[-1][0] == self.seen[0][0]:
            return 0.0
        (start, first), (end, last) = self.seen[0], self.seen[-1]
        return (last - first) / (end - start)

    def describe(self, done: int, total: int) -> str:
        """Take in a count and say where the work stands."""
        if total != self.total or (self.seen and done < self.seen[-1][1]):
            self.total = total
            self.seen.clear()  # a new phase has a rate of its own
        now = self.clock()
        self.seen.append((now, done))
        while len(self.seen) > 2 and now - self.seen[1][0] > RATE_WINDOW_S:
            self.seen.popleft()
        text = f"{done:,} of {total:,} {self.unit}"
        rate = self.rate()
        if rate <= 0:
            return text
        figure = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        text = f"{text}, {figure} {self.unit}/s"
        return f"{text}, {clock_time((total - done) / rate)} left" if done < total else text


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request that the work asks about; the second one interrupts at once."""
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("stopping after this step; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def resumable(label: str) -> Iterator[tuple[Progress, StopRequested]]:
    """The progress of work that Ctrl-C stops between two steps and that --resume continues.

    Raises:
        KeyboardInterrupt: it was stopped; the way to go on has been said.
    """
    try:
        with progress(label) as report, stop_on_interrupt() as stop_requested:
            yield report, stop_requested
    except Interrupted as interrupted:
        say(f"{interrupted}. The same command with --resume goes on from there.")
        raise KeyboardInterrupt from None


def clock_time(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


@contextmanager
def _bar(label: str, meter: RateMeter) -> Iterator[Progress]:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn(label), BarColumn(bar_width=30), TextColumn("{task.fields[status]}", markup=False))
    with RichProgress(*columns, console=console(), refresh_per_second=4) as bars:
        task = bars.add_task(label, total=None, status="")

        def report(done: int, total: int, note: str = "") -> None:
            status = meter.describe(done, total)
            bars.update(task, completed=done, total=total, status=f"{status}  {note}" if note else status)

        yield report


def _occasional_lines(label: str, meter: RateMeter) -> Progress:
    last_line = meter.clock()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last_line
        status = meter.describe(done, total)
        if done < total and meter.clock() - last_line < QUIET_INTERVAL_S:
            return
        last_line = meter.clock()
        say(f"{label}: {status}{', ' + note if note else ''}")

    return report
