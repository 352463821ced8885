"""The one measuring loop: rounds over a few networks at a time, watched by a reference network.

A device that gets hot, or busy, becomes slower for everything it runs. Interleaving spreads that over all networks
of a group alike; the reference, measured between them, shows it.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from mvig_nas import device_log
from mvig_nas.device_log import Device, Measurement
from mvig_nas.errors import MvigNasError
from mvig_nas.measure._backend import Backend, Loaded, Target

_SETTLING_FIGURES = 5
_REFERENCE_PART = 5  # the reference runs a fifth as often as a target
_LEAST_REFERENCE = 3
_DIGITS = 6


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: how often each network is visited; its samples are `rounds * iterations`.
        iterations: timed runs in a visit.
        cool_down_s: seconds of rest before each visit.
        together: networks that are loaded and take turns; a kill loses these and no more.
        drift: share by which the reference's latency may differ from that of the session's begin.
        repeats: rounds of a group that are thrown away and repeated for drift; later ones are kept, with a note.
        pause_s: seconds of rest before such a repetition.
        seed: of the order of networks, in the session and in each round.

    Raises:
        MvigNasError: a value is out of range.
    """

    rounds: int = 20
    iterations: int = 50
    cool_down_s: float = 0.2
    together: int = 8
    drift: float = 0.1
    repeats: int = 3
    pause_s: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("iterations", 1), ("together", 1), ("repeats", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise MvigNasError(f"`{name}` must be a whole number from {least}, got {value!r}; correct it.")
        for name in ("cool_down_s", "pause_s"):
            value = getattr(self, name)
            if not 0 <= value < 86_400:
                raise MvigNasError(f"`{name}` must be 0 seconds to a day, got {value!r}; 0 is no rest.")
        if not 0 < self.drift < float("inf"):
            raise MvigNasError(f"`drift` must be a share above 0, got {self.drift!r}; 0.1 is 10 %.")

    @property
    def reference_iterations(self) -> int:
        """Runs of the reference each time."""
        return max(_LEAST_REFERENCE, self.iterations // _REFERENCE_PART)


@dataclass(frozen=True)
class Progress:
    """Where a session stands: visits of networks made and planned, and what it does now."""

    done: int
    total: int
    now: str


@dataclass(frozen=True)
class Session:
    """What a session did: the rows it appended, the targets that the log held before, warnings about the log."""

    rows: tuple[Measurement, ...]
    skipped: tuple[Target, ...]
    warnings: tuple[str, ...] = ()


def measure(
    targets: Sequence[Target],
    backend: Backend,
    log_path: str | Path,
    settings: Settings = Settings(),
    *,
    on_progress: Callable[[Progress], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Session:
    """Measure networks and append each to the device's log when its rounds are done.

    Targets whose network the log holds already are skipped: run the same call again after a kill. The first target is
    the reference; its latency is in every row's notes, so that sessions can be compared.

    Args:
        targets: what to measure; a network that stands there twice is measured once.
        backend: the device.
        log_path: a log of this device, made if there is none.
        settings: how often, in which order, with which rests.
        on_progress: called after every visit of a network, and before every pause.
        sleep: waits for so many seconds.

    Raises:
        MvigNasError: no targets, a log that cannot be read or is of another device, or a network that the backend
            cannot run. What was appended before stays.
    """
    unique = list({target.label: target for target in reversed(targets)}.values())[::-1]
    if not unique:
        raise MvigNasError("there must be a network to measure, got none; name a preset, a file or a package.")
    done = _in_log(Path(log_path), backend.device)
    skipped = tuple(target for target in unique if target.label in done)
    rng = random.Random(settings.seed)
    order = rng.sample(unique, len(unique))
    todo = [target for target in order if target.label not in done]
    if not todo:
        return Session((), skipped)
    for target in unique:
        backend.check(target)
    show = _Show(on_progress, len(todo) * settings.rounds)
    rows: list[Measurement] = []
    warnings: list[str] = []
    with ExitStack() as session:
        show(f"loading {unique[0].shown}")
        loaded = backend.load(unique[0])
        session.callback(loaded.close)
        reference = _Reference(unique[0], loaded, settings, show, sleep)
        reference.settle()
        bench = _Bench(reference, settings, rng, show, sleep)
        for begin in range(0, len(todo), settings.together):
            with ExitStack() as group:
                networks: dict[Target, Loaded] = {}
                for target in todo[begin : begin + settings.together]:
                    show(f"loading {target.shown}")
                    networks[target] = backend.load(target)
                    group.callback(networks[target].close)
                    networks[target].run(settings.reference_iterations)  # warm-up
                samples_ms, notes = bench.rounds(networks)
                for target, loaded in networks.items():
                    row = Measurement.of_samples(
                        target.network,
                        backend.device,
                        samples_ms[target],
                        tool_versions=backend.tool_versions,
                        time=datetime.now(UTC),
                        placement=loaded.placement,
                        notes={**loaded.notes, **notes},
                    )
                    warning = device_log.append(log_path, row)
                    rows.append(row)
                    warnings += [] if warning is None else [warning]
    return Session(tuple(rows), skipped, tuple(warnings))


class _Show:
    def __init__(self, on_progress: Callable[[Progress], None] | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0

    def __call__(self, now: str, more: int = 0) -> None:
        self._done += more
        if self._on_progress is not None:
            self._on_progress(Progress(self._done, self._total, now))


class _Reference:
    """A network whose latency should stay what it was when the session began."""

    def __init__(
        self, target: Target, loaded: Loaded, settings: Settings, show: _Show, sleep: Callable[[float], None]
    ) -> None:
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
class _Bench:
    reference: _Reference
    settings: Settings
    rng: random.Random
    show: _Show
    sleep: Callable[[float], None]

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


def _in_log(path: Path, device: Device) -> set[str]:
    """Labels of the networks that the log holds; the log must be of this device."""
    if not path.exists():
        return set()
    log = device_log.read(path)
    for other in log.devices:
        for name, ours, theirs in device.differences(other):
            raise MvigNasError(
                f"a log must be of one device, system and compute units, but {path} has {name} {theirs!r} and "
                f"{ours!r} is to be measured; take another --log."
            )
    return set(log.networks)
