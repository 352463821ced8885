"""Scores computed by the workers of a Ray cluster. Ray executes only: what is recorded, and in which order it is
learned from, is the search's.

A worker is an actor, so a supernet is loaded once in each. Ray never restarts one: a dead worker is made anew here,
where its unfinished architectures are known.
"""

import logging
import math
import os
import platform
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import ray
from ray import cloudpickle
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.search.contracts import Outcome, Score
from mvig_nas.search.evaluators.local import evaluated

_CALL_S = 0.3  # a call to a worker should take as long, so that its own 1 to 2 ms do not count
_TICK_S = 1.0
_PLACED_S = 60.0  # in which a cluster that is large enough must start a worker
_HEAD_GONE_S = 10.0  # Ray itself ends the process after 60
_REASON_LETTERS = 300

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

    def evaluate(self, architectures: Sequence[Architecture]) -> list[tuple[float | None, float, str | None]]:
        outcomes = []
        for architecture in architectures:
            began = time.perf_counter()
            try:
                outcome = evaluated(self._score, architecture)
                outcomes.append((outcome.score, outcome.seconds, outcome.reason))
            except (Exception, SystemExit) as error:
                outcomes.append((None, time.perf_counter() - began, _line(f"{type(error).__name__}: {error}")))
        return outcomes


@dataclass
class _Task:
    """An architecture to score; `alone` after it shared a call with a worker's death or a hang."""

    architecture: Architecture
    deaths: int = 0
    alone: bool = False


@dataclass(eq=False)
class _Worker:
    actor: Any
    stage: str
    reference: Any
    tasks: list[_Task] = field(default_factory=list)
    began: float = 0.0
    deadline: float = math.inf


class RayEvaluator:
    """An `Evaluator` whose scores are computed by actors of a Ray cluster; use it in a `with` statement.

    Evaluations that take less than 0.3 s are sent several at a time. A worker that dies is made anew, on another node
    if need be, and what it had not finished is evaluated again. An evaluation that raises, kills its worker again and
    again or takes too long is an outcome with a reason. A connection to Ray that this process has already is used, and
    left as it is.

    Args:
        score: what to compute; sent to each worker once.
        address: None to start Ray on this machine; `auto` or `host:port` to join a cluster that this machine is in.
        workers: evaluations at a time; None for as many as there is room for once it is entered.
        cpus: CPUs a worker takes of its node, and its number of threads.
        gpus: GPUs a worker takes; may be a fraction.
        timeout_s: seconds after which an evaluation is given up; None for never.
        retries: evaluations anew of an architecture whose worker died.
        start_timeout_s: seconds in which the head must answer and a node that is large enough must be there.

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
        self._connected_here = False
        self._workers: list[_Worker] = []
        self._queue: deque[_Task] = deque()
        self._size = 1
        self._mean_s: float | None = None
        self._failed_starts = 0

    def __enter__(self) -> Self:
        try:
            self._connect()
            if self._asked is None:
                self._count = self._room()
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
        """Ends the workers, and the connection to Ray if it was made here."""
        for worker in tuple(self._workers):
            self._dismiss(worker)
        if self._connected_here:
            self._connected_here = False
            ray.shutdown()

    @property
    def workers(self) -> int:
        """Evaluations at a time."""
        return self._count

    def _room(self) -> int:
        """Workers that the nodes of now hold, at least one."""
        each = (("CPU", self._cpus), ("GPU", self._gpus))
        return max(1, sum(min(int(node.get(name, 0) / need) for name, need in each if need) for node in _nodes()))

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

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        if self._address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                # of this thread, not of another: its end would be that of the processes it starts
                ray.init(
                    "local",
                    num_cpus=None if self._asked is None else math.ceil(self._asked * self._cpus),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except (RayError, RuntimeError, TimeoutError, OSError, ValueError) as error:
                raise MvigNasError(f"Ray must start on this machine, but: {_line(error)}; see /tmp/ray.") from error
        else:
            _join(self._address, self._start_timeout_s)
        self._connected_here = True

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
                worker.tasks = self._next()
                worker.reference = worker.actor.evaluate.remote([task.architecture for task in worker.tasks])
                worker.stage, worker.began = _BUSY, time.monotonic()
                slack_s = _CALL_S if len(worker.tasks) > 1 else 0.0
                worker.deadline = worker.began + self._timeout_s + slack_s

    def _next(self) -> list[_Task]:
        share = math.ceil(len(self._queue) / self._count)
        tasks = [self._queue.popleft()]
        while not tasks[0].alone and len(tasks) < min(self._size, share) and not self._queue[0].alone:
            tasks.append(self._queue.popleft())
        return tasks

    def _step(self) -> list[Outcome]:
        """Waits a moment for news of the workers, and deals with it."""
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
            cause = _line(f"{type(error.cause).__name__}: {error.cause}" if error.cause else error)
            if worker.stage == _BUSY:
                return self._done(worker, [(None, 0.0, cause)] * len(worker.tasks))
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

    def _done(self, worker: _Worker, results: Sequence[tuple[float | None, float, str | None]]) -> list[Outcome]:
        outcomes = [
            Outcome(task.architecture, score, seconds, reason)
            for task, (score, seconds, reason) in zip(worker.tasks, results, strict=True)
        ]
        mean_s = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        self._mean_s = mean_s if self._mean_s is None else (self._mean_s + mean_s) / 2
        self._size = max(1, min(4 * self._size, int(_CALL_S / max(self._mean_s, 1e-6))))
        worker.stage, worker.tasks, worker.deadline = _READY, [], math.inf
        return outcomes

    def _died(self, worker: _Worker, cause: str) -> list[Outcome]:
        self._dismiss(worker)
        if worker.stage != _BUSY:
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                raise MvigNasError(
                    f"workers must start, but {self._failed_starts} in a row died before they had the score: {cause}; "
                    f"every node must have mvig-nas {version('mvig-nas')} installed and enough memory."
                )
            return []
        _log.warning("a worker died, %d architectures are evaluated again: %s", len(worker.tasks), cause)
        outcomes = []
        for task in reversed(worker.tasks):
            task.deaths += 1
            task.alone = True
            if task.deaths > self._retries:
                reason = f"its worker died {task.deaths} times, the last time: {cause}"
                outcomes.append(Outcome(task.architecture, None, time.monotonic() - worker.began, reason))
            else:
                self._queue.appendleft(task)
        return outcomes

    def _late(self, worker: _Worker, now: float) -> list[Outcome]:
        self._dismiss(worker)
        if len(worker.tasks) == 1:
            reason = f"took longer than the {self._timeout_s:g} s that an evaluation may take"
            return [Outcome(worker.tasks[0].architecture, None, now - worker.began, reason)]
        # which of them hung shows when each is on its own
        for task in reversed(worker.tasks):
            task.alone = True
            self._queue.appendleft(task)
        return []

    def _check_head(self, now: float) -> None:
        with suppress(OSError):
            _knock(self._head, _TICK_S)
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
        nodes = _nodes()
        need = f"{self._cpus:g} CPUs and {self._gpus:g} GPUs"
        if not any(node.get("CPU", 0) >= self._cpus and node.get("GPU", 0) >= self._gpus for node in nodes):
            have = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes) or "no node"
            raise MvigNasError(
                f"a worker needs a node of {need}, but the cluster has {have}; ask for less, or add nodes."
            )
        if waited_s > _PLACED_S:
            raise MvigNasError(
                f"a worker of {need} must start within {_PLACED_S:.0f} s, but none did: the nodes are taken by others; "
                "wait, or ask for less."
            )


def _nodes() -> list[dict[str, float]]:
    """Resources of the nodes that are there now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise MvigNasError(f"`{name}` of a Ray evaluator must be {rule}, got {value}.")


