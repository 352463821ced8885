"""From samples to one figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvig_nas.device_log.subject import milliseconds, one_of, units_differ
from mvig_nas.errors import MvigNasError

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
    return tuple(milliseconds(f"samples_ms[{place}]", sample) for place, sample in enumerate(samples_ms))
