"""Measurements of others: CSV files, with a mapping from a log's entries to the file's columns."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from mvig_nas import __version__
from mvig_nas.architecture import FAMILY_PRESETS, Architecture
from mvig_nas.device_log.log_file import DeviceLog
from mvig_nas.device_log.measurement import MEDIAN, REPORTED, Measurement, summarise
from mvig_nas.device_log.subject import SCHEMA, TIMM, milliseconds, shown
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import require_regular
from mvig_nas.values import about, check, plain

UNITS: dict[str, float] = {"ms": 1.0, "us": 1e-3, "s": 1e3}
_NAMES = ("architecture", "network", "fingerprint")
_FIGURES = ("latency_ms", "samples_ms")
_DEVICE = ("device", "chip", "os", "os_version", "compute_units")
TARGETS = (*_NAMES, "resolution", *_FIGURES, "spread_ms", *_DEVICE, "time")


@dataclass(frozen=True)
class Constants:
    """Entries of all rows, where no column gives them.

    Raises:
        MvigNasError: a value is no text.
    """

    device: Annotated[str, about("Name of the device, such as iphone-13-mini.", metavar="NAME")] | None = None
    chip: Annotated[str, about("Chip of the device. By default unknown.", metavar="NAME")] | None = None
    os: Annotated[str, about("Operating system. By default unknown.", metavar="NAME")] | None = None
    os_version: Annotated[str, about("Version of it. By default unknown.", metavar="VERSION")] | None = None
    compute_units: Annotated[str, about("Compute units that networks could use.", metavar="NAME")] = "all"
    time: (
        Annotated[
            str, about("Time of measuring, ISO 8601 with a zone. By default when the file was written.", metavar="TIME")
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def given(self) -> dict[str, str]:
        """The entries that have a value."""
        return {name: value for name, value in plain(self).items() if value is not None}


def read_csv(
    path: str | Path, columns: Mapping[str, str], unit: str, constants: Mapping[str, str] | None = None
) -> DeviceLog:
    """Measurements in a CSV file with a header, of which every row becomes one of the log.

    An `architecture` is JSON or a preset's name, a `network` a timm model's name. `samples_ms` are separated by spaces
    or semicolons. `chip`, `os` and `os_version` are `unknown` where nothing gives them, `time` is the file's.

    Args:
        path: the file.
        columns: entry of the log to column of the file; other columns are ignored.
        unit: of the file's latencies: `ms`, `us` or `s`.
        constants: entries for all rows, where a column does not give them.

    Raises:
        MvigNasError: the file cannot be read, an entry, a column or the unit is unknown, or a row is impossible.
    """
    path = Path(path)
    constants = constants or {}
    if unit not in UNITS:
        raise MvigNasError(f"`unit` must be one of {tuple(UNITS)}, got {unit!r}; {closest(unit, UNITS)}")
    for target in (*columns, *constants):
        if target not in TARGETS:
            raise MvigNasError(f"a log has no entry {target!r} to fill from a column; {closest(target, TARGETS)}")
    _require_one_of(_NAMES, columns, constants)
    _require_one_of(_FIGURES, columns, {})
    for entry in ("device", "compute_units"):
        _require_one_of((entry,), columns, constants)
    defaults = {"chip": "unknown", "os": "unknown", "os_version": "unknown", **constants}
    rows, positions = [], []
    try:
        require_regular(path)
        defaults.setdefault("time", datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat())
        for line, cells in _cells(path, columns):
            position = f"{path}, line {line}"
            try:
                rows.append(_measurement({**defaults, **cells}, UNITS[unit], path.name))
            except MvigNasError as error:
                raise MvigNasError(f"{position}: {error}") from error
            positions.append(position)
    except OSError as error:
        raise MvigNasError(f"a CSV file must be readable, got {error.strerror!r} at {path}; check the path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MvigNasError(f"{path} must be CSV in UTF-8, got {error}; save it anew.") from error
    log = DeviceLog(tuple(rows), tuple(positions))
    if len(log.rows) == len(rows):
        return log
    return DeviceLog(
        log.rows, log.places, (f"{path}: {len(rows) - len(log.rows)} rows repeat others and were left out",)
    )


def _require_one_of(targets: tuple[str, ...], columns: Mapping[str, str], constants: Mapping[str, str]) -> None:
    if not any(target in columns or target in constants for target in targets):
        raise MvigNasError(
            f"a column must give {' or '.join(targets)}, got {', '.join(columns) or 'no columns'}; add "
            f"{targets[0]}=COLUMN to --columns."
        )


def _cells(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and entries of every row; an empty cell gives no entry."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        for column in columns.values():
            if header.count(column) != 1:
                raise MvigNasError(
                    f"{path} must have one column {column!r}, got {header.count(column)}; {closest(column, header)}"
                )
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise MvigNasError(
                    f"{path}, line {reader.line_num}: a row must have {len(header)} cells, as the header, got "
                    f"{len(row)}; mend it."
                )
            cells = {target: row[header.index(column)].strip() for target, column in columns.items()}
            yield reader.line_num, {target: cell for target, cell in cells.items() if cell}


def _measurement(cells: dict[str, str], scale: float, file_name: str) -> Measurement:
    values: dict[str, Any] = {
        **cells,
        "schema": SCHEMA,
        "tool_versions": {"mvig-nas": __version__},
        "notes": {"imported_from": file_name},
    }
    if "architecture" in cells:
        architecture = _architecture(cells["architecture"])
        values["architecture"] = architecture.to_dict()
        values.setdefault("fingerprint", architecture.fingerprint)
    if "network" in cells and not cells["network"].startswith(TIMM):
        values["network"] = TIMM + cells["network"]
    if "resolution" in cells:
        values["resolution"] = _whole(cells["resolution"])
    for name in ("latency_ms", "spread_ms"):
        if name in cells:
            values[name] = _number(name, cells[name]) * scale
    values["statistic"] = REPORTED
    if "samples_ms" in cells:
        samples_ms = [
            milliseconds("samples_ms", _number("samples_ms", sample) * scale)
            for sample in cells["samples_ms"].replace(";", " ").split()
        ]
        summary = summarise(samples_ms, MEDIAN)
        values |= {"samples_ms": samples_ms, "statistic": MEDIAN}
        values.setdefault("latency_ms", summary.latency_ms)
        values.setdefault("spread_ms", summary.spread_ms)
    return Measurement.from_dict(values)


def _architecture(cell: str) -> Architecture:
    if cell.startswith("{"):
        try:
            return Architecture.from_json(cell)
        except RecursionError as error:
            raise MvigNasError(f"an architecture must be JSON, got {error}; restore the cell.") from error
    if cell not in FAMILY_PRESETS:
        raise MvigNasError(
            f"an architecture must be JSON or a preset's name, got {shown(cell)}; {closest(cell, FAMILY_PRESETS)}"
        )
    return FAMILY_PRESETS[cell]


def _number(name: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise MvigNasError(
            f"`{name}` must be a number without unit, got {shown(cell)}; mend the cell, or map another column."
        ) from error


def _whole(cell: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise MvigNasError(f"`resolution` must be a whole number, got {shown(cell)}; mend the cell.") from error