def _join(address: str, timeout_s: float) -> None:
    """Joins a cluster; ray.init alone would try for minutes."""
    if "://" in address:
        raise MvigNasError(
            f"a search must run on a machine of the cluster, which `auto` or host:port is the address of, got "
            f"{address}; start it there."
        )
    until = time.monotonic() + timeout_s
    unreachable = MvigNasError(
        f"the head of a Ray cluster must answer at {address} within {timeout_s:g} s, but none did; check `ray status`, "
        "and that this machine is one of the cluster's."
    )
    if address != "auto":
        try:
            _knock(address, timeout_s)
        except (OSError, ValueError) as error:
            raise unreachable from error
    failures: list[Exception] = []

    def join() -> None:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if thread.is_alive() or isinstance(next(iter(failures), None), ConnectionError):
        raise unreachable
    if failures:
        raise MvigNasError(f"the Ray cluster at {address} must be joined, but: {_line(failures[0])}") from failures[0]


def _knock(address: str, timeout_s: float) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()


def _sent(score: Score) -> Any:
    try:
        return ray.put(cloudpickle.dumps(score))  # type: ignore[no-untyped-call]
    except (ObjectStoreFullError, OutOfDiskError, MemoryError) as error:
        raise MvigNasError(
            f"the score must fit into Ray's object store, but it is full: {_line(error)}; start Ray with a larger "
            "--object-store-memory, or free disk under its --temp-dir."
        ) from error
    except (TypeError, AttributeError, ValueError) as error:
        raise MvigNasError(
            f"a score must be one that can be pickled, to be sent to workers, but {score.name!r} is not: "
            f"{_line(error)}; leave --evaluator ray out."
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
    return _line("\n".join(line for line in str(error).splitlines() if not line.startswith(("\t", " "))))


def _line(text: object) -> str:
    return " ".join(str(text).split())[:_REASON_LETTERS]
