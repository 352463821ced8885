"""What the physics leaves over in log t: a Gaussian process with the nuisances of published measurements.

residual = smooth(network) + smooth(network, chip) + device + laboratory + family + network + noise, all Gaussian,
their sizes chosen by marginal likelihood with a weak prior. The family term is what makes the rest honest: what all
networks of one family share, and no other network shows, is put down to the family, not passed on as knowledge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.labels import Labels
from mvig_nas.map_fit import map_fit

TERMS = ("smooth", "length", "smooth_chip", "device", "laboratory", "family", "network", "noise")
_CENTRE = np.log([0.15, 1.0, 0.05, 0.08, 0.08, 0.1, 0.05, 0.08])
_SPREAD = 0.7
_JITTER = 1e-8


@dataclass(frozen=True)
class Residual:
    """The fitted process: everything needed to predict, in arrays."""

    inputs: FloatArray  # (n, z), standardised
    centre: FloatArray  # of the inputs before they were standardised
    scale: FloatArray
    residuals: FloatArray
    weights: FloatArray
    labels: Labels
    log_terms: FloatArray
    offset: float

    def __post_init__(self) -> None:
        covariance = _covariance(self.log_terms, _distances(self.inputs, self.inputs), self.labels, self.weights)
        factor = cho_factor(covariance, lower=True)
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
            terms["smooth"] ** 2 + terms["smooth_chip"] ** 2 * _matches(self.labels.chips, chip)
        )
        return smooth

    def _shared(self, inputs: FloatArray, chip: str, device: str, group: str | None) -> FloatArray:
        """Covariance of new networks with the measured ones, shape (n, rows)."""
        terms = dict(zip(TERMS, np.exp(self.log_terms), strict=True))
        shared = self._near(inputs, chip)
        shared += terms["device"] ** 2 * _matches(self.labels.devices, device)
        if group is not None:
            shared += terms["laboratory"] ** 2 * _matches(self.labels.groups, group)
        return shared


def fit_residual(
    inputs: FloatArray,
    residuals: FloatArray,
    weights: FloatArray,
    labels: Labels,
    start: FloatArray | None = None,
) -> Residual:
    """Choose the sizes of the terms by marginal likelihood; `start` is where a like fit ended, to save steps."""
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-3
    standard = (inputs - centre) / scale
    distances = _distances(standard, standard)
    offset = float(np.average(residuals, weights=weights))
    centred = residuals - offset
    matches = _all_matches(labels)
    identity = np.eye(len(residuals))

    def objective(log_terms: FloatArray) -> tuple[float, FloatArray]:
        covariance, slopes = _covariance_and_slopes(log_terms, distances, matches, weights)
        factor = cho_factor(covariance, lower=True)
        inverse = cho_solve(factor, identity)
        dual = inverse @ centred
        outer = inverse - np.outer(dual, dual)
        value = 0.5 * centred @ dual + np.log(np.diag(factor[0])).sum()
        gradient = np.array([0.5 * np.sum(outer * slope) for slope in slopes])
        return float(value), gradient

    log_terms = map_fit(objective, _CENTRE, _SPREAD, start=start)
    return Residual(standard, centre, scale, residuals, weights, labels, log_terms, offset)


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


def _all_matches(labels: Labels) -> dict[str, FloatArray]:
    return {
        "chip": _same(labels.chips),
        "device": _same(labels.devices),
        "laboratory": _same(labels.groups),
        "family": _same(labels.families),
        "network": _same(labels.networks),
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


def _covariance(log_terms: FloatArray, distances: FloatArray, labels: Labels, weights: FloatArray) -> FloatArray:
    return _covariance_and_slopes(log_terms, distances, _all_matches(labels), weights)[0]
