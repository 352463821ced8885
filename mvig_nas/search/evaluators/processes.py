"""Scores computed by several processes of this machine, each with one thread.

A process that dies is made anew, and what it had not finished is computed again. Each has a pipe of its own, so that it
is known which architecture it died of; a pool of `concurrent.futures` tells only that one of its processes is gone.
"""

import logging
import multiprocessing
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from mvig_nas import kernels
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.futures import begin_worker
from mvig_nas.scores import Score
from mvig_nas.search.contracts import Outcome
from mvig_nas.search.evaluators.local import evaluated

_DEATHS = 3  # of processes, after which an architecture, or the start of a process, is given up
_TICK_S = 0.5  # a signal that comes just before a wait is heard only after it
# takes seconds to import; the server that the processes are forked from does it once for all of them
_PRELOADED = ["mvig_nas.scores.fresh_networks"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """What a process sends in place of an outcome: an error that ends the search."""

    error: Exception


@dataclass(eq=False)
class _Worker:
    """A process; it answers one architecture at a time, and says once that it has the score."""

    process: BaseProcess
    pipe: Connection
    is_ready: bool = False
    architecture: Architecture | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether it is to say something."""
        return not self.is_ready or self.architecture is not None


class ProcessEvaluator:
    """An `Evaluator` whose scores are computed in several processes; use it in a `with` statement.

    Scores, candidates and winner are those of one process. Python imports the main module in every process, so a script
    must search under `if __name__ == "__main__":`.

    Args:
        score: what to compute; it is pickled, and sent to each process once.
        workers: the number of processes.

    Raises:
        MvigNasError: fewer than one process is asked for, the score cannot be pickled, or, when called, processes die
            before they have loaded it. What a score raises, other than MvigNasError, is raised here as well.
    """

    def __init__(self, score: Score, workers: int) -> None:
        if workers < 1:
            raise MvigNasError(f"`workers` must be at least 1, got {workers}.")
        self.name = score.name
        self.workers = workers
        try:
            self._pickled = pickle.dumps(score)
        except (TypeError, AttributeError, ValueError, pickle.PicklingError) as error:
            raise MvigNasError(
                f"a score must be one that can be pickled, to be sent to processes, but {score.name!r} is not: "
                f"{error}; search with one worker."
            ) from error
        # torch does not survive a fork of this process
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> Self:
        """Start the processes, without waiting until they are ready."""
        self._hire(self.workers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes at once."""
        for worker in tuple(self._workers):
            self._dismiss(worker)

    def __call__(self, architectures: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        """As `Evaluator`; the costliest come first, so that none of them is waited for at the end."""
        queue, deaths = deque(sorted(architectures, key=_macs, reverse=True)), dict.fromkeys(architectures, 0)
        try:
            while True:
                if queue and is_over():
                    queue.clear()
                busy = [worker for worker in self._workers if worker.architecture is not None]
                if not queue and not busy:
                    return
                self._hire(min(self.workers, len(queue) + len(busy)))
                self._send(queue)
                outcomes = [self._news(worker, queue, deaths) for worker in self._heard()]
                # before they are recorded, so that no process waits for that
                if not (queue and is_over()):
                    self._send(queue)
                yield from (outcome for outcome in outcomes if outcome is not None)
        finally:
            for worker in [worker for worker in self._workers if worker.architecture is not None]:
                self._dismiss(worker)

    def _hire(self, count: int) -> None:
        while len(self._workers) < count:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs, self._pickled), daemon=True)
            # Ctrl-C is for this process, also before the new one can say so itself
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()

    def _send(self, queue: deque[Architecture]) -> None:
        for worker in self._workers:
            if queue and worker.is_ready and worker.architecture is None:
                worker.architecture = queue.popleft()
                with suppress(OSError):  # one that is gone is noticed where its answer is awaited
                    worker.pipe.send(worker.architecture)

    def _heard(self) -> list[_Worker]:
        """Those that have something to say, or are gone, after a moment at most."""
        awaited = [worker for worker in self._workers if worker.is_awaited]
        spoken = wait([worker.pipe for worker in awaited], timeout=_TICK_S)
        return [worker for worker in awaited if worker.pipe in spoken]

    def _news(self, worker: _Worker, queue: deque[Architecture], deaths: dict[Architecture, int]) -> Outcome | None:
        try:
            news = worker.pipe.recv()
        except (EOFError, OSError):
            return self._died(worker, queue, deaths)
        if isinstance(news, _Failure):
            raise news.error
        worker.is_ready, worker.architecture, self._failed_starts = True, None, 0
        return news if isinstance(news, Outcome) else None

    def _died(self, worker: _Worker, queue: deque[Architecture], deaths: dict[Architecture, int]) -> Outcome | None:
        worker.process.join(_TICK_S)  # its end is told a moment after that of its pipe
        cause = _cause(worker.process.exitcode)
        self._dismiss(worker)
        if worker.architecture is None:
            self._failed_starts += 1
            if self._failed_starts >= _DEATHS:
                raise MvigNasError(
                    f"processes must be able to load the score {self.name!r}, but {self._failed_starts} in a row "
                    f"{cause} before they had it; search with fewer workers, or make memory free."
                )
            return None
        deaths[worker.architecture] += 1
        if deaths[worker.architecture] >= _DEATHS:
            reason = f"{_DEATHS} processes that computed its score {cause}"
            return Outcome(worker.architecture, None, 0.0, reason)
        _log.warning("a process %s; the score that it computed is computed again.", cause)
        queue.appendleft(worker.architecture)
        return None


def _work(pipe: Connection, pickled: bytes) -> None:
    """What runs in a process: it answers each architecture with its outcome, until it is ended."""
    begin_worker()
    import torch

    torch.set_num_threads(1)
    try:
        score: Score = pickle.loads(pickled)
        pipe.send(None)
        while True:
            pipe.send(evaluated(score, pipe.recv()))
    except Exception as error:
        error.add_note(f"In the process that computed the score:\n{traceback.format_exc()}")
        try:
            pipe.send(_Failure(error))
        except (TypeError, AttributeError, pickle.PicklingError):
            pipe.send(_Failure(RuntimeError(f"{type(error).__name__}: {error}")))


def _macs(architecture: Architecture) -> int:
    return kernels.totals(kernels.of(architecture)).macs


def _cause(exit_code: int | None) -> str:
    if exit_code is None:
        return "closed their pipes"
    return f"were ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
