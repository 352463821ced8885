"""Milliseconds as a fixed cost plus a sum of non-negative costs per feature, one set of costs per chip.

log t = log(fixed + sum over features of cost x amount) + offset(group) + noise. The costs of all chips share a
log-normal prior around `PRIOR_MS`; a chip departs from the shared cost a little, and a (laboratory, device) group by a
constant factor. Huber's loss on log t keeps one odd measurement from bending the costs. The fit is repeated with the
families weighted at random (Bayesian bootstrap, Rubin 1981, doi:10.1214/aos/1176345338) and the costs averaged: one
family decides less, and strangers are predicted better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from mvig_nas.latency.features import FEATURES, FIXED_MS, PRIOR_MS, FloatArray
from mvig_nas.latency.labels import Labels

_BAG_SEED = 0


@dataclass(frozen=True)
class Physics:
    """Costs in milliseconds a unit, shape (chips, 1 + features), the fixed cost first."""

    chips: tuple[str, ...]
    costs_ms: FloatArray

    def parts_ms(self, features: FloatArray, chips: Sequence[str]) -> FloatArray:
        """Milliseconds of each network by feature, the fixed cost first. Shape (n, 1 + features)."""
        rows = np.array([self.chips.index(chip) for chip in chips], dtype=np.int64)
        parts: FloatArray = _with_fixed(features) * self.costs_ms[rows]
        return parts


def _with_fixed(features: FloatArray) -> FloatArray:
    return np.concatenate([np.ones((len(features), 1)), features], axis=1)


def fit_bagged_physics(
    features: FloatArray, log_ms: FloatArray, weights: FloatArray, labels: Labels, *, bags: int, **spreads: float
) -> Physics:
    """Geometric mean of the costs of `bags` fits, each with families weighted by draws of a unit exponential."""
    families, family_of = np.unique(np.array(labels.families), return_inverse=True)
    generator = np.random.default_rng(_BAG_SEED)
    fits = [
        fit_physics(
            features,
            log_ms,
            weights * generator.exponential(size=len(families))[family_of],
            labels.groups,
            labels.chips,
            **spreads,
        )
        for _ in range(bags)
    ]
    return Physics(fits[0].chips, np.exp(np.mean([np.log(fit.costs_ms) for fit in fits], axis=0)))


def fit_physics(
    features: FloatArray,
    log_ms: FloatArray,
    weights: FloatArray,
    groups: Sequence[str],
    chips: Sequence[str],
    *,
    cost_spread: float,
    chip_spread: float,
    group_spread: float,
    noise: float,
    huber: float,
) -> Physics:
    """Maximum a posteriori costs. Spreads and noise are standard deviations of natural logarithms."""
    names = tuple(sorted(set(chips)))
    labels = sorted(set(groups))
    chip_of = np.array([names.index(chip) for chip in chips])
    group_of = np.array([labels.index(group) for group in groups])
    amounts = _with_fixed(features)
    size = amounts.shape[1]
    centre = np.log([FIXED_MS, *(PRIOR_MS[name] for name in FEATURES)])
    spread = np.full(size, cost_spread)
    spread[0] = 0.3

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        shared, by_chip, offsets = _unpack(x, size, len(names))
        parts = amounts * np.exp(shared + by_chip)[chip_of]
        total = parts.sum(axis=1)
        error = (np.log(total) + offsets[group_of] - log_ms) / noise
        size_of_error = np.abs(error)
        loss = np.where(size_of_error < huber, 0.5 * error**2, huber * (size_of_error - 0.5 * huber))
        slope = np.clip(error, -huber, huber) * weights / noise
        by_cost = parts / total[:, None] * slope[:, None]
        gradient = np.concatenate(
            [
                by_cost.sum(axis=0) + (shared - centre) / spread**2,
                *(by_cost[chip_of == chip].sum(axis=0) + by_chip[chip] / chip_spread**2 for chip in range(len(names))),
                np.bincount(group_of, slope, len(labels)) + offsets / group_spread**2,
            ]
        )
        prior = (
            np.sum(((shared - centre) / spread) ** 2)
            + np.sum((by_chip / chip_spread) ** 2)
            + np.sum((offsets / group_spread) ** 2)
        )
        return float(weights @ loss + 0.5 * prior), gradient

    start = np.concatenate([centre, np.zeros(len(names) * size + len(labels))])
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    shared, by_chip, _ = _unpack(solution.x, size, len(names))
    return Physics(names, np.exp(shared + by_chip))


def _unpack(x: FloatArray, size: int, chips: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    by_chip = x[size : (1 + chips) * size].reshape(chips, size)
    return x[:size], by_chip, x[(1 + chips) * size :]
