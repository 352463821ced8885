"""One measurement, which is one row of a log, and the summary of its samples in one figure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np

from mvig_nas.architecture import Architecture
from mvig_nas.device_log.subject import (
    MOST_MS,
    PLACES,
    SCHEMA,
    TIMM,
    Device,
    Package,
    TimmNetwork,
    milliseconds,
    number,
    one_of,
    shown,
    text,
    units_differ,
)
from mvig_nas.errors import MvigNasError, closest

Network = Architecture | TimmNetwork | Package

_REQUIRED = (
    "schema", "device", "chip", "os", "os_version", "compute_units", "latency_ms", "statistic", "tool_versions", "time",
)  # fmt: skip
_NETWORK = ("architecture", "fingerprint", "network", "resolution")
ENTRIES = (*_REQUIRED, *_NETWORK, "samples_ms", "spread_ms", "placement", "notes")
_OTHER_UNIT = re.compile(r"units?|(samples?|latency|latencies|spread)_(ns|us|s|\w*seconds)")
_PLACEMENT_TOLERANCE = 0.01
_MOST_NOTED = 1e15

MEDIAN, TRIMMED_MEDIAN, REPORTED = "median", "trimmed_median", "reported"
STATISTICS = (MEDIAN, REPORTED, TRIMMED_MEDIAN)
TOLERANCE = 0.01  # of the latency: a summary may have been rounded
_PARTS = 5  # of which the slowest is trimmed


@dataclass(frozen=True)
class Summary:
    """One figure for many samples, and their interquartile range."""

    latency_ms: float
    spread_ms: float


def summarise(samples_ms: Sequence[float], statistic: str = TRIMMED_MEDIAN) -> Summary:
    """Median and interquartile range of the samples; of the fastest 80 % of them for `trimmed_median`.

    Only the slow end is trimmed: whatever else a device does adds time, nothing takes it away.

    Raises:
        MvigNasError: there are no samples, or `statistic` is neither `median` nor `trimmed_median`.
    """
    one_of("statistic", statistic, (MEDIAN, TRIMMED_MEDIAN))
    if not len(samples_ms):
        raise MvigNasError(f"`samples_ms` must hold a sample for a {statistic}, got none; measure at least once.")
    kept = np.sort(np.asarray(samples_ms, dtype=np.float64))
    if statistic == TRIMMED_MEDIAN:
        kept = kept[: len(kept) - len(kept) // _PARTS]
    low, middle, high = np.quantile(kept, (0.25, 0.5, 0.75))
    return Summary(float(middle), float(high - low))


def check_summary(samples_ms: tuple[float, ...], latency_ms: float, spread_ms: float | None, statistic: str) -> None:
    """Refuse a summary that is not of these samples.

    Raises:
        MvigNasError: the figures disagree, or samples are there where none can be, or lack.
    """
    if statistic == REPORTED:
        if samples_ms:
            raise MvigNasError(
                f"a 'reported' latency must come without samples, got {len(samples_ms)}; name the statistic of the "
                "samples, or leave them out."
            )
        return
    if not samples_ms:
        raise MvigNasError(
            f"`samples_ms` must hold a sample for a {statistic}, got none; a figure from elsewhere has the statistic "
            "'reported'."
        )
    found = summarise(samples_ms, statistic)
    if units_differ(latency_ms, found.latency_ms):
        raise MvigNasError(
            f"`latency_ms` and `samples_ms` must both be in milliseconds, got {latency_ms:g} beside samples around "
            f"{found.latency_ms:g}; convert one of them."
        )
    if abs(latency_ms - found.latency_ms) > TOLERANCE * found.latency_ms:
        raise MvigNasError(
            f"`latency_ms` must be its samples' {statistic}, {found.latency_ms:g}, got {latency_ms:g}; take that "
            "value, or restore the samples."
        )
    if spread_ms is None or abs(spread_ms - found.spread_ms) > TOLERANCE * found.latency_ms:
        raise MvigNasError(
            f"`spread_ms` must be its samples' interquartile range, {found.spread_ms:g} for a {statistic}, got "
            f"{spread_ms}; take that value, or restore the samples."
        )


def checked_samples(samples_ms: object) -> tuple[float, ...]:
    """Samples as floats, each a latency that a network can have.

    Raises:
        MvigNasError: they are no list, or one of them is impossible.
    """
    if not isinstance(samples_ms, list | tuple | np.ndarray):
        raise MvigNasError(
            f"`samples_ms` must be a list of milliseconds, got {type(samples_ms).__name__}; write [...]."
        )
    return tuple(milliseconds(f"samples_ms[{index}]", sample) for index, sample in enumerate(samples_ms))


@dataclass(frozen=True)
class Measurement:
    """A network's latency on a device at batch 1, in milliseconds, with what is needed to trust it.

    `samples_ms` are the single runs in the order they were made; `latency_ms` and `spread_ms` summarise them as
    `statistic` says. `reported` is a figure without samples. `placement` is the share of the work on each compute unit.
    `time` may be given in any zone and is kept in UTC.

    Raises:
        MvigNasError: a value is impossible, or the summary is not of the samples.
    """

    network: Network
    device: Device
    samples_ms: tuple[float, ...]
    latency_ms: float
    spread_ms: float | None
    statistic: str
    tool_versions: Mapping[str, str] = field(hash=False)
    time: datetime
    placement: Mapping[str, float] = field(default_factory=dict, hash=False)
    notes: Mapping[str, str | int | float | bool] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        one_of("statistic", self.statistic, STATISTICS)
        self._set("samples_ms", checked_samples(self.samples_ms))
        self._set("latency_ms", milliseconds("latency_ms", self.latency_ms))
        if self.spread_ms is not None:
            spread_ms = number(
                "spread_ms",
                self.spread_ms,
                0.0,
                MOST_MS,
                rule=f"a number of milliseconds from 0 to {MOST_MS:g}",
                advice="correct it or leave it out.",
            )
            self._set("spread_ms", spread_ms)
        check_summary(self.samples_ms, self.latency_ms, self.spread_ms, self.statistic)
        self._set("placement", _checked_placement(self.placement, self.device.compute_units))
        self._set("tool_versions", _checked_versions(self.tool_versions))
        self._set("notes", _checked_notes(self.notes))
        self._set("time", _in_utc(self.time))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def of_samples(
        cls,
        network: Network,
        device: Device,
        samples_ms: Sequence[float],
        *,
        tool_versions: Mapping[str, str],
        time: datetime,
        statistic: str = TRIMMED_MEDIAN,
        placement: Mapping[str, float] | None = None,
        notes: Mapping[str, str | int | float | bool] | None = None,
    ) -> "Measurement":
        """Measurement with the summary of its samples.

        Raises:
            MvigNasError: a value is impossible.
        """
        samples = checked_samples(samples_ms)
        summary = summarise(samples, statistic)
        return cls(
            network, device, samples, summary.latency_ms, summary.spread_ms, statistic, tool_versions, time,
            placement or {}, notes or {},
        )  # fmt: skip

    @property
    def network_label(self) -> str:
        """The same for the same network: a fingerprint, or `timm:NAME@RESOLUTION`."""
        return self.network.label if isinstance(self.network, TimmNetwork) else self.network.fingerprint

    @property
    def group(self) -> str:
        """`Device.group`."""
        return self.device.group

    @cached_property
    def content(self) -> str:
        """The row's JSON. Two measurements with the same content are one."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """A row of the log, ready for JSON; entries without a value are left out."""
        row: dict[str, Any] = {"schema": SCHEMA, "time": self.time.isoformat()}
        if isinstance(self.network, TimmNetwork):
            row |= {"network": TIMM + self.network.name, "resolution": self.network.resolution}
        else:
            row["fingerprint"] = self.network.fingerprint
        row |= {
            "device": self.device.name,
            "chip": self.device.chip,
            "os": self.device.os,
            "os_version": self.device.os_version,
            "compute_units": self.device.compute_units,
            "latency_ms": self.latency_ms,
            "spread_ms": self.spread_ms,
            "statistic": self.statistic,
            "samples_ms": list(self.samples_ms),
            "placement": dict(self.placement),
            "notes": dict(self.notes),
            "tool_versions": dict(self.tool_versions),
        }
        row = {name: value for name, value in row.items() if value is not None and value not in ([], {})}
        if isinstance(self.network, Architecture):
            row["architecture"] = self.network.to_dict()
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Measurement":
        """Measurement from a row of the log.

        Raises:
            MvigNasError: an unknown or missing entry, another schema, or an impossible value.
        """
        _check_entries(row)
        network = _network(row)
        device = Device(row["device"], row["chip"], row["os"], row["os_version"], row["compute_units"])
        time = text("time", row["time"])
        try:
            moment = datetime.fromisoformat(time)
        except ValueError as error:
            raise MvigNasError(
                f"`time` must be ISO 8601 with a zone, got {shown(time)}; write 2026-01-31T12:00:00+00:00."
            ) from error
        return cls(
            network,
            device,
            row.get("samples_ms", ()),
            row["latency_ms"],
            row.get("spread_ms"),
            row["statistic"],
            row["tool_versions"],
            moment,
            row.get("placement", {}),
            row.get("notes", {}),
        )


