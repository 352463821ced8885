"""Waiting for work of other threads and processes."""

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
