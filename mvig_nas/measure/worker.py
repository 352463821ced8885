"""One device at work on a session's queue: rounds over a few networks, watched by a reference network.

A device that gets hot, or busy, becomes slower for everything it runs. Interleaving spreads that over all networks
of a group alike; the reference, measured between them, shows it.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from threading import Condition, Event

from mvig_nas import device_log
from mvig_nas.device_log import Measurement
from mvig_nas.errors import MvigNasError
from mvig_nas.measure.backend import Backend, Loaded, Notes, Target
from mvig_nas.measure.session import MeasureSettings, Show

Group = tuple[Target, ...]
Sleep = Callable[[float], object]

_SETTLING_FIGURES = 5
_DIGITS = 6


class Reference:
    """A network whose latency should stay what it was when the session began."""

    def __init__(self, target: Target, loaded: Loaded, settings: MeasureSettings, show: Show, sleep: Sleep) -> None:
        self.target = target
        self._loaded = loaded
        self._settings = settings
        self._show = show
        self._sleep = sleep
        self.first_ms = 0.0

    def figure_ms(self) -> float:
        """Median of a few runs."""
        return median(_timed(self._loaded, self._settings.reference_iterations))

    def settle(self) -> None:
        """Warm up; measure the first rounds until they agree, or the pauses are used up."""
        self._loaded.run(self._settings.iterations)
        for attempt in range(self._settings.repeats + 1):
            if attempt:
                self.pause("the reference's first rounds differ")
            figures = []
            for _ in range(_SETTLING_FIGURES):
                self._sleep(self._settings.cool_down_s)
                figures.append(self.figure_ms())
            self.first_ms = median(figures)
            if max(figures) <= min(figures) * (1 + self._settings.drift):
                return

    def drift(self, figures_ms: Sequence[float]) -> float:
        """By which share of the first rounds' latency a round's differs; above 0 it is slower."""
        return median(figures_ms) / self.first_ms - 1

    def pause(self, why: str) -> None:
        self._show(f"{why}: pause of {self._settings.pause_s:g} s")
        self._sleep(self._settings.pause_s)


@dataclass(frozen=True)
class Bench:
    reference: Reference
    settings: MeasureSettings
    rng: random.Random
    show: Show
    sleep: Sleep

    def rounds(
        self, networks: Mapping[Target, Loaded]
    ) -> tuple[dict[Target, list[float]], dict[str, str | int | float | bool]]:
        """Samples of each network in milliseconds, and what the reference says of them."""
        settings = self.settings
        samples_ms: dict[Target, list[float]] = {target: [] for target in networks}
        figures_ms: list[float] = []
        slow = fast = repeated = kept = 0
        while kept < settings.rounds:
            in_round, reference_ms = self._round(networks, kept + 1)
            drift = self.reference.drift(reference_ms)
            is_drifted = abs(drift) > settings.drift
            if is_drifted and repeated < settings.repeats:
                repeated += 1
                self.show(f"round {kept + 1} is repeated", -len(networks))
                slower = "slower" if drift > 0 else "faster"
                self.reference.pause(f"the reference is {abs(drift):.0%} {slower} than at first")
                continue
            slow, fast = slow + (is_drifted and drift > 0), fast + (is_drifted and drift < 0)
            kept += 1
            figures_ms += reference_ms
            for target, runs_ms in in_round.items():
                samples_ms[target] += [float(f"{run_ms:.{_DIGITS}g}") for run_ms in runs_ms]
        return samples_ms, {
            "reference": self.reference.target.label,
            "reference_ms": round(median(figures_ms), 4),
            "reference_drift": round(self.reference.drift(figures_ms), 4),
            "rounds_repeated": repeated,
            "rounds_drifted": slow + fast,
            "throttled": slow > 0,
        }

    def _round(self, networks: Mapping[Target, Loaded], number: int) -> tuple[dict[Target, list[float]], list[float]]:
        """Every network once, in a new order, and the reference before, between and after them."""
        in_round: dict[Target, list[float]] = {}
        reference_ms = [self.reference.figure_ms()]
        for target in self.rng.sample(list(networks), len(networks)):
            self.sleep(self.settings.cool_down_s)
            in_round[target] = _timed(networks[target], self.settings.iterations)
            reference_ms.append(self.reference.figure_ms())
            self.show(f"{target.shown}, round {number} of {self.settings.rounds}", 1)
        return in_round, reference_ms


def _timed(loaded: Loaded, iterations: int) -> list[float]:
    """Milliseconds of so many runs, after one that finds the caches full of another network."""
    return loaded.run(iterations + 1)[1:]


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
    settings: MeasureSettings
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