def _check_entries(row: Mapping[str, Any]) -> None:
    if not isinstance(row, Mapping):
        raise MvigNasError(f"a row must be a JSON object, got {shown(row)}; write {{...}}.")
    schema = row.get("schema")
    if "schema" in row and (isinstance(schema, bool) or not isinstance(schema, int) or schema < 1):
        raise MvigNasError(f"`schema` must be a whole number from 1 to {SCHEMA}, got {shown(schema)}; restore it.")
    if isinstance(schema, int) and schema > SCHEMA:
        raise MvigNasError(f"`schema` must be at most {SCHEMA}, got {shown(schema)}, of a newer mvig-nas; upgrade.")
    for name in row:
        if isinstance(name, str) and _OTHER_UNIT.fullmatch(name):
            raise MvigNasError(
                f"latencies must all be in milliseconds, in entries that end in _ms, got an entry {shown(name)}; "
                "convert them, or import a CSV file with --unit."
            )
        if name not in ENTRIES:
            raise MvigNasError(f"a row has no entry {shown(name)}; {closest(str(name), ENTRIES)}")
    missing = [name for name in _REQUIRED if name not in row]
    if missing:
        raise MvigNasError(f"a row must hold {', '.join(_REQUIRED)}, but lacks {', '.join(missing)}; add it.")


