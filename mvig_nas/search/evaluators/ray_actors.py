"""Scores computed by the workers of a Ray cluster. Ray only executes: what is recorded, and in which order samplers
learn it, is decided by the search.

A worker is an actor, so a supernet is loaded once in each. Ray never restarts one: a dead worker is made anew here,
where its unfinished architectures are known.
"""

import logging
import math
import os
import platform
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import ray
from ray import cloudpickle
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.scores import Score
from mvig_nas.search.contracts import Outcome
from mvig_nas.search.evaluators.local import evaluated
from mvig_nas.search.evaluators.ray_cluster import connected, knock, line, nodes, room

_TICK_S = 1.0
_PLACED_S = 60.0  # in which a cluster that is large enough must start a worker
_HEAD_GONE_S = 10.0  # Ray itself ends the process after 60

_STARTING, _LOADING, _READY, _BUSY = "starting", "loading", "ready", "busy"

_log = logging.getLogger(__name__)


class _Remote:
    """What runs on a node. The score comes as bytes: unpickling it imports torch, which reads the number of threads."""

    def about(self) -> dict[str, str]:
        return _versions() | {"node": socket.gethostname()}

    def load(self, pickled: bytes, threads: int) -> None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
        self._score: Score = cloudpickle.loads(pickled)
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)

    def evaluate(self, architecture: Architecture) -> Outcome:
        began = time.perf_counter()
        try:
            return evaluated(self._score, architecture)
        except (Exception, SystemExit) as error:
            seconds = time.perf_counter() - began
            return Outcome(architecture, None, seconds, line(f"{type(error).__name__}: {error}"))


@dataclass
class _Task:
    """An architecture to score, and how many workers died of it."""

    architecture: Architecture
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    actor: Any
    stage: str
    reference: Any
    task: _Task | None = None
    began: float = 0.0
    deadline: float = math.inf


