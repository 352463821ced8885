"""Latencies of several laboratories and phones pooled: physics shared by chips, and a process on what it leaves.

**Physics.** log t = log(fixed + sum over features of cost x amount) + offset(group) + noise. The costs of all chips
share a log-normal prior around `PRIOR_MS`; a chip departs from the shared cost a little, and a (laboratory, device)
group by a constant factor. Huber's loss on log t keeps one odd measurement from bending the costs. The fit is repeated
with the families weighted at random (Bayesian bootstrap, Rubin 1981, doi:10.1214/aos/1176345338) and the costs are
averaged: one family decides less, and strangers are predicted better.

**Residual.** A Gaussian process with the nuisances of published measurements: residual = smooth(network) +
smooth(network, chip) + device + laboratory + family + network + noise, all Gaussian, their sizes chosen by marginal
likelihood with a weak prior. The family term is what makes the rest honest: what all networks of one family share, and
no other network shows, is put down to the family, not passed on as knowledge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency.device_model import beyond_costs, start_of, starting_covariance
from mvig_nas.latency.features import (
    FEATURES,
    FIXED_MS,
    PRIOR_MS,
    UNMEASURED,
    FloatArray,
    Support,
    attention_beyond,
    kernel_features,
    kind_shares,
    reasons,
    size_and_shares,
    unpriced,
    with_fixed,
)
from mvig_nas.latency.rows import LABELS, Rows, chip_of, device_of
from mvig_nas.map_fit import map_fit
from mvig_nas.values import about, check

TERMS = ("smooth", "length", "smooth_chip", "device", "laboratory", "family", "network", "noise")
_TERMS_CENTRE = np.log([0.15, 1.0, 0.05, 0.08, 0.08, 0.1, 0.05, 0.08])
_TERMS_SPREAD = 0.7
_JITTER = 1e-8
_LIFTS = (1e-10, 1e-8, 1e-6)  # shares of the diagonal
_BAG_SEED = 0
_ARRAYS = ("inputs", "centre", "scale", "residuals", "weights", "log_terms")


@dataclass(frozen=True)
class PooledSettings:
    """How a pooled fit is made; `LatencyPredictor` explains each."""

    cost_spread: Annotated[float, about("How far, in log, a cost may lie from its prior.", gt=0)]
    chip_spread: Annotated[float, about("How far the costs of two chips may differ, in log.", gt=0)]
    group_spread: Annotated[float, about("How far laboratories differ by a constant factor, in log.", gt=0)]
    noise: Annotated[float, about("Deviation of a measurement, in log.", gt=0)]
    huber: Annotated[float, about("Errors beyond this many `noise` count linearly.", gt=0)]
    bags: Annotated[int, about("Fits of the costs that are averaged.", ge=1)]
    calibration_folds: Annotated[int, about("Parts that the families are dealt into to calibrate intervals.")]

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Physics:
    """Costs in milliseconds a unit, shape (chips, 1 + features), the fixed cost first."""

    chips: tuple[str, ...]
    costs_ms: FloatArray

    def parts_ms(self, features: FloatArray, chips: Sequence[str]) -> FloatArray:
        """Milliseconds of each network by feature, the fixed cost first. Shape (n, 1 + features)."""
        rows = np.array([self.chips.index(chip) for chip in chips], dtype=np.int64)
        parts: FloatArray = with_fixed(features) * self.costs_ms[rows]
        return parts


def fit_bagged_physics(rows: Rows, settings: PooledSettings) -> Physics:
    """Geometric mean of the costs of several fits, each with families weighted by draws of a unit exponential."""
    families, family_of = np.unique(np.array(rows.families), return_inverse=True)
    generator = np.random.default_rng(_BAG_SEED)
    fits = [
        fit_physics(
            replace(rows, weights=rows.weights * generator.exponential(size=len(families))[family_of]), settings
        )
        for _ in range(settings.bags)
    ]
    return Physics(fits[0].chips, np.exp(np.mean([np.log(fit.costs_ms) for fit in fits], axis=0)))


def fit_physics(rows: Rows, settings: PooledSettings) -> Physics:
    """Maximum a posteriori costs. Spreads and noise are standard deviations of natural logarithms."""
    weights, log_ms, chips = rows.weights, rows.log_ms, rows.labels["chips"]
    chip_spread, group_spread = settings.chip_spread, settings.group_spread
    noise, huber = settings.noise, settings.huber
    names = tuple(sorted(set(chips)))
    labels = sorted(set(rows.groups))
    chip_index = np.array([names.index(chip) for chip in chips])
    group_of = np.array([labels.index(group) for group in rows.groups])
    amounts = with_fixed(rows.features)
    size = amounts.shape[1]
    centre = np.log([FIXED_MS, *(PRIOR_MS[name] for name in FEATURES)])
    spread = np.full(size, settings.cost_spread)
    spread[0] = 0.3

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        shared, by_chip, offsets = _unpack(x, size, len(names))
        parts = amounts * np.exp(shared + by_chip)[chip_index]
        total = parts.sum(axis=1)
        error = (np.log(total) + offsets[group_of] - log_ms) / noise
        size_of_error = np.abs(error)
        loss = np.where(size_of_error < huber, 0.5 * error**2, huber * (size_of_error - 0.5 * huber))
        slope = np.clip(error, -huber, huber) * weights / noise
        by_cost = parts / total[:, None] * slope[:, None]
        gradient = np.concatenate(
            [
                by_cost.sum(axis=0) + (shared - centre) / spread**2,
                *(
                    by_cost[chip_index == chip].sum(axis=0) + by_chip[chip] / chip_spread**2
                    for chip in range(len(names))
                ),
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


@dataclass(frozen=True)
class Residual:
    """The fitted process: everything needed to predict, in arrays."""

    inputs: FloatArray  # (n, z), standardised
    centre: FloatArray  # of the inputs before they were standardised
    scale: FloatArray
    residuals: FloatArray
    weights: FloatArray
    labels: Mapping[str, tuple[str, ...]]  # n of each sort of `LABELS`
    log_terms: FloatArray
    offset: float

    def __post_init__(self) -> None:
        covariance = _covariance(self.log_terms, _distances(self.inputs, self.inputs), self.labels, self.weights)
        factor = _factor(covariance)
        object.__setattr__(self, "_dual", cho_solve(factor, self.residuals - self.offset))
        object.__setattr__(self, "_inverse", cho_solve(factor, np.eye(len(self.residuals))))

    def mean(self, inputs: FloatArray, chip: str, device: str, group: str | None) -> FloatArray:
        """Expected log t beyond the physics, shape (n,)."""
        expected: FloatArray = self.offset + self._shared(inputs, chip, device, group) @ self._dual  # type: ignore[attr-defined]
        return expected

    def deviation(self, inputs: FloatArray, chip: str, device: str, group: str | None) -> FloatArray:
        """Standard deviation of a measurement's log t, of a new network of an unknown family, shape (n,)."""
        shared = self._shared(inputs, chip, device, group)
        own = np.sum(np.exp(2 * self.log_terms)) - np.exp(2 * self.log_terms[TERMS.index("length")])
        explained = np.sum((shared @ self._inverse) * shared, axis=1)  # type: ignore[attr-defined]
        deviation: FloatArray = np.sqrt(np.maximum(own - explained, 1e-6))
        return deviation

    def novelty(self, inputs: FloatArray, chip: str) -> FloatArray:
        """Share of the smooth terms' variance that the measurements say nothing about, shape (n,), in [0, 1]."""
        terms = dict(zip(TERMS, np.exp(2 * self.log_terms), strict=True))
        near = self._near(inputs, chip)
        explained = np.sum((near @ self._inverse) * near, axis=1)  # type: ignore[attr-defined]
        share: FloatArray = np.clip(1 - explained / (terms["smooth"] + terms["smooth_chip"]), 0.0, 1.0)
        return share

    def _near(self, inputs: FloatArray, chip: str) -> FloatArray:
        terms = dict(zip(TERMS, np.exp(self.log_terms), strict=True))
        near = np.exp(-0.5 / terms["length"] ** 2 * _distances((inputs - self.centre) / self.scale, self.inputs))
        smooth: FloatArray = near * (
            terms["smooth"] ** 2 + terms["smooth_chip"] ** 2 * _matches(self.labels["chips"], chip)
        )
        return smooth

    def _shared(self, inputs: FloatArray, chip: str, device: str, group: str | None) -> FloatArray:
        """Covariance of new networks with the measured ones, shape (n, rows)."""
        terms = dict(zip(TERMS, np.exp(self.log_terms), strict=True))
        shared = self._near(inputs, chip)
        shared += terms["device"] ** 2 * _matches(self.labels["devices"], device)
        if group is not None:
            shared += terms["laboratory"] ** 2 * _matches(self.labels["groups"], group)
        return shared


