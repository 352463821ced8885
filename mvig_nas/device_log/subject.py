"""What was measured and on which device, and the checks that the values of a row share."""

import re
import reprlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mvig_nas.errors import MvigNasError, closest

SCHEMA = 1
TIMM = "timm:"
CPU, GPU, NEURAL_ENGINE = "cpu", "gpu", "neural-engine"

# Compute units that a model was allowed to use (Core ML's names), with the units its operations can be placed on.
PLACES: dict[str, tuple[str, ...]] = {
    "all": (CPU, GPU, NEURAL_ENGINE),
    "cpu-and-gpu": (CPU, GPU),
    "cpu-and-ne": (CPU, NEURAL_ENGINE),
    "cpu-only": (CPU,),
    "torch-cpu": (CPU,),
}
COMPUTE_UNITS = tuple(PLACES)

_TIMM_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}")
_FINGERPRINT = re.compile(r"[0-9a-f]{16,64}")
LEAST_MS = 0.001
MOST_MS = 10_000.0
UNIT_RATIO = 500.0  # two figures for one thing so far apart are of different units
_LONGEST = 200
_NUMBERS = (int, float, np.integer, np.floating)


def shown(value: Any) -> str:
    """`repr`, on one line and not longer than one."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value)


def text(name: str, value: Any) -> str:
    """One printable line of at most 200 characters."""
    if not isinstance(value, str) or not value or len(value) > _LONGEST or not value.isprintable():
        raise MvigNasError(
            f"`{name}` must be 1 to {_LONGEST} printable characters, got {shown(value)}; write a plain name."
        )
    if value != value.strip():
        raise MvigNasError(f"`{name}` must not begin or end with a space, got {shown(value)}; remove it.")
    return value


def one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of a few names."""
    if not isinstance(value, str) or value not in known:
        hint = closest(value, known) if isinstance(value, str) else "known: " + ", ".join(known)
        raise MvigNasError(f"`{name}` must be one of {known}, got {shown(value)}; {hint}")
    return value


def number(name: str, value: Any, least: float, most: float, *, rule: str, advice: str) -> float:
    """A finite number from `least` to `most`, both included."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not least <= value <= most:
        raise MvigNasError(f"`{name}` must be {rule}, got {shown(value)}; {advice}")
    return float(value) + 0.0  # -0.0 and 0.0 are one value, and must be one text


def milliseconds(name: str, value: Any) -> float:
    """A latency that a network can have."""
    return number(
        name,
        value,
        LEAST_MS,
        MOST_MS,
        rule=f"a number of milliseconds from {LEAST_MS:g} to {MOST_MS:g}",
        advice="correct its unit, or measure again.",
    )


def units_differ(one_ms: float, other_ms: float) -> bool:
    """Whether two figures for one thing are so far apart that one of them is not in milliseconds."""
    return max(one_ms, other_ms) >= UNIT_RATIO * min(one_ms, other_ms)


@dataclass(frozen=True)
class TimmNetwork:
    """A timm model by name, at an input of `resolution` x `resolution` pixels.

    Raises:
        MvigNasError: the name or the resolution is impossible.
    """

    name: str
    resolution: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _TIMM_NAME.fullmatch(self.name):
            raise MvigNasError(
                f"`network` must be {TIMM}NAME with a timm model's name, got {shown(self.name)}; write for example "
                f"{TIMM}resnet18."
            )
        if not isinstance(self.resolution, int) or isinstance(self.resolution, bool) or not 1 <= self.resolution < 1e5:
            raise MvigNasError(
                f"`resolution` must be a whole number of pixels from 1, got {shown(self.resolution)}; write the side "
                "of the input image."
            )

    @property
    def label(self) -> str:
        """`timm:resnet18@224`."""
        return f"{TIMM}{self.name}@{self.resolution}"


@dataclass(frozen=True)
class Package:
    """A Core ML package of which nothing is known but its fingerprint: the one in its metadata, or a SHA-256.

    Raises:
        MvigNasError: the fingerprint is not 16 to 64 hexadecimal digits.
    """

    fingerprint: str

    def __post_init__(self) -> None:
        if not isinstance(self.fingerprint, str) or not _FINGERPRINT.fullmatch(self.fingerprint):
            raise MvigNasError(
                f"`fingerprint` must be 16 to 64 lower-case hexadecimal digits, got {shown(self.fingerprint)}; copy it "
                "from the package's metadata or the export's manifest."
            )


@dataclass(frozen=True)
class Device:
    """Phone, chip, operating system and compute units: what a predictor is for.

    Raises:
        MvigNasError: a text is empty or not printable, the name holds an `@`, or no such compute units exist.
    """

    name: str
    chip: str
    os: str
    os_version: str
    compute_units: str

    def __post_init__(self) -> None:
        text("device", self.name)
        if "@" in self.name:
            raise MvigNasError(
                f"`device` must not hold an '@', got {shown(self.name)}; write for example iphone-13-mini."
            )
        for name in ("chip", "os", "os_version"):
            text(name, getattr(self, name))
        one_of("compute_units", self.compute_units, COMPUTE_UNITS)

    @property
    def group(self) -> str:
        """Label of the latencies measured here, for `LatencyPredictor.fit`'s `groups`."""
        return f"{self.os} {self.os_version} {self.compute_units}@{self.name}"

    def differences(self, other: "Device") -> list[tuple[str, str, str]]:
        """Entry, own value and the other's where the two differ."""
        entries: list[tuple[str, Any, Any]] = [
            ("device" if each.name == "name" else each.name, getattr(self, each.name), getattr(other, each.name))
            for each in fields(self)
        ]
        return [entry for entry in entries if entry[1] != entry[2]]
