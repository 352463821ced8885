"""One device's model of log t: costs per feature around those of a start, and a Gaussian process on what they leave.

    log t = log(sum over features of cost x amount) + gain x start(x) + departures(x) + smooth(x) + noise

The log costs are jointly Gaussian around the start's: all move together (scale), those of one sort together (dispatch,
arithmetic, memory, weights, the fixed cost), each a little on its own. `start(x)` is what the start predictor knows
beyond its own costs, its gain Gaussian around 1. Kernels of one signature depart from their price by one relative
amount, Gaussian around 0, wherever they come: what a look-up table would learn. The smooth process sees a network as
the logarithm of its milliseconds and the square roots of their shares, whose distance is Hellinger's. How far each of
these may move is chosen by marginal likelihood with weak priors: few rows leave all but the scale where the start has
it, more free the costs and departures, then the smooth rest. The sum is linearised around its most probable costs
(Gauss-Newton), so everything is one Gaussian process.

Wild rows lose their weight: it follows from their error when left out, which a process that passes through every row
cannot hide. Legend: n rows, p log costs and the gain, F features, S signatures. A network's features are followed by
how often each signature comes, (n, F + S); where they are left away, nothing departs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from mvig_nas.latency.features import FEATURES, FIXED_MS, PRIOR_MS, FloatArray, size_and_shares, with_fixed
from mvig_nas.map_fit import map_fit

TERMS = ("sort", "cost", "departure", "smooth", "length_size", "length_shares", "noise")
# Medians and spreads (of logarithms) of the terms' priors, from a template and from a fitted predictor.
_SCRATCH = (np.log([0.7, 0.7, 0.1, 0.03, 1.0, 0.3, 0.02]), np.array([0.7, 0.7, 0.7, 0.4, 0.6, 0.5, 0.5]))
_TRANSFER = (np.log([0.4, 0.25, 0.1, 0.03, 1.0, 0.3, 0.02]), np.array([0.7, 0.8, 0.7, 0.4, 0.6, 0.5, 0.5]))
NEURAL_ENGINE = "neural-engine"  # name of the start with its costs
_SCALE_SPREAD = 2.0  # of all costs together: from a phone's Neural Engine to a slow core
_GAIN_SPREAD = 0.5
_LIFT = 0.3
_FREEDOM = 4.0
_LEAST_WEIGHT = 1e-4
_JITTER = 1e-8
_MOST_STEPS = 12
_FIRST_TURNS, _LAST_TURNS = 4, 3
_MOST_ROWS = 300  # for choosing the terms; more rows are all used once these are chosen


def _sort(name: str) -> str:
    if name in ("fixed", "mb_weights"):
        return name
    return "arithmetic" if name.startswith(("gmacs", "ms_")) else name.partition("_")[0]


COST_SORTS = tuple(_sort(name) for name in ("fixed", *FEATURES))
_SAME_SORT = np.array([[float(one == other) for other in COST_SORTS] for one in COST_SORTS])


@dataclass(frozen=True)
class Start:
    """Where a fit starts: costs in milliseconds (1 + F), from measurements or as a template that is held loosely."""

    name: str
    costs_ms: FloatArray
    measured: bool


def templates() -> list[Start]:
    """What is known of any device: the Neural Engine's costs (the prior of `features.py`), and those of a core."""
    neural_engine = np.array([FIXED_MS, *(PRIOR_MS[name] for name in FEATURES)])
    # Some 40 GMAC/s, 10 GB/s and 10 us an operation, against the Neural Engine's.
    core = {"fixed": 0.1, "count": 3.0, "arithmetic": 100.0, "mb": 8.0, "mb_weights": 8.0}
    return [
        Start(NEURAL_ENGINE, neural_engine, measured=False),
        Start("core", neural_engine * [core[sort] for sort in COST_SORTS], measured=False),
    ]


def start_of(costs_ms: FloatArray) -> Start:
    """The costs of a fitted predictor, lifted a little towards the prior where its rows left them near nothing."""
    return Start("start", costs_ms + _LIFT * templates()[0].costs_ms, measured=True)