def fit_residual(inputs: FloatArray, residuals: FloatArray, rows: Rows, start: FloatArray | None = None) -> Residual:
    """Choose the sizes of the terms by marginal likelihood; `start` is where a like fit ended, to save steps."""
    weights, labels = rows.weights, rows.labels
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-3
    standard = (inputs - centre) / scale
    distances = _distances(standard, standard)
    offset = float(np.average(residuals, weights=weights))
    centred = residuals - offset
    matches = _all_matches(labels)
    identity = np.eye(len(residuals))

    def objective(log_terms: FloatArray) -> tuple[float, FloatArray]:
        covariance, slopes = _covariance_and_slopes(log_terms, distances, matches, weights)
        factor = _factor(covariance)
        inverse = cho_solve(factor, identity)
        dual = inverse @ centred
        outer = inverse - np.outer(dual, dual)
        value = 0.5 * centred @ dual + np.log(np.diag(factor[0])).sum()
        gradient = np.array([0.5 * np.sum(outer * slope) for slope in slopes])
        return float(value), gradient

    log_terms = map_fit(objective, _TERMS_CENTRE, _TERMS_SPREAD, start=start)
    return Residual(standard, centre, scale, residuals, weights, labels, log_terms, offset)


def _factor(covariance: FloatArray) -> tuple[FloatArray, bool]:
    """Cholesky's factor. A line search tries terms so far apart that rounding decides whether there is one.

    How a library sums decides with it, so that a fit must not depend on it: there the diagonal grows by what rounding
    can take from it.
    """
    for lift in (0.0, *_LIFTS):
        try:
            lifted = covariance if not lift else covariance + lift * np.diag(np.diag(covariance))
            factor: tuple[FloatArray, bool] = cho_factor(lifted, lower=True)
            return factor
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("a covariance must be positive definite, got one that is not")


