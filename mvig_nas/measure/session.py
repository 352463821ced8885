"""What a session is told, and what it tells."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from mvig_nas.device_log import Measurement
from mvig_nas.errors import MvigNasError
from mvig_nas.measure.backend import Target

_REFERENCE_PART = 5  # the reference runs a fifth as often as a target
_LEAST_REFERENCE = 3


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

    def __init__(self, on_progress: Callable[[Progress], None] | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0
        self._lock = Lock()

    def show(self, now: str, more: int) -> None:
        """Tell it; one device at a time."""
        with self._lock:
            self._done += more
            if self._on_progress is not None:
                self._on_progress(Progress(self._done, self._total, now))


class Show:
    """Tells what one device does. `unit` is its name, empty where it is the only one."""

    def __init__(self, board: Board, unit: str) -> None:
        self.visits = 0
        self._board = board
        self._prefix = f"{unit}: " if unit else ""

    def __call__(self, now: str, more: int = 0) -> None:
        self.visits += more
        self._board.show(self._prefix + now, more)