def beyond_costs(costs_ms: FloatArray, predicted_ms: FloatArray, features: FloatArray) -> FloatArray:
    """Log of a start's predicted milliseconds (n,) over the sum of its costs (1 + F), shape (n,)."""
    lifted = start_of(costs_ms).costs_ms
    beyond: FloatArray = np.log(predicted_ms) - np.log(features @ lifted[1:] + lifted[0])
    return beyond


@dataclass(frozen=True)
class Measured:
    """What a fit learns from."""

    features: FloatArray  # (n, F + S)
    log_ms: FloatArray  # (n,)
    signatures: FloatArray  # (S, F), features of one kernel of each

    def where(self, mask: NDArray[np.bool_]) -> "Measured":
        """The rows for which `mask`, shape (n,), is true."""
        return Measured(self.features[mask], self.log_ms[mask], self.signatures)


@dataclass(frozen=True)
class DeviceModel:
    """The fitted process: everything needed to predict, in arrays. Networks are rows of features, and of `start(x)`."""

    start: str
    costs_ms: FloatArray  # (1 + F), fitted
    gain: float
    share_costs_ms: FloatArray  # (1 + F), by which the process sees a network's shares
    log_terms: FloatArray  # (len(TERMS),)
    inputs: FloatArray  # (n, 1 + shares)
    shares: FloatArray  # (n, S), of each signature in the row's milliseconds
    signature_costs_ms: FloatArray  # (S,), of one kernel of each signature, by which shares are seen
    slopes: FloatArray  # (n, p), of log t by log cost and gain
    residuals: FloatArray  # (n,), of log t beyond costs and gain
    shifts: FloatArray  # (n,), what the move from the start adds, in log t
    weights: FloatArray  # (n,)

    left_out_errors: FloatArray = field(init=False)  # (n,), of log t, each row left out
    left_out_deviations: FloatArray = field(init=False)
    _inverse: FloatArray = field(init=False)
    _rest_factor: tuple[FloatArray, bool] = field(init=False)

    def __post_init__(self) -> None:
        rest = _smooth(self.inputs, self.inputs, self.log_terms) + _departures(self.shares, self.shares, self.log_terms)
        noise = np.exp(2 * self.log_terms[-1])
        rest += np.diag(noise / self.weights + _JITTER)
        whole = rest + self.slopes @ _prior(self.log_terms) @ self.slopes.T
        inverse = cho_solve(cho_factor(whole, lower=True), np.eye(len(whole)))
        derived = {
            "left_out_errors": inverse @ (self.residuals + self.shifts) / np.diag(inverse),
            # of a row like any other: a wild one must not excuse itself by the weight it lost
            "left_out_deviations": np.sqrt(np.maximum(1 / np.diag(inverse) - noise / self.weights, 0.0) + noise),
            "_inverse": inverse,
            "_rest_factor": cho_factor(rest, lower=True),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def mean(self, features: FloatArray, beyond: FloatArray) -> FloatArray:
        """Expected log t, shape (n,); `beyond` is what the start predictor knows beyond its costs."""
        amounts = _amounts(features)
        rest = (self._near(amounts) + self._alike(features)) @ cho_solve(self._rest_factor, self.residuals)
        expected: FloatArray = np.log(amounts @ self.costs_ms) + self.gain * beyond + rest
        return expected

    def deviation(self, features: FloatArray, beyond: FloatArray) -> FloatArray:
        """Standard deviation of a measurement's log t, shape (n,)."""
        amounts = _amounts(features)
        slopes = _slopes(amounts, self.costs_ms, beyond if self.gain else 0 * beyond)
        prior = _prior(self.log_terms)
        shared = self._near(amounts) + self._alike(features) + slopes @ prior @ self.slopes.T
        departures = np.exp(2 * self.log_terms[TERMS.index("departure")]) * np.sum(self._shares(features) ** 2, axis=1)
        own = self._smooth_variance + departures + np.sum((slopes @ prior) * slopes, axis=1)
        explained = np.sum((shared @ self._inverse) * shared, axis=1)
        deviation: FloatArray = np.sqrt(np.maximum(own - explained, 1e-8) + np.exp(2 * self.log_terms[-1]))
        return deviation

    def covariance(self, features: FloatArray, beyond: FloatArray) -> FloatArray:
        """What the rows leave open about log t, shape (n, n), without a measurement's noise."""
        amounts = _amounts(features)
        slopes = _slopes(amounts, self.costs_ms, beyond if self.gain else 0 * beyond)
        prior = _prior(self.log_terms)
        inputs, shares = _inputs(amounts, self.share_costs_ms), self._shares(features)
        shared = _smooth(inputs, self.inputs, self.log_terms) + self._alike(features) + slopes @ prior @ self.slopes.T
        own = _smooth(inputs, inputs, self.log_terms) + _departures(shares, shares, self.log_terms)
        own += slopes @ prior @ slopes.T
        left: FloatArray = own - shared @ self._inverse @ shared.T
        return left

    def novelty(self, features: FloatArray) -> FloatArray:
        """Share of the smooth rest's variance that the rows say nothing about, shape (n,), in [0, 1]."""
        near = self._near(_amounts(features))
        explained = np.sum(near * cho_solve(self._rest_factor, near.T).T, axis=1)
        share: FloatArray = np.clip(1 - explained / self._smooth_variance, 0.0, 1.0)
        return share

    def network_inputs(self, features: FloatArray) -> FloatArray:
        """Log of the milliseconds by cost, then the square roots of the shares of it. Shape (n, 1 + shares)."""
        return _inputs(_amounts(features), self.share_costs_ms)

    @property
    def _smooth_variance(self) -> float:
        return float(np.exp(2 * self.log_terms[TERMS.index("smooth")]))

    def _near(self, amounts: FloatArray) -> FloatArray:
        return _smooth(_inputs(amounts, self.share_costs_ms), self.inputs, self.log_terms)

    def _alike(self, features: FloatArray) -> FloatArray:
        return _departures(self._shares(features), self.shares, self.log_terms)

    def _shares(self, features: FloatArray) -> FloatArray:
        return _signature_shares(features, self.share_costs_ms, self.signature_costs_ms)


def starting_covariance(start: Start, features: FloatArray, beyond: FloatArray) -> FloatArray:
    """Covariance of log t between networks, shape (n, n), for a device of which nothing is measured yet."""
    amounts = with_fixed(features)
    terms = (_TRANSFER if start.measured else _SCRATCH)[0]
    slopes = _slopes(amounts, start.costs_ms, beyond if start.measured else 0 * beyond)
    inputs = _inputs(amounts, start.costs_ms)
    covariance: FloatArray = slopes @ _prior(terms) @ slopes.T + _smooth(inputs, inputs, terms)
    return covariance


def fit_device_model(measured: Measured, starts: Sequence[tuple[Start, FloatArray]], *, seed: int) -> DeviceModel:
    """Fit n rows from the start under which rows left out are most probable.

    Every start comes with what it knows of the rows beyond its costs, in log t (n,).
    """
    fits = [_Fit(measured, start, beyond if start.measured else 0 * beyond, seed) for start, beyond in starts]
    for fit in fits:
        for _ in range(_FIRST_TURNS):  # wild rows lose their weight before they can pass for structure
            fit.turn(choose_terms=False)
        fit.turn()
        fit.turn()
    best = max(fits, key=lambda fit: fit.left_out_density)
    for _ in range(_LAST_TURNS):
        best.turn()
    return best.model


class _Fit:
    """One start's fit, better with every turn."""

    def __init__(self, measured: Measured, start: Start, beyond: FloatArray, seed: int) -> None:
        amounts, log_ms = _amounts(measured.features), measured.log_ms
        self._measured, self._amounts, self._log_ms = measured, amounts, log_ms
        self._start, self._beyond = start, beyond
        self._centre = np.append(np.log(start.costs_ms), 1.0)
        self._point = self._centre.copy()
        self._point[:-1] += np.median(log_ms - np.log(amounts @ start.costs_ms) - beyond)
        self._see_shares()
        self._weights = np.ones(len(log_ms))
        self._log_terms = (_TRANSFER if start.measured else _SCRATCH)[0].copy()
        self._turns = 0
        self._chosen = np.arange(len(log_ms))
        if len(log_ms) > _MOST_ROWS:
            generator = np.random.default_rng(seed)
            self._chosen = np.sort(generator.choice(len(log_ms), _MOST_ROWS, replace=False))

    def turn(self, choose_terms: bool = True) -> None:
        """Costs, shares, terms, costs again, then the weights of the rows."""
        self._turns += 1
        self._move()
        if self._turns <= 2:  # then they stay, so that the rest can settle
            self._see_shares()
        if choose_terms:
            slopes, residuals = _linear(self._amounts, self._beyond, self._log_ms, self._point)
            target = residuals + slopes @ (self._point - self._centre)
            rows = self._chosen
            self._log_terms = _choose_terms(
                (_inputs(self._amounts, self._share_costs_ms)[rows], self._shares[rows]), slopes[rows], target[rows],
                self._weights[rows], measured=self._start.measured, start=self._log_terms,
            )  # fmt: skip
            self._move()
        self.model = self._modelled()
        self._weights = _robust_weights(self.model.left_out_errors / robust_deviations(self.model))

    @property
    def left_out_density(self) -> float:
        """Log density of the rows, each left out, by Student's t."""
        errors = self.model.left_out_errors / self.model.left_out_deviations
        return float(
            -np.sum(0.5 * (_FREEDOM + 1) * np.log1p(errors**2 / _FREEDOM) + np.log(self.model.left_out_deviations))
        )

    def _see_shares(self) -> None:
        self._share_costs_ms = np.exp(self._point[:-1])
        self._signature_costs_ms = self._measured.signatures @ self._share_costs_ms[1:]
        self._shares = _signature_shares(self._measured.features, self._share_costs_ms, self._signature_costs_ms)

    def _move(self) -> None:
        """Log costs and gain of highest density, the smooth rest integrated out."""
        inputs = _inputs(self._amounts, self._share_costs_ms)
        rest = _smooth(inputs, inputs, self._log_terms) + _departures(self._shares, self._shares, self._log_terms)
        rest += np.diag(np.exp(2 * self._log_terms[-1]) / self._weights + _JITTER)
        prior = _prior(self._log_terms)
        for _ in range(_MOST_STEPS):
            slopes, residuals = _linear(self._amounts, self._beyond, self._log_ms, self._point)
            target = residuals + slopes @ (self._point - self._centre)
            whole = slopes @ prior @ slopes.T + rest
            step = self._centre + prior @ slopes.T @ cho_solve(cho_factor(whole, lower=True), target) - self._point
            largest = float(np.abs(step).max())
            self._point = self._point + step / max(largest, 1.0)  # the sum is nearly linear no further than that
            if largest < 1e-4:
                break

    def _modelled(self) -> DeviceModel:
        slopes, residuals = _linear(self._amounts, self._beyond, self._log_ms, self._point)
        return DeviceModel(
            start=self._start.name,
            costs_ms=np.exp(self._point[:-1]),
            gain=float(self._point[-1]) if self._start.measured else 0.0,
            share_costs_ms=self._share_costs_ms,
            log_terms=self._log_terms,
            inputs=_inputs(self._amounts, self._share_costs_ms),
            shares=self._shares,
            signature_costs_ms=self._signature_costs_ms,
            slopes=slopes,
            residuals=residuals,
            shifts=slopes @ (self._point - self._centre),
            weights=self._weights,
        )


def robust_deviations(model: DeviceModel) -> FloatArray:
    """Predicted deviations of rows left out, scaled to what the errors show where rows suffice to tell. Shape (n,)."""
    errors = model.left_out_errors / model.left_out_deviations
    if len(errors) < 8:
        return model.left_out_deviations
    spread = max(1.4826 * float(np.median(np.abs(errors))), 0.3)
    return spread * model.left_out_deviations


def _robust_weights(errors: FloatArray) -> FloatArray:
    """Near 1 up to two deviations, falling with the fourth power beyond three: a wild row ends with none."""
    weights: FloatArray = np.maximum(1 / (1 + (errors / 3) ** 4), _LEAST_WEIGHT)
    return weights


def _amounts(features: FloatArray) -> FloatArray:
    return with_fixed(features[:, : len(FEATURES)])


def _signature_shares(features: FloatArray, costs_ms: FloatArray, signature_costs_ms: FloatArray) -> FloatArray:
    """Share of each signature in the milliseconds of networks (n, F + S), none where only features are given."""
    counts = features[:, len(FEATURES) :]
    if counts.shape[1] == 0:
        return np.zeros((len(features), len(signature_costs_ms)))
    shares: FloatArray = counts * signature_costs_ms / (_amounts(features) @ costs_ms)[:, None]
    return shares


def _departures(left: FloatArray, right: FloatArray, log_terms: FloatArray) -> FloatArray:
    departures: FloatArray = np.exp(2 * log_terms[TERMS.index("departure")]) * (left @ right.T)
    return departures


def _inputs(amounts: FloatArray, costs_ms: FloatArray) -> FloatArray:
    return size_and_shares(amounts * costs_ms)


def _slopes(amounts: FloatArray, costs_ms: FloatArray, beyond: FloatArray) -> FloatArray:
    parts = amounts * costs_ms
    return np.concatenate([parts / parts.sum(axis=1)[:, None], beyond[:, None]], axis=1)


def _linear(
    amounts: FloatArray, beyond: FloatArray, log_ms: FloatArray, point: FloatArray
) -> tuple[FloatArray, FloatArray]:
    costs_ms = np.exp(point[:-1])
    return _slopes(amounts, costs_ms, beyond), log_ms - np.log(amounts @ costs_ms) - point[-1] * beyond


def _prior(log_terms: FloatArray) -> FloatArray:
    sort, cost = np.exp(2 * log_terms[:2])
    size = len(COST_SORTS)
    prior = np.zeros((size + 1, size + 1))
    prior[:-1, :-1] = _SCALE_SPREAD**2 + sort * _SAME_SORT + cost * np.eye(size)
    prior[-1, -1] = _GAIN_SPREAD**2
    return prior


def _distances(left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Squared distances of size and of shares, for every pair."""
    size = (left[:, :1] - right[:, :1].T) ** 2
    a, b = left[:, 1:], right[:, 1:]
    shares = np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T, 0.0)
    return size, shares


def _smooth(left: FloatArray, right: FloatArray, log_terms: FloatArray) -> FloatArray:
    terms = dict(zip(TERMS, np.exp(2 * log_terms), strict=True))
    size, shares = _distances(left, right)
    smooth: FloatArray = terms["smooth"] * np.exp(
        -0.5 * (size / terms["length_size"] + shares / terms["length_shares"])
    )
    return smooth


def _choose_terms(
    seen: tuple[FloatArray, FloatArray],
    slopes: FloatArray,
    target: FloatArray,
    weights: FloatArray,
    *,
    measured: bool,
    start: FloatArray,
) -> FloatArray:
    """Terms of highest marginal likelihood times prior, by L-BFGS on their logarithms.

    `seen` are the inputs of the process and the shares of the signatures.
    """
    inputs, alike = seen
    middle, spread = _TRANSFER if measured else _SCRATCH
    size, shares = _distances(inputs, inputs)
    costs = slopes[:, :-1]
    by_cost, by_sort, by_departure = costs @ costs.T, costs @ _SAME_SORT @ costs.T, alike @ alike.T
    fixed = _SCALE_SPREAD**2 + _GAIN_SPREAD**2 * np.outer(slopes[:, -1], slopes[:, -1]) + _JITTER * np.eye(len(target))
    identity = np.eye(len(target))

    def objective(log_terms: FloatArray) -> tuple[float, FloatArray]:
        sort, cost, departure, smooth, length_size, length_shares, noise = np.exp(2 * log_terms)
        near = smooth * np.exp(-0.5 * (size / length_size + shares / length_shares))
        noises = noise / weights
        departures = departure * by_departure
        factor = cho_factor(fixed + sort * by_sort + cost * by_cost + departures + near + np.diag(noises), lower=True)
        inverse = cho_solve(factor, identity)
        dual = inverse @ target
        outer = inverse - np.outer(dual, dual)
        by_near = outer * near
        value = 0.5 * target @ dual + np.log(np.diag(factor[0])).sum()
        gradient = np.array([
            sort * np.vdot(outer, by_sort),
            cost * np.vdot(outer, by_cost),
            np.vdot(outer, departures),
            by_near.sum(),
            0.5 * np.vdot(by_near, size) / length_size,
            0.5 * np.vdot(by_near, shares) / length_shares,
            np.diag(outer) @ noises,
        ])  # fmt: skip
        return float(value), gradient

    return map_fit(objective, middle, spread, start=start, reach=4, steps=30)