def _distances(left: FloatArray, right: FloatArray) -> FloatArray:
    """Mean squared difference over the inputs, for every pair."""
    square = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    distances: FloatArray = np.maximum(square, 0.0) / left.shape[1]
    return distances


def _matches(labels: Sequence[str], label: str) -> FloatArray:
    return np.array([float(other == label) for other in labels])[None]


def _same(labels: Sequence[str]) -> FloatArray:
    codes = np.unique(np.array(labels), return_inverse=True)[1]
    same: FloatArray = (codes[:, None] == codes[None]).astype(np.float64)
    return same


def _all_matches(labels: Mapping[str, tuple[str, ...]]) -> dict[str, FloatArray]:
    return {
        "chip": _same(labels["chips"]),
        "device": _same(labels["devices"]),
        "laboratory": _same(labels["groups"]),
        "family": _same(labels["families"]),
        "network": _same(labels["networks"]),
    }


def _covariance_and_slopes(
    log_terms: FloatArray, distances: FloatArray, matches: dict[str, FloatArray], weights: FloatArray
) -> tuple[FloatArray, list[FloatArray]]:
    terms = dict(zip(TERMS, np.exp(log_terms), strict=True))
    scaled = distances / terms["length"] ** 2
    near = np.exp(-0.5 * scaled)
    smooth = terms["smooth"] ** 2 * near
    smooth_chip = terms["smooth_chip"] ** 2 * near * matches["chip"]
    others = {name: terms[name] ** 2 * matches[name] for name in ("device", "laboratory", "family", "network")}
    noise = np.diag(terms["noise"] ** 2 / weights)
    covariance = smooth + smooth_chip + sum(others.values()) + noise + _JITTER * np.eye(len(weights))
    slopes = [2 * smooth, (smooth + smooth_chip) * scaled, 2 * smooth_chip]
    slopes += [2 * other for other in others.values()]
    return covariance, [*slopes, 2 * noise]


