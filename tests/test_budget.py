"""Budgets, and how they are written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvig_nas.budget import Budget, parse_bytes, parse_count, parse_duration_ms
from mvig_nas.errors import MvigNasError


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("1.0ms", 1.0),
        ("900us", 0.9),
        ("0.001s", 1.0),
        (" 1 ms ", 1.0),
        ("1e3µs", 1.0),
        ("2min", 120_000.0),
        ("1h", 3.6e6),
    ],
)
def test_durations(text: str, expected_ms: float) -> None:
    assert parse_duration_ms(text) == pytest.approx(expected_ms)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.0", r"must have a unit \(us, ms, s, min or h\), got '1.0'; write 1.0ms"),
        ("-1ms", "must be above 0, got '-1ms'"),
        ("0ms", "must be above 0, got '0ms'"),
        ("abc", "must be a number and a unit, got 'abc'; write 1.0ms, 900us or 0.001s"),
        ("nan", "must be a number and a unit, got 'nan'"),
        ("nanms", "must be a number and a unit"),
        ("1e999ms", "must be above 0"),
        ("", "must be a number and a unit, got ''"),
        ("1.0m", "unit must be us, ms, s, min or h, got 'm'"),
        ("1.0 ms 2", "must be a number and a unit"),
    ],
)
def test_durations_refused(text: str, message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        parse_duration_ms(text)


@given(st.floats(1e-3, 1e6))
def test_a_written_duration_is_read_back(duration_ms: float) -> None:
    assert math.isclose(parse_duration_ms(f"{duration_ms!r}ms"), duration_ms)


@pytest.mark.parametrize(
    ("text", "expected"), [("5M", 5_000_000), ("700m", 700_000_000), ("1.2G", 1_200_000_000), ("5_300_000", 5_300_000)]
)
def test_counts(text: str, expected: int) -> None:
    assert parse_count(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5X", "unit must be K, M or G, got 'X'"),
        ("0", "must be above 0"),
        ("-5M", "must be above 0"),
        ("1.5", "must be a whole number, got '1.5'"),
        ("many", "must be a number and a unit, got 'many'; write 5M"),
    ],
)
def test_counts_refused(text: str, message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("10MB", 10_000_000), ("512KB", 512_000), ("10MiB", 10 * 2**20), ("900b", 900)]
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "must have a unit"),
        ("10ms", "unit must be one of B, KB, MB"),
        ("-1MB", "must be above 0"),
        ("0.5B", "must be a whole number"),
        ("big", "must be a number and a unit"),
    ],
)
def test_sizes_refused(text: str, message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        parse_bytes(text)


def test_limits_are_those_that_are_set() -> None:
    budget = Budget(latency_ms=1.0, macs=700_000_000, confidence=0.9)
    assert budget.limits == {"latency_ms": 1.0, "macs": 700_000_000}
    assert Budget.from_dict(budget.to_dict()) == budget


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latency_ms": 0.0}, "`latency_ms` must be above 0, got 0.0"),
        ({"latency_ms": math.nan}, "`latency_ms` must be above 0, got nan"),
        ({"macs": -1}, "`macs` must be above 0, got -1"),
        ({"latency_ms": 1.0, "confidence": 1.0}, r"`confidence` must be in \[0.5, 1\), got 1.0"),
        ({"latency_ms": 1.0, "confidence": 0.1}, r"`confidence` must be in \[0.5, 1\), got 0.1"),
        ({"macs": 1, "confidence": 0.9}, "`confidence` needs a latency budget"),
        ({"latency": 1.0}, "a budget has no entry 'latency'; did you mean 'latency_ms'"),
    ],
)
def test_budgets_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        Budget.from_dict(values)
