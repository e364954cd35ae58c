"""Work on a thread of its own, one result ahead of whoever uses it."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")
POLL_S = 0.1
"""How often a waiting thread looks whether it is still wanted."""


def prefetched(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, each made while the one before it is in use.

    An error in making an item is raised in its place. The thread starts with the first item asked
    for, and has ended when the iterator is exhausted, closed or dropped; a generator of items is closed
    with it.
    """
    results: queue.Queue = queue.Queue(maxsize=1)
    unwanted = threading.Event()
    worker = threading.Thread(target=_work, args=(items, results, unwanted), name="prefetch", daemon=True)
    worker.start()
    try:
        while True:
            kind, value = results.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        unwanted.set()
        worker.join()


def _work(items: Iterator, results: queue.Queue, unwanted: threading.Event) -> None:
    try:
        for item in items:
            if not _hand_over(("item", item), results, unwanted):
                return
        _hand_over(("end", None), results, unwanted)
    except BaseException as error:  # raised again by the user of the items
        _hand_over(("error", error), results, unwanted)
    finally:
        if isinstance(items, Generator):
            items.close()


def _hand_over(message: tuple, results: queue.Queue, unwanted: threading.Event) -> bool:
    """Put a message into the queue; False if nobody wants it any more."""
    while not unwanted.is_set():
        try:
            results.put(message, timeout=POLL_S)
        except queue.Full:
            continue
        return True
    return False