def _covariance(
    log_terms: FloatArray, distances: FloatArray, labels: Mapping[str, tuple[str, ...]], weights: FloatArray
) -> FloatArray:
    return _covariance_and_slopes(log_terms, distances, _all_matches(labels), weights)[0]


@dataclass(frozen=True)
class PooledModel:
    """Predicts log t on `device`, as an unknown laboratory would measure it or as a named group does."""

    physics: Physics
    residual: Residual
    device: str
    start: None = None

    @property
    def chips(self) -> tuple[str, ...]:
        """The chips that were measured."""
        return self.physics.chips

    @property
    def groups(self) -> tuple[str, ...]:
        """The (laboratory, device) labels seen."""
        return tuple(sorted(set(self.residual.labels["groups"])))

    @property
    def costs_ms(self) -> FloatArray:
        """Milliseconds of the fixed cost and of a unit of each feature, shape (1 + F,)."""
        costs: FloatArray = self.physics.costs_ms[self.chips.index(chip_of(self.device))]
        return costs

    @property
    def summary(self) -> dict[str, Any]:
        """Nothing: a pooled fit starts from no other."""
        return {}

    def kernel_features(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Features of each kernel, shape (len(kernels), F): no sort of kernels is told apart."""
        return kernel_features(kernels)

    def mean(self, features: FloatArray, group: str | None = None, /) -> FloatArray:
        """Expected log t, shape (n,)."""
        device = self.device if group is None else device_of(group)
        inputs = self._inputs(features, device)
        return inputs[:, 0] + self.residual.mean(inputs, chip_of(device), device, group)

    def deviation(self, features: FloatArray, group: str | None = None, /) -> FloatArray:
        """Standard deviation of a measurement's log t, shape (n,)."""
        device = self.device if group is None else device_of(group)
        return self.residual.deviation(self._inputs(features, device), chip_of(device), device, group)

    def covariance(self, features: FloatArray) -> FloatArray:
        """Covariance of log t, shape (n, n), before a fit to one device that starts from this sees its first row."""
        costs_ms = self.costs_ms
        beyond = beyond_costs(costs_ms, np.exp(self.mean(features)), features)
        return starting_covariance(start_of(costs_ms), features, beyond)

    def reasons(self, network: Sequence[Kernel], features: FloatArray) -> dict[str, str]:
        """Why a network, of summed features (1, F), is unlike all that were measured, by name of the reason."""
        residual = self.residual
        inputs = self._inputs(features, self.device)
        found = reasons(
            Support(residual.inputs * residual.scale + residual.centre, None),
            inputs[0],
            float(residual.novelty(inputs, chip_of(self.device))[0]),
            kind_shares(network, self.costs_ms),
        )
        found |= attention_beyond(network)
        for kind in unpriced(network):
            found[f"kind {kind}"] = f"{kind} is an operation without a price of its own"
        for kind in UNMEASURED & {kernel.kind for kernel in network}:
            found[f"kind {kind}"] = f"{kind} is an operation that no measured network had; what it costs is a guess"
        return found

    def for_device(self, device: str) -> "PooledModel":
        """The same fit for another device whose chip was measured."""
        if chip_of(device) not in self.chips:
            known = ", ".join(sorted(set(self.residual.labels["devices"])))
            raise MvigNasError(
                f"a device must share a chip with one that was measured, got {device!r}; measured: {known}"
            )
        return replace(self, device=device)

    def to_parts(self) -> tuple[dict[str, Any], dict[str, FloatArray]]:
        """Values for JSON, and arrays."""
        residual = self.residual
        return {"terms": dict(zip(TERMS, np.exp(residual.log_terms).tolist(), strict=True))}, {
            "costs_ms": self.physics.costs_ms,
            **{name: getattr(residual, name) for name in _ARRAYS},
            "offset": np.array(residual.offset),
            **{f"label_{name}": np.array(residual.labels[name]) for name in LABELS},
        }

    @classmethod
    def from_parts(cls, device: str, chips: Sequence[str], arrays: Mapping[str, Any]) -> "PooledModel":
        """What `to_parts` gave.

        Raises:
            MvigNasError: the device's chip is none of the chips, or there are more or fewer chips than costs.
        """
        if chip_of(device) not in chips:
            raise MvigNasError(f"`chips` must name the device's, {chip_of(device)}, got {list(chips)}; fit it again.")
        costs_ms = np.atleast_2d(arrays["costs_ms"])
        if len(costs_ms) != len(chips):
            raise MvigNasError(
                f"`chips` must name each of the {len(costs_ms)} rows of costs, got {list(chips)}; fit it again."
            )
        labels = {name: tuple(arrays[f"label_{name}"].tolist()) for name in LABELS}
        kept = {name: arrays[name] for name in _ARRAYS}
        residual = Residual(**kept, labels=labels, offset=float(arrays["offset"]))
        return cls(Physics(tuple(chips), costs_ms), residual, device)

    def _inputs(self, features: FloatArray, device: str) -> FloatArray:
        return size_and_shares(self.physics.parts_ms(features, [chip_of(device)] * len(features)))


def fit_pooled(rows: Rows, device: str, settings: PooledSettings) -> tuple[PooledModel, FloatArray]:
    """A model of the rows, and sorted absolute errors of families left out, in predicted standard deviations."""
    model = _fit_rows(rows, device, settings)
    return model, _calibration(rows, model, settings)


def _fit_rows(rows: Rows, device: str, settings: PooledSettings, start: FloatArray | None = None) -> PooledModel:
    physics = fit_bagged_physics(rows, settings)
    inputs = size_and_shares(physics.parts_ms(rows.features, rows.labels["chips"]))
    return PooledModel(physics, fit_residual(inputs, rows.log_ms - inputs[:, 0], rows, start), device)


def _calibration(rows: Rows, model: PooledModel, settings: PooledSettings) -> FloatArray:
    names, folds = sorted(set(rows.families)), settings.calibration_folds
    if folds < 2 or len(names) < folds:
        return np.zeros(0)
    # deal families of like size round the folds, so that each fold holds some of every size
    names.sort(key=lambda name: (-rows.families.count(name), name))
    errors: list[FloatArray] = []
    for fold in range(folds):
        held_out = set(names[fold::folds])
        is_out = np.array([family in held_out for family in rows.families])
        fitted = _fit_rows(rows.where(~is_out), model.device, settings, model.residual.log_terms)
        out = rows.where(is_out)
        for row, group in enumerate(out.groups):
            if chip_of(device_of(group)) in fitted.chips:
                features = out.features[row : row + 1]
                error = np.abs(out.log_ms[row] - fitted.mean(features, group))
                errors.append(error / fitted.deviation(features, group))
    return np.sort(np.concatenate(errors)) if errors else np.zeros(0)
