"""The file: read, appended to, merged."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvig_nas import files
from mvig_nas.device_log.measurement import Measurement
from mvig_nas.device_log.subject import Device, shown, units_differ
from mvig_nas.errors import MvigNasError

_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line of a log; lines count from 1."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class DeviceLog:
    """Measurements, each once, by time and then by network: the same log however its lines were shuffled.

    `places` says where each row was read (`log.jsonl, line 3`; empty where it was not), `warnings` what was left out on
    reading; both are no part of the log's value.
    """

    rows: tuple[Measurement, ...]
    places: tuple[str, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        places = self.places or ("",) * len(self.rows)
        by_content: dict[str, tuple[Measurement, str]] = {}
        for row, place in zip(self.rows, places, strict=True):
            by_content.setdefault(row.content, (row, place))
        pairs = sorted(by_content.values(), key=lambda pair: (pair[0].time, pair[0].network_label, pair[0].content))
        object.__setattr__(self, "rows", tuple(row for row, _ in pairs))
        object.__setattr__(self, "places", tuple(place for _, place in pairs))
        object.__setattr__(self, "warnings", tuple(sorted(set(self.warnings))))

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device of the log, in the order of their first rows."""
        return tuple(dict.fromkeys(row.device for row in self.rows))

    @property
    def device_key(self) -> Device:
        """The one device of the log.

        Raises:
            MvigNasError: there are no rows, or rows of several devices.
        """
        if len(self.devices) != 1:
            raise MvigNasError(
                f"a log must be of one device for this, got {len(self.devices)}; keep a log for each device."
            )
        return self.devices[0]

    @property
    def networks(self) -> tuple[str, ...]:
        """Label of every network of the log, once."""
        return tuple(dict.fromkeys(row.network_label for row in self.rows))

    @property
    def latencies_ms(self) -> NDArray[np.float64]:
        """Milliseconds of the rows, shape (n,)."""
        return np.array([row.latency_ms for row in self.rows], dtype=np.float64)

    @property
    def groups(self) -> tuple[str, ...]:
        """Labels of the rows for `LatencyPredictor.fit`'s `groups`."""
        return tuple(row.group for row in self.rows)

    def to_jsonl(self) -> str:
        """The file's text: one row a line."""
        return "".join(row.content + "\n" for row in self.rows)


def read(path: str | Path, allow_mixed: bool = False) -> DeviceLog:
    """The log in a file. A last line that a kill broke off is left out, with a warning in the result.

    Args:
        path: JSON Lines, as `append` and `write` make them.
        allow_mixed: take rows of different devices, systems and compute units.

    Raises:
        MvigNasError: the file cannot be read, or one of its lines is not a possible measurement.
    """
    log, problems = inspect(path, allow_mixed)
    if problems:
        more = f" ({len(problems) - 1} more; `mvig-nas log check` lists them)" if len(problems) > 1 else ""
        raise MvigNasError(f"{path}, {problems[0]}{more}")
    return log


def inspect(path: str | Path, allow_mixed: bool = False) -> tuple[DeviceLog, tuple[Problem, ...]]:
    """The good rows of a file, and what is wrong with its other lines; `read` raises the first of the problems.

    Raises:
        MvigNasError: the file cannot be read.
    """
    path = Path(path)
    try:
        content = files.read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise MvigNasError(f"a log must be readable, got {error.strerror!r} at {path}; check the path.") from error
    whole, broken = _split(content)
    rows: dict[str, Measurement] = {}
    places: dict[str, int] = {}
    warnings, problems = [], []
    consistency = _Consistency(allow_mixed)
    for line, text in _lines(whole):
        try:
            row = _parsed(text)
            if row.content in rows:
                warnings.append(f"{path}, line {line}: repeats line {places[row.content]} and was left out")
                continue
            consistency.check(row, f"line {line}")
        except MvigNasError as error:
            problems.append(Problem(line, " ".join(str(error).split())))
            continue
        rows[row.content], places[row.content] = row, line
    if broken:
        line = whole.count(b"\n") + 1
        warnings.append(
            f"{path}, line {line}: breaks off after {len(broken)} bytes and was left out; measure its network again"
        )
    log = DeviceLog(tuple(rows.values()), tuple(f"{path}, line {line}" for line in places.values()), tuple(warnings))
    return log, tuple(problems)


