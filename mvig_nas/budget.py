"""Budget: what a network may cost, and how durations, counts and sizes are written (`1.0ms`, `5M`, `10MB`)."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.values import about

_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 60e3, "h": 3.6e6}
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Zµ]*)\s*")


@dataclass(frozen=True)
class Budget:
    """Upper limits; None is no limit. A cost equal to its limit fits.

    With a `confidence` of p, a network fits if its latency is below the limit with probability p: the upper end of the
    central interval of coverage 2p - 1 is held against the limit instead of the prediction.

    Raises:
        MvigNasError: a limit is not positive and finite, or `confidence` is not in [0.5, 1) or lacks a latency limit.
    """

    TITLE: ClassVar = "Budget"

    latency_ms: (
        Annotated[
            float,
            about(
                "Most milliseconds that a network may take, e.g. 1.0ms or 900us.",
                flags=("--latency-budget",),
                unit="duration",
                metavar="DURATION",
            ),
        ]
        | None
    ) = None
    parameters: (
        Annotated[
            int,
            about("Most parameters that a network may have, e.g. 6M.", flags=("--max-params",), unit="count"),
        ]
        | None
    ) = None
    macs: (
        Annotated[
            int,
            about("Most multiply-accumulates that a network may take, e.g. 700M.", flags=("--max-macs",), unit="count"),
        ]
        | None
    ) = None
    memory_bytes: (
        Annotated[
            int,
            about(
                "Most memory that a network's activations may take at a time, e.g. 2MB.",
                flags=("--max-memory",),
                unit="bytes",
                metavar="SIZE",
            ),
        ]
        | None
    ) = None
    weight_bytes: (
        Annotated[
            int,
            about(
                "Most memory that a network's weights may take, e.g. 10MB.",
                flags=("--max-weights",),
                unit="bytes",
                metavar="SIZE",
            ),
        ]
        | None
    ) = None
    confidence: (
        Annotated[
            float,
            about(
                "Probability with which a network must keep the latency budget, e.g. 0.9; the prediction itself must "
                "keep it if this is not given.",
                ge=0.5,
                lt=1,
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if not (math.isfinite(limit) and limit > 0):
                raise MvigNasError(f"budget `{name}` must be above 0, got {limit}; give a positive limit.")
        if self.confidence is None:
            return
        if not 0.5 <= self.confidence < 1:
            raise MvigNasError(f"`confidence` must be in [0.5, 1), got {self.confidence}; 0.9 is a usual value.")
        if self.latency_ms is None:
            raise MvigNasError(
                f"`confidence` needs a latency budget, got {self.confidence} alone; add one, for example 1.0ms."
            )

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name, value in asdict(self).items() if name != "confidence" and value is not None}

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float | int | None]) -> "Budget":
        """Budget from `to_dict`'s values.

        Raises:
            MvigNasError: an unknown entry, or a value that the class refuses.
        """
        known = cls.__dataclass_fields__
        for key in values:
            if key not in known:
                raise MvigNasError(f"a budget has no entry {key!r}; {closest(key, known)}")
        return cls(**values)  # type: ignore[arg-type]


def parse_duration_ms(text: str) -> float:
    """Milliseconds of `1.0ms`, `900us`, `0.001s` or `10min`.

    Raises:
        MvigNasError: no number, no unit or an unknown one, or not above 0.
    """
    number, unit = _split("a duration", text, "write 1.0ms, 900us or 0.001s")
    if not unit:
        raise MvigNasError(f"a duration must have a unit (us, ms, s, min or h), got {text!r}; write {text.strip()}ms.")
    if unit not in _MILLISECONDS:
        raise MvigNasError(f"a duration's unit must be us, ms, s, min or h, got {unit!r} in {text!r}; write 1.0ms.")
    return _positive("a duration", number * _MILLISECONDS[unit], text, "write 1.0ms, 900us or 0.001s")


def parse_duration_s(text: str) -> float:
    """Seconds of a duration, as `parse_duration_ms`."""
    return parse_duration_ms(text) / 1e3


def parse_count(text: str) -> int:
    """A whole number from `5M`, `700M`, `1.2G`, `5_300_000` or `5300000`; K, M and G are powers of 1,000.

    Raises:
        MvigNasError: no number, an unknown unit, not whole, or not above 0.
    """
    number, unit = _split("a count", text, "write 5M or 5_300_000")
    scale = _COUNTS.get(unit.upper())
    if scale is None:
        raise MvigNasError(f"a count's unit must be K, M or G, got {unit!r} in {text!r}; write 5M or 5_300_000.")
    return _whole("a count", number * scale, text, "write 5M or 5_300_000")


def parse_bytes(text: str) -> int:
    """Bytes of `10MB`, `512KB` (powers of 1,000) or `10MiB`, `512KiB` (powers of 1,024).

    Raises:
        MvigNasError: no number, no unit or an unknown one, not whole, or not above 0.
    """
    number, unit = _split("a size", text, "write 10MB, 512KB or 10MiB")
    units = {name.lower(): scale for name, scale in _BYTES.items()}
    if not unit:
        raise MvigNasError(f"a size must have a unit ({', '.join(_BYTES)}), got {text!r}; write 10MB or 512KB.")
    if unit.lower() not in units:
        raise MvigNasError(f"a size's unit must be one of {', '.join(_BYTES)}, got {unit!r} in {text!r}; write 10MB.")
    return _whole("a size", number * units[unit.lower()], text, "write 10MB, 512KB or 10MiB")


def _split(what: str, text: str, advice: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise MvigNasError(f"{what} must be a number and a unit, got {text!r}; {advice}.")
    return float(match[1].replace("_", "")), match[2]


def _positive(what: str, value: float, text: str, advice: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise MvigNasError(f"{what} must be above 0, got {text!r}; {advice}.")
    return value


def _whole(what: str, value: float, text: str, advice: str) -> int:
    count = round(_positive(what, value, text, advice))
    if count < 1 or abs(value - count) > 1e-6 * count:
        raise MvigNasError(f"{what} must be a whole number, got {text!r}; {advice}.")
    return count
