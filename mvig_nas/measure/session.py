"""What a session is told, and what it tells."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, ClassVar

from mvig_nas.device_log import Measurement
from mvig_nas.measure.backend import Target
from mvig_nas.values import about, check

_DAY_S = 86_400
_REFERENCE_PART = 5  # the reference runs a fifth as often as a target
_LEAST_REFERENCE = 3


@dataclass(frozen=True)
class MeasureSettings:
    """How networks are measured.

    Raises:
        MvigNasError: a value is out of range.
    """

    TITLE: ClassVar = "Measuring"

    rounds: Annotated[
        int, about("Visits of each network; it has so many times --iterations samples in the end.", ge=1)
    ] = 20
    iterations: Annotated[int, about("Timed runs of the network in each visit.", ge=1)] = 50
    cool_down_s: Annotated[
        float,
        about("Rest before each visit.", ge=0, le=_DAY_S, unit="seconds", flags=("--cool-down",)),
    ] = 0.2
    together: Annotated[
        int, about("Networks that are loaded at once and take turns; a kill loses these and no more.", ge=1)
    ] = 8
    drift: Annotated[
        float,
        about(
            "Share by which the first TARGET may become slower or faster than when the session began, before a round "
            "is repeated.",
            gt=0,
        ),
    ] = 0.1
    repeats: Annotated[
        int,
        about("Rounds of a group that are repeated for such a drift; later ones are kept, with a note.", ge=0),
    ] = 3
    pause_s: Annotated[
        float,
        about("Rest before such a repetition.", ge=0, le=_DAY_S, unit="seconds", flags=("--pause",)),
    ] = 30.0
    seed: Annotated[
        int, about("Seed of the order of networks, in the session and in each round.", ge=0, le=2**32 - 1)
    ] = 0

    def __post_init__(self) -> None:
        check(self)

    @property
    def reference_iterations(self) -> int:
        """Runs of the reference each time."""
        return max(_LEAST_REFERENCE, self.iterations // _REFERENCE_PART)


@dataclass(frozen=True)
class MeasureProgress:
    """Where a session stands: visits of networks made and planned, and what it does now."""

    done: int
    total: int
    now: str


@dataclass(frozen=True)
class Unit:
    """One of the devices of a session.

    Attributes:
        name: its backend's `unit`, or its number where that tells nothing; `unit` in the notes of its rows, where there
            are several.
        measured: networks.
        reference_ms: latency of the reference at its begin; None where it did not get so far.
        failure: what ended its part of the session, on one line; None where nothing did.
    """

    name: str
    measured: int
    reference_ms: float | None
    failure: str | None = None


@dataclass(frozen=True)
class Session:
    """What a session did: the rows it appended, the targets that the log held before, warnings, and its devices."""

    rows: tuple[Measurement, ...]
    skipped: tuple[Target, ...]
    warnings: tuple[str, ...] = ()
    units: tuple[Unit, ...] = ()

    @property
    def reference_ratio(self) -> float:
        """The reference's latency on the slowest device, as a multiple of that on the fastest; 1 for one device."""
        figures_ms = [unit.reference_ms for unit in self.units if unit.reference_ms is not None]
        return max(figures_ms) / min(figures_ms) if figures_ms else 1.0


class Board:
    """Where all devices of a session stand together."""

    def __init__(self, on_progress: Callable[[MeasureProgress], None] | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0
        self._lock = Lock()

    def show(self, now: str, more: int) -> None:
        """Tell it; one device at a time."""
        with self._lock:
            self._done += more
            if self._on_progress is not None:
                self._on_progress(MeasureProgress(self._done, self._total, now))


class Show:
    """Tells what one device does. `unit` is its name, empty where it is the only one."""

    def __init__(self, board: Board, unit: str) -> None:
        self.visits = 0
        self._board = board
        self._prefix = f"{unit}: " if unit else ""

    def __call__(self, now: str, more: int = 0) -> None:
        self.visits += more
        self._board.show(self._prefix + now, more)