def append(path: str | Path, measurement: Measurement, allow_mixed: bool = False) -> str | None:
    """Add a row to a log, which is made if there is none. On return the row is on the disk.

    A kill at any moment loses at most this row, and several processes may append at once. A last line that was broken
    off earlier is cut away first.

    Returns:
        A warning, where a line was cut away.

    Raises:
        MvigNasError: the file cannot be written, holds something other than a log, or is of another device.
    """
    path = Path(path)
    kept = b""

    def whole(content: bytes) -> int:
        nonlocal kept
        kept, _ = _split(content)
        _check_is_like(path, kept, measurement, allow_mixed)
        return len(kept)

    try:
        lost = files.append(path, measurement.content + "\n", whole=whole)
    except OSError as error:
        raise MvigNasError(
            f"a device log must be writable, got {error.strerror!r} at {path}; make room or mend its rights."
        ) from error
    if not lost:
        return None
    line = kept.count(b"\n") + 1
    return f"{path}, line {line}: broke off after {lost} bytes and was cut away; measure its network again"


def merge(logs: Iterable[DeviceLog], allow_mixed: bool = False) -> DeviceLog:
    """All rows of the logs, each once.

    Raises:
        MvigNasError: the logs are of different devices, systems or compute units, or of different units of time.
    """
    logs = list(logs)
    merged = DeviceLog(
        tuple(row for log in logs for row in log.rows),
        tuple(place for log in logs for place in log.places),
        tuple(warning for log in logs for warning in log.warnings),
    )
    consistency = _Consistency(allow_mixed)
    for row, place in zip(merged.rows, merged.places, strict=True):
        where = place or f"the row of {row.time.isoformat()}"
        try:
            consistency.check(row, where)
        except MvigNasError as error:
            raise MvigNasError(f"{where}: {error}") from error
    return merged


def write(path: str | Path, log: DeviceLog) -> None:
    """Write a log to a new file, whole or not at all.

    Raises:
        MvigNasError: the file exists already, or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise MvigNasError(f"a log is never overwritten, and {path} exists; take another name.")
    files.save(path, log.to_jsonl())


class _Consistency:
    """Whether rows agree with those before them."""

    def __init__(self, allow_mixed: bool) -> None:
        self._allow_mixed = allow_mixed
        self._first: tuple[Device, str] | None = None
        self._latencies: dict[tuple[Device, str], dict[float, str]] = {}

    def check(self, row: Measurement, place: str) -> None:
        if self._first is None:
            self._first = (row.device, place)
        device, first_place = self._first
        if device != row.device and not self._allow_mixed:
            name, found, first = row.device.differences(device)[0]
            raise MvigNasError(
                f"all rows must be of one device, system and compute units, got {name} {shown(found)} after "
                f"{shown(first)} ({first_place}); keep a log for each, or allow mixed rows (--allow-mixed)."
            )
        seen = self._latencies.setdefault((row.device, row.network_label), {})
        for other_ms, other_place in seen.items():
            if units_differ(row.latency_ms, other_ms):
                raise MvigNasError(
                    f"all latencies must be in milliseconds, got {row.latency_ms:g} for {row.network_label}, which "
                    f"takes {other_ms:g} ({other_place}); convert one of them."
                )
        lowest, highest = min((*seen, row.latency_ms)), max((*seen, row.latency_ms))
        self._latencies[row.device, row.network_label] = {
            latency_ms: seen.get(latency_ms, place) for latency_ms in (lowest, highest)
        }


def _split(content: bytes) -> tuple[bytes, bytes]:
    """The whole lines of a file, and a last line that was broken off while it was written.

    A last line that lacks only its end is whole: no beginning of a JSON object is JSON. Nothing but a beginning of a
    row is taken for one, so that a file of another kind is never cut.
    """
    end = content.rfind(b"\n") + 1
    last = content[end:]
    if not last.startswith(b"{") or _is_json(last):
        return content, b""
    return content[:end], last


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return True


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for line, text in enumerate(content.split(b"\n"), start=1):
        if text.strip():
            yield line, text


def _check_is_like(path: Path, content: bytes, measurement: Measurement, allow_mixed: bool) -> None:
    line, text = next(_lines(content), (0, b""))
    if not text:
        return
    try:
        consistency = _Consistency(allow_mixed)
        consistency.check(_parsed(text), f"line {line}")
        consistency.check(measurement, "the new row")
    except MvigNasError as error:
        raise MvigNasError(f"{path} must be a log that the new row fits: {error}") from error


def _parsed(text: bytes) -> Measurement:
    try:
        row = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_not_finite)
    except json.JSONDecodeError as error:
        raise MvigNasError(
            f"a row must be one JSON object, got text that breaks off or errs at character {error.pos + 1}, "
            f"{shown(error.doc[error.pos : error.pos + 20])} ({error.msg}); restore or delete the line."
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, brackets without end
        raise MvigNasError(f"a row must be a JSON object in UTF-8, got {error}; restore or delete the line.") from error
    return Measurement.from_dict(row)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MvigNasError(f"an entry must stand once in a row, got {shown(twice)} twice; delete one of them.")
    return values


def _not_finite(name: str) -> Any:
    raise MvigNasError(f"numbers must be finite, got {name}; delete the row, or measure again.")