class RayEvaluator:
    """An `Evaluator` whose scores are computed by actors of a Ray cluster; use it in a `with` statement.

    A worker evaluates one architecture at a time. One that dies is made anew, on another node if need be, and what it
    had not finished is evaluated again. An evaluation that raises, kills its worker again and again or takes too long
    is an outcome with a reason. A connection to Ray that this process has already is used, and left as it is.

    Args:
        score: what to compute; sent to each worker once.
        address: None to start Ray on this machine; `auto` or `host:port` to join a cluster that this machine is in.
        workers: the number of evaluations at a time; None for as many as there is room for when it is entered.
        cpus: CPUs that a worker takes of its node, which is also its number of threads.
        gpus: GPUs that a worker takes of its node; it may be a fraction.
        timeout_s: seconds after which an evaluation is given up; None for never.
        retries: how often an architecture whose worker died is evaluated again.
        start_timeout_s: seconds within which the head must answer and a node that is large enough must be there.

    Raises:
        MvigNasError: when entered, the head does not answer, no worker can be placed, the nodes have another version of
            mvig-nas, or the score cannot be sent or loaded; when called, the cluster is lost.
    """

    def __init__(
        self,
        score: Score,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus: float = 1,
        gpus: float = 0,
        timeout_s: float | None = None,
        retries: int = 3,
        start_timeout_s: float = 10,
    ) -> None:
        _require("workers", workers, workers is None or workers >= 1, "at least 1, or None")
        _require("cpus", cpus, cpus > 0, "above 0")
        _require("gpus", gpus, gpus >= 0, "0 or more")
        _require("timeout_s", timeout_s, timeout_s is None or timeout_s > 0, "above 0, or None")
        _require("retries", retries, retries >= 0, "0 or more")
        self.name = score.name
        self._score = score
        self._address = address
        self._asked = workers
        self._count = workers or 1
        self._cpus, self._gpus = cpus, gpus
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._retries = retries
        self._start_timeout_s = start_timeout_s
        self._connection = ExitStack()
        self._workers: list[_Worker] = []
        self._queue: deque[_Task] = deque()
        self._failed_starts = 0

    def __enter__(self) -> Self:
        try:
            cpus = None if self._asked is None else math.ceil(self._asked * self._cpus)
            self._connection.enter_context(connected(self._address, cpus=cpus, timeout_s=self._start_timeout_s))
            if self._asked is None:
                self._count = room({"CPU": self._cpus, "GPU": self._gpus})
            self._head = ray.get_runtime_context().gcs_address
            self._pickled = _sent(self._score)
            self._placed_at = self._head_seen_at = time.monotonic()
            while not any(worker.stage == _READY for worker in self._workers):
                self._hire()
                self._step()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and the connection to Ray if it was made here."""
        for worker in tuple(self._workers):
            self._dismiss(worker)
        self._connection.close()

    @property
    def workers(self) -> int:
        """The number of evaluations at a time."""
        return self._count

    def __call__(self, architectures: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        """As `Evaluator`.

        Raises:
            MvigNasError: no worker is left and none can be started, or the head does not answer.
        """
        self._queue = deque(_Task(architecture) for architecture in architectures)
        self._placed_at = self._head_seen_at = time.monotonic()
        try:
            while True:
                if self._queue and is_over():
                    self._queue.clear()
                if not self._queue and not any(worker.stage == _BUSY for worker in self._workers):
                    return
                self._hire()
                self._send()
                outcomes = self._step()
                # before they are recorded, so that no worker waits for that
                if not (self._queue and is_over()):
                    self._send()
                yield from outcomes
        finally:
            self._queue.clear()
            for worker in [worker for worker in self._workers if worker.stage == _BUSY]:
                self._dismiss(worker)

    def _hire(self) -> None:
        remote: Any = ray.remote(_Remote)
        hired = remote.options(num_cpus=self._cpus, num_gpus=self._gpus, scheduling_strategy="SPREAD")
        while len(self._workers) < self._count:
            actor = hired.remote()
            self._workers.append(_Worker(actor, _STARTING, actor.about.remote()))

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        with suppress(RayError, ValueError):
            ray.kill(worker.actor)

    def _send(self) -> None:
        for worker in self._workers:
            if not self._queue:
                return
            if worker.stage == _READY:
                worker.task = self._queue.popleft()
                worker.reference = worker.actor.evaluate.remote(worker.task.architecture)
                worker.stage, worker.began = _BUSY, time.monotonic()
                worker.deadline = worker.began + self._timeout_s

    def _step(self) -> list[Outcome]:
        """Wait a moment for news of the workers, and deal with it."""
        waiting = {worker.reference: worker for worker in self._workers if worker.stage != _READY}
        next_deadline = min((worker.deadline for worker in self._workers), default=math.inf)
        wait_s = max(0.0, min(_TICK_S, next_deadline - time.monotonic()))
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=wait_s)
        if ready:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        outcomes: list[Outcome] = []
        for reference in ready:
            outcomes += self._news(waiting[reference])
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline <= now]:
            outcomes += self._late(worker, now)
        if ready:
            self._head_seen_at = now
        else:
            self._check_head(now)
        self._check_placed(now)
        return outcomes

    def _news(self, worker: _Worker) -> list[Outcome]:
        try:
            news = ray.get(worker.reference)
        except RayTaskError as error:
            cause = line(f"{type(error.cause).__name__}: {error.cause}" if error.cause else error)
            if worker.task is not None:
                return self._done(worker, Outcome(worker.task.architecture, None, 0.0, cause))
            raise MvigNasError(
                f"a worker must be able to load the score {self.name!r}, but: {cause}; what it reads must be at the "
                "same path on every node."
            ) from error
        except RayError as error:
            return self._died(worker, _why(error))
        if worker.stage == _STARTING:
            _check_versions(news)
            worker.stage = _LOADING
            worker.reference = worker.actor.load.remote(self._pickled, max(1, int(self._cpus)))
            return []
        if worker.stage == _LOADING:
            worker.stage = _READY
            self._failed_starts = 0
            return []
        return self._done(worker, news)

    def _done(self, worker: _Worker, outcome: Outcome) -> list[Outcome]:
        worker.stage, worker.task, worker.deadline = _READY, None, math.inf
        return [outcome]

    def _died(self, worker: _Worker, cause: str) -> list[Outcome]:
        self._dismiss(worker)
        task = worker.task
        if task is None:
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                raise MvigNasError(
                    f"workers must start, but {self._failed_starts} in a row died before they had the score: {cause}; "
                    f"every node must have mvig-nas {version('mvig-nas')} installed and enough memory."
                )
            return []
        task.deaths += 1
        if task.deaths > self._retries:
            reason = f"its worker died {task.deaths} times, the last time: {cause}"
            return [Outcome(task.architecture, None, time.monotonic() - worker.began, reason)]
        _log.warning("a worker died, its architecture is evaluated again: %s", cause)
        self._queue.appendleft(task)
        return []

    def _late(self, worker: _Worker, now: float) -> list[Outcome]:
        self._dismiss(worker)
        if worker.task is None:
            return []
        reason = f"took longer than the {self._timeout_s:g} s that an evaluation may take"
        return [Outcome(worker.task.architecture, None, now - worker.began, reason)]

    def _check_head(self, now: float) -> None:
        with suppress(OSError):
            knock(self._head, _TICK_S)
            self._head_seen_at = time.monotonic()
        if now - self._head_seen_at > _HEAD_GONE_S:
            raise MvigNasError(
                f"the head of the Ray cluster must answer, but {self._head} has not for {_HEAD_GONE_S:.0f} s; what was "
                "evaluated is recorded: start the cluster again and resume."
            )

    def _check_placed(self, now: float) -> None:
        if any(worker.stage != _STARTING for worker in self._workers) or not self._workers:
            self._placed_at = now
            return
        waited_s = now - self._placed_at
        # asked without a head, Ray would not answer for a minute
        if waited_s <= min(self._start_timeout_s, _PLACED_S) or now - self._head_seen_at > 2 * _TICK_S:
            return
        found = nodes()
        need = f"{self._cpus:g} CPUs and {self._gpus:g} GPUs"
        if not any(node.get("CPU", 0) >= self._cpus and node.get("GPU", 0) >= self._gpus for node in found):
            have = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in found) or "no node"
            raise MvigNasError(
                f"a worker needs a node of {need}, but the cluster has {have}; ask for less, or add nodes."
            )
        if waited_s > _PLACED_S:
            raise MvigNasError(
                f"a worker of {need} must start within {_PLACED_S:.0f} s, but none did: the nodes are taken by others; "
                "wait, or ask for less."
            )


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise MvigNasError(f"`{name}` of a Ray evaluator must be {rule}, got {value}.")


def _sent(score: Score) -> Any:
    try:
        return ray.put(cloudpickle.dumps(score))  # type: ignore[no-untyped-call]
    except (ObjectStoreFullError, OutOfDiskError, MemoryError) as error:
        raise MvigNasError(
            f"the score must fit into Ray's object store, but it is full: {line(error)}; start Ray with a larger "
            "--object-store-memory, or free disk under its --temp-dir."
        ) from error
    except (TypeError, AttributeError, ValueError) as error:
        raise MvigNasError(
            f"a score must be one that can be pickled, to be sent to workers, but {score.name!r} is not: "
            f"{line(error)}; leave --evaluator ray out."
        ) from error


def _versions() -> dict[str, str]:
    return {"mvig-nas": version("mvig-nas"), "torch": version("torch"), "python": platform.python_version()}


def _check_versions(theirs: dict[str, str]) -> None:
    for name, own in _versions().items():
        if theirs[name] == own:
            continue
        differs = f"{name} {own} here, {theirs[name]} on node {theirs['node']}"
        if name == "mvig-nas":
            raise MvigNasError(f"all nodes must have the same mvig-nas, got {differs}; install the same.")
        _log.warning("scores may differ in their last digits: %s", differs)


def _why(error: RayError) -> str:
    """Ray's words without its table of identities."""
    return line("\n".join(line for line in str(error).splitlines() if not line.startswith(("\t", " "))))
