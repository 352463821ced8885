"""Checks that the values of a row share; each raises `MvigNasError` with one line."""

import reprlib
from typing import Any

import numpy as np

from mvig_nas.errors import MvigNasError, closest

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