def _network(row: Mapping[str, Any]) -> Network:
    given = [name for name in _NETWORK if name in row]
    if given == ["fingerprint"]:
        return Package(row["fingerprint"])
    if given == ["architecture", "fingerprint"]:
        architecture = Architecture.from_dict(row["architecture"])
        if architecture.fingerprint != row["fingerprint"]:
            raise MvigNasError(
                f"`fingerprint` must be its architecture's, {architecture.fingerprint}, got "
                f"{shown(row['fingerprint'])}; one of them was changed: restore it."
            )
        return architecture
    if given == ["network", "resolution"]:
        name = text("network", row["network"])
        if not name.startswith(TIMM):
            raise MvigNasError(f"`network` must be {TIMM}NAME, got {shown(name)}; write for example {TIMM}resnet18.")
        return TimmNetwork(name.removeprefix(TIMM), row["resolution"])
    raise MvigNasError(
        "a row must name its network by architecture and fingerprint, by network and resolution, or by fingerprint "
        f"alone, got {', '.join(given) or 'none of them'}; keep one of the three."
    )


def _checked_placement(placement: object, compute_units: str) -> dict[str, float]:
    if not isinstance(placement, Mapping):
        raise MvigNasError(f"`placement` must be an object of shares, got {shown(placement)}; write {{...}}.")
    possible = PLACES[compute_units]
    shares = {}
    for unit in sorted(placement, key=str):
        one_of("placement", unit, PLACES["all"])
        share = number(f"placement.{unit}", placement[unit], 0.0, 1.0, rule="a share from 0 to 1", advice="correct it.")
        if share and unit not in possible:
            raise MvigNasError(
                f"`placement` must lie on the compute units allowed, {compute_units}, got {share:g} on {unit}; correct "
                "one of them."
            )
        shares[unit] = share
    if shares and abs(sum(shares.values()) - 1.0) > _PLACEMENT_TOLERANCE:
        raise MvigNasError(f"`placement` must add up to 1, got {sum(shares.values()):g}; write all shares.")
    return shares


def _checked_versions(versions: object) -> dict[str, str]:
    if not isinstance(versions, Mapping) or not versions:
        raise MvigNasError(
            f"`tool_versions` must name at least one tool, got {shown(versions)}; write for example "
            '{"coremltools": "9.0"}.'
        )
    return {
        text("tool_versions", tool): text(f"tool_versions.{tool}", versions[tool]) for tool in sorted(versions, key=str)
    }


def _checked_notes(notes: object) -> dict[str, str | int | float | bool]:
    if not isinstance(notes, Mapping):
        raise MvigNasError(f"`notes` must be an object, got {shown(notes)}; write {{...}}.")
    checked: dict[str, str | int | float | bool] = {}
    for name in sorted(notes, key=str):
        text("notes", name)
        value = notes[name]
        if isinstance(value, bool):
            checked[name] = value
        elif isinstance(value, int | float):
            number(
                f"notes.{name}", value, -_MOST_NOTED, _MOST_NOTED, rule="a number up to 1e15", advice="leave it out."
            )
            checked[name] = value if isinstance(value, int) else float(value) + 0.0
        else:
            checked[name] = text(f"notes.{name}", value)
    return checked


def _in_utc(time: object) -> datetime:
    if not isinstance(time, datetime) or time.utcoffset() is None:
        raise MvigNasError(
            f"`time` must have a zone, got {shown(str(time))}; write 2026-01-31T12:00:00+00:00, or Z at its end."
        )
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise MvigNasError(f"`time` must lie in the years 1 to 9999 in UTC, got {time}; correct it.") from error
