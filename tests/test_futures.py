"""Waiting for other threads."""

import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mvig_nas.futures import as_completed


def test_all_come_as_they_are_done() -> None:
    first = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        slow, fast = pool.submit(first.wait), pool.submit(int, "3")
        order: list[Future[object]] = []
        for future in as_completed([slow, fast]):
            order.append(future)
            first.set()
    assert order == [fast, slow]
    assert fast.result() == 3


def test_an_interrupt_that_does_not_wake_the_main_thread_is_heard() -> None:
    """Another thread catches the signal here; one that comes just before the main thread waits is as silent."""
    end = threading.Event()

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        end.wait(30)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # its thread begins before the signal is blocked in this one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                list(as_completed([future]))
            assert not future.done()
        finally:
            end.set()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
