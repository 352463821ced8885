"""Intervals of few numbers: of a mean over seeds, of a median over rounds, and of paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import binom, t

COVERAGE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; the ends are None where there are too few observations for one."""

    value: float
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit."""
        ends = (None if end is None else factor * end for end in (self.low, self.high))
        return Estimate(factor * self.value, *ends)

    def shown(self, digits: int, sign: bool = False) -> str:
        """As people read it: `1.23 (1.10 to 1.36)`."""
        value = f"{self.value:{'+' if sign else ''}.{digits}f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    def to_dict(self) -> dict[str, float | None]:
        """Plain values, ready for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def mean_estimate(observed: Sequence[float]) -> Estimate:
    """Mean of a few observations, such as the top-1 of several seeds, with Student's interval."""
    values = np.asarray(observed, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean)
    reach = float(t.ppf((1 + COVERAGE) / 2, len(values) - 1) * values.std(ddof=1) / sqrt(len(values)))
    return Estimate(mean, mean - reach, mean + reach)


def median_estimate(observed: Sequence[float]) -> Estimate:
    """Median of many observations, such as rounds of a measurement, with the interval between two of them.

    The interval is that of the order statistics, which assumes nothing but that the observations are independent.
    """
    values = np.sort(np.asarray(observed, dtype=float))
    rank = int(binom.ppf((1 - COVERAGE) / 2, len(values), 0.5))
    if rank < 1:
        return Estimate(float(np.median(values)))
    return Estimate(float(np.median(values)), float(values[rank - 1]), float(values[len(values) - rank]))
