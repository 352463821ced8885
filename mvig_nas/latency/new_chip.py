"""A chip of which few rows are published: a pooled fit of older chips, moved by what those rows and a prior say.

    t = sum over features of cost x amount, each cost times a factor of its sort, x laboratory x scatter

The logarithms of the factors (fixed cost, dispatch, arithmetic, memory, weights) are jointly Gaussian: from one
generation to the next all costs fall together by `_STEP`, give or take `_SPREAD`, and each sort on its own by
`_SORT_SPREAD`. Laboratories differ by a constant factor. The rows move these expectations, and what they leave open
widens the interval. A wild row loses its weight. The older chips' process beyond the costs is left aside, because
without it A15 is predicted better from A14. The spreads were set by hand while A15 was looked at, not fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency.device_model import COST_SORTS, beyond_costs, start_of, starting_covariance
from mvig_nas.latency.features import FloatArray, with_fixed
from mvig_nas.latency.pooled import TERMS, PooledModel
from mvig_nas.latency.rows import Rows, chip_of
from mvig_nas.values import about, check

_SORTS = tuple(sorted(set(COST_SORTS)))
_OF_SORT = np.array([[float(own == sort) for own in COST_SORTS] for sort in _SORTS])  # (sorts, 1 + F)
_STEP, _SPREAD, _SORT_SPREAD = -0.1, 0.15, 0.2  # in log, of one generation
_LABORATORY = 0.2  # as far, in log, as laboratories differ on one A15
_FREEDOM = 4  # of Student's t, by which a wild row loses its weight
_TURNS = 5
_SCATTER = 1.5  # networks of one laboratory scatter on a chip that was not fitted, in deviations of one that was


@dataclass(frozen=True)
class ChipMove:
    """How far a chip's costs lie from those of the chip that was fitted."""

    base: Annotated[str, about("The device whose fit is moved.")]
    rows: Annotated[int, about("Published rows that the move rests on.", ge=0)]
    generations: Annotated[int, about("Generations of chips between the two.", ge=1)]
    groups: Annotated[tuple[str, ...], about("Who measured the rows on what, laboratory@device.")]
    mean: Annotated[tuple[float, ...], about("Log factors of the sorts of cost, then of the laboratories.")]
    covariance: Annotated[tuple[tuple[float, ...], ...], about("What the rows leave open about these.")]

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class NewChipModel:
    """Predicts log t on a chip by a pooled fit of others, moved."""

    pooled: PooledModel
    device: str
    move: ChipMove
    start: None = None

    @property
    def chips(self) -> tuple[str, ...]:
        """The chips that the pooled fit rests on."""
        return self.pooled.chips

    @property
    def groups(self) -> tuple[str, ...]:
        """The (laboratory, device) labels of the rows that moved the fit."""
        return self.move.groups

    @property
    def costs_ms(self) -> FloatArray:
        """Milliseconds of the fixed cost and of a unit of each feature, shape (1 + F,)."""
        costs: FloatArray = self.pooled.costs_ms * np.exp(np.array(self.move.mean)[: len(_SORTS)] @ _OF_SORT)
        return costs

    @property
    def summary(self) -> dict[str, Any]:
        """Whose fit was moved, by how many rows, and the factors of the sorts of cost."""
        factors = np.exp(self.move.mean[: len(_SORTS)]).round(3).tolist()
        return {
            "moved_from": self.move.base,
            "rows": self.move.rows,
            "factors": dict(zip(_SORTS, factors, strict=True)),
        }

    def kernel_features(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Features of each kernel, shape (len(kernels), F)."""
        return self.pooled.kernel_features(kernels)

    def mean(self, features: FloatArray, group: str | None = None, /) -> FloatArray:
        """Expected log t, shape (n,)."""
        expected: FloatArray = np.log(with_fixed(features) @ self.costs_ms)
        if group in self.groups:
            expected = expected + self.move.mean[len(_SORTS) + self.groups.index(group)]
        return expected

    def laboratory_mean(self, rows: Rows) -> FloatArray:
        """Expected log t of n rows, each as its own laboratory would measure it, shape (n,)."""
        return np.array([
            self.mean(row[None], group)[0] for row, group in zip(rows.features, rows.groups, strict=True)
        ])  # fmt: skip

    def deviation(self, features: FloatArray, group: str | None = None, /) -> FloatArray:
        """Standard deviation of a measurement's log t, shape (n,)."""
        design = _design(self.pooled, features, [group] * len(features), self.groups)
        own = np.sum((design @ np.array(self.move.covariance)) * design, axis=1)
        laboratory = 0.0 if group in self.groups else _LABORATORY**2
        deviation: FloatArray = np.sqrt(own + laboratory + _scatter(self.pooled, features) ** 2)
        return deviation

    def covariance(self, features: FloatArray) -> FloatArray:
        """Covariance of log t, shape (n, n), before a fit to one device that starts from this sees its first row."""
        costs_ms = self.costs_ms
        beyond = beyond_costs(costs_ms, np.exp(self.mean(features)), features)
        return starting_covariance(start_of(costs_ms), features, beyond)

    def reasons(self, network: Sequence[Kernel], features: FloatArray) -> dict[str, str]:
        """Why a network, of summed features (1, F), is unlike all that were measured on the older chips."""
        return self.pooled.reasons(network, features)

    def for_device(self, device: str) -> "NewChipModel":
        """The same move for another phone of the chip."""
        if chip_of(device) != chip_of(self.device):
            raise MvigNasError(
                f"a predictor moved to {chip_of(self.device)} must predict for a phone with that chip, got {device!r}; "
                "load another predictor."
            )
        return replace(self, device=device)

    def to_parts(self) -> tuple[dict[str, Any], dict[str, FloatArray]]:
        """Values for JSON, and arrays."""
        values, arrays = self.pooled.to_parts()
        return {**values, "chip_move": vars(self.move)}, arrays


def move_to_chip(pooled: PooledModel, device: str, rows: Rows, generations: int) -> NewChipModel:
    """The fit moved to the chip of `device` by n rows of it, n from 0; `LatencyPredictor.moved` explains."""
    sorts, groups = len(_SORTS), tuple(sorted(set(rows.groups)))
    mean = np.concatenate([np.full(sorts, generations * _STEP), np.zeros(len(groups))])
    prior = np.diag(np.full(sorts + len(groups), _LABORATORY**2))
    prior[:sorts, :sorts] = generations * (_SPREAD**2 + _SORT_SPREAD**2 * np.eye(sorts))
    begin = ChipMove(pooled.device, len(rows.networks), generations, groups, (), ())
    model = NewChipModel(pooled, device, replace(begin, mean=tuple(mean.tolist()), covariance=_nested(prior)))
    design, scatter = _design(pooled, rows.features, rows.groups, groups), _scatter(pooled, rows.features)
    target = rows.log_ms - np.log(with_fixed(rows.features) @ pooled.costs_ms)
    weights = rows.weights
    for _ in range(_TURNS if rows.networks else 0):
        whole = design @ prior @ design.T + np.diag(scatter**2 / weights)
        gain = np.linalg.solve(whole, design @ prior).T
        found, left = mean + gain @ (target - design @ mean), prior - gain @ design @ prior
        model = replace(model, move=replace(begin, mean=tuple(found.tolist()), covariance=_nested(left)))
        errors = (rows.log_ms - model.laboratory_mean(rows)) / scatter
        weights = rows.weights * np.minimum(1.0, (_FREEDOM + 1) / (_FREEDOM + errors**2))
    return model


def _nested(matrix: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in ((matrix + matrix.T) / 2).tolist())


def _design(
    pooled: PooledModel, features: FloatArray, groups: Sequence[str | None], known: Sequence[str]
) -> FloatArray:
    """How log t follows the log factors: shares of the sorts of cost, then the row's laboratory."""
    parts = with_fixed(features) * pooled.costs_ms
    shares = parts @ _OF_SORT.T / parts.sum(axis=1)[:, None]
    laboratory = np.array([[float(group == name) for name in known] for group in groups])
    return np.concatenate([shares, laboratory.reshape(len(features), len(known))], axis=1)


def _scatter(pooled: PooledModel, features: FloatArray) -> FloatArray:
    """Deviation of log t between networks of one laboratory, shape (n,)."""
    terms = dict(zip(TERMS, np.exp(2 * pooled.residual.log_terms), strict=True))
    whole = pooled.deviation(features) ** 2 - terms["laboratory"]
    scatter: FloatArray = _SCATTER * np.sqrt(np.maximum(whole, terms["noise"]))
    return scatter
