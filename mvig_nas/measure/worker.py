"""One device at work on a session's queue."""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Condition, Event

from mvig_nas import device_log
from mvig_nas.device_log import Measurement
from mvig_nas.errors import MvigNasError
from mvig_nas.measure.backend import Backend, Loaded, Notes, Target
from mvig_nas.measure.rounds import Bench, Reference, Sleep
from mvig_nas.measure.session import Settings, Show

Group = tuple[Target, ...]


class Queue:
    """Groups of networks that wait for a device."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._waiting = deque(groups)
        self._lent = 0
        self._changed = Condition()
        self._stopped = Event()

    def stop(self) -> None:
        """End all devices' work before their next visit of a network."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def go_on(self) -> None:
        """Do nothing, unless the session was stopped."""
        if self._stopped.is_set():
            raise _StoppedError

    def rest(self, seconds: float) -> None:
        """Wait so long, or until the session is stopped."""
        self._stopped.wait(seconds)

    @contextmanager
    def lend(self) -> Iterator[Group | None]:
        """The next group; None when all are done. An error puts it back, behind the others.

        Waits while none is there but other devices have some, which may come back.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._lent or self._stopped.is_set())
            self.go_on()
            group = self._waiting.popleft() if self._waiting else None
            self._lent += group is not None
        is_done = False
        try:
            yield group
            is_done = True
        finally:
            if group is not None:
                with self._changed:
                    self._lent -= 1
                    if not is_done:
                        self._waiting.append(group)
                    self._changed.notify_all()


@dataclass(frozen=True)
class Job:
    """What the devices of a session share: the network that watches each of them, the queue, the log, the rests."""

    reference: Target
    settings: Settings
    queue: Queue
    log_path: str | Path
    sleep: Sleep


@dataclass
class Worker:
    """Measures groups of the queue on its own device, until none are left or the device fails.

    `unit` is the device's name in the notes of rows, empty where it is the only one.
    """

    backend: Backend
    unit: str
    job: Job
    rng: random.Random
    show: Show
    rows: list[Measurement] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reference_ms: float | None = None
    failure: Exception | None = None

    def work(self) -> None:
        """Work. A failure of the device is kept; any other error is the session's."""
        try:
            self._work()
        except _DeviceError as error:
            self.failure = error.failure
            if self.unit:
                lost = self.show.visits - len(self.rows) * self.job.settings.rounds
                self.show(f"failed: {on_one_line(self.failure)}", -lost)

    def _work(self) -> None:
        job = self.job
        with ExitStack() as session:
            reference = Reference(job.reference, self._load(job.reference, session), job.settings, self.show, job.sleep)
            reference.settle()
            self.reference_ms = reference.first_ms
            bench = Bench(reference, job.settings, self.rng, self.show, job.sleep)
            while self._group(bench):
                pass

    def _group(self, bench: Bench) -> bool:
        """Measure the next one; False where there is none."""
        # A device that failed gives its group back first: to close what it holds may take long.
        with ExitStack() as loaded, self.job.queue.lend() as group:
            if group is None:
                return False
            networks: dict[Target, Loaded] = {}
            for target in group:
                networks[target] = self._load(target, loaded)
                networks[target].run(self.job.settings.reference_iterations)  # warm-up
            samples_ms, notes = bench.rounds(networks)
            if self.unit:
                notes["unit"] = self.unit
            for target, network in networks.items():
                row = Measurement.of_samples(
                    target.network,
                    self.backend.device,
                    samples_ms[target],
                    tool_versions=self.backend.tool_versions,
                    time=datetime.now(UTC),
                    placement=network.placement,
                    notes={**network.notes, **notes},
                )
                warning = device_log.append(self.job.log_path, row)
                self.rows.append(row)
                self.warnings += [] if warning is None else [warning]
        return True

    def _load(self, target: Target, opened: ExitStack) -> Loaded:
        self.job.queue.go_on()
        self.show(f"loading {target.shown}")
        with _device_errors():
            network = _Guarded(self.backend.load(target), self.job.queue)
        opened.callback(network.close)
        return network


def on_one_line(error: Exception) -> str:
    """What an error says, and its kind where that is not ours."""
    kind = "" if isinstance(error, MvigNasError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


class _Guarded:
    """A network on a device that may fail, in a session that may be stopped."""

    def __init__(self, loaded: Loaded, queue: Queue) -> None:
        self._loaded = loaded
        self._queue = queue

    @property
    def placement(self) -> Mapping[str, float]:
        return self._loaded.placement

    @property
    def notes(self) -> Notes:
        return self._loaded.notes

    def run(self, iterations: int) -> list[float]:
        self._queue.go_on()
        with _device_errors():
            return self._loaded.run(iterations)

    def close(self) -> None:
        with _device_errors():
            self._loaded.close()


class _StoppedError(Exception):
    """Another device's error, or Ctrl-C, ended the session."""


class _DeviceError(Exception):
    """The device, not the session, failed."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


@contextmanager
def _device_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _DeviceError(error) from error
