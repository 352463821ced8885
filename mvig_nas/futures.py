"""Waiting for work of other threads and processes, and what such a process does before it works."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

_TICK_S = 0.5
_Result = TypeVar("_Result")


def as_completed(futures: Collection[Future[_Result]]) -> Iterator[Future[_Result]]:
    """As `concurrent.futures.as_completed`, but Ctrl-C is always heard.

    A signal that comes just before the main thread begins to wait is handled only once it wakes, so it wakes now and
    then.
    """
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_TICK_S, return_when=FIRST_COMPLETED)
        yield from done


def begin_worker() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def usable_cores() -> int:
    """The number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
