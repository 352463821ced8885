"""A Gaussian process over the architectures of a space, for a search that has seen few scores.

Every parameter d has a relevance w_d and a fixed kernel k_d over its choices: numbers are alike by rank, names equally
unlike each other, and "unused" is a choice of its own. The covariance sums main effects and the product of them all:

    k(x, y) = a * sum_d w_d k_d(x, y) / sum_d w_d  +  b * exp(-sum_d w_d (1 - k_d(x, y)))

which is learnt from far fewer points than a product alone. With S = sum_d w_d k_d both terms are functions of one
inner product of explicit features, so that thousands of architectures are compared by a single matrix product.

Notation: n observations, m queries, D parameters, F features; levels (n, D) integers, features (n, F).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import log_ndtr

from mvig_nas.architecture import DEPTH_OF, STAGES, Architecture
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.map_fit import map_fit
from mvig_nas.search_space import SearchSpace

FloatArray = NDArray[np.float64]
Levels = NDArray[np.intp]

_LENGTH_SCALE = 0.6  # of a number's rank, scaled to [0, 1]
_UNLIKE = 0.3  # k_d of two names, and of anything and "unused"
_FENCE = 5.0
_CONSTRAINED = ("width", "conv_depth", "graph_depth")  # what constraints are about
_JITTER = 1e-6


class Features:
    """Turns architectures of one space into levels, and levels into features."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.names = [name for name, choices in space.choices.items() if len(choices) > 1]
        self.counts: Levels = np.array([len(space.choices[name]) for name in self.names], dtype=np.intp)
        self.kernels = [_kernel(space, name) for name in self.names]
        self._maps = [_feature_map(kernel) for kernel in self.kernels]
        self.parameter_of_feature = np.repeat(np.arange(len(self.names)), [len(part) for part in self._maps])
        self._index = {name: index for index, name in enumerate(self.names)}
        self._level_of = [{value: level for level, value in enumerate(space.choices[name])} for name in self.names]

    def levels(self, architectures: Sequence[Architecture]) -> Levels:
        """Index of every parameter's value among its choices, the first where unused: (n, D)."""
        rows = []
        for architecture in architectures:
            values = self.space.encode(architecture)
            rows.append([level_of[values[name]] for name, level_of in zip(self.names, self._level_of, strict=True)])
        return np.array(rows, dtype=np.intp).reshape(len(rows), len(self.names))

    def architecture(self, levels: Levels) -> Architecture:
        """The architecture of one row of levels."""
        chosen = dict(zip(self.names, levels.tolist(), strict=True))
        return self.space.decode({name: choices[chosen.get(name, 0)] for name, choices in self.space.choices.items()})

    def with_unused(self, levels: Levels) -> Levels:
        """The same levels, one past the last choice where a parameter is unused."""
        marked = levels.copy()
        for index, name in enumerate(self.names):
            stage, _, choice = name.rpartition(".")
            if choice in DEPTH_OF:
                unused = self._is(levels, f"{stage}.{DEPTH_OF[choice]}", 0)
                if choice == "graph_step":
                    for operator in OPERATORS.values():
                        if operator.least_step is None:
                            unused = unused | self._is(levels, f"{stage}.graph_operator", operator.name)
                marked[unused, index] = self.counts[index]
        return marked

    def keep_constraints(self, levels: Levels) -> NDArray[np.bool_]:
        """Which rows of levels keep the space's constraints as they are: (n,)."""
        constraints = self.space.constraints
        widths, conv_depths, graph_depths = (self._stage_values(levels, name) for name in _CONSTRAINED)
        is_kept = [
            np.min(conv_depths + graph_depths, axis=1) >= constraints.least_blocks,
            np.sum(graph_depths, axis=1) >= constraints.least_graph_blocks,
        ]
        if not constraints.widths_may_fall:
            is_kept.append(np.min(np.diff(widths, axis=1), axis=1) >= 0)
        kept: NDArray[np.bool_] = np.logical_and.reduce(is_kept)
        return kept

    def expand(self, levels: Levels) -> FloatArray:
        """Features (n, F) whose inner product, weighted by relevance, is S."""
        marked = self.with_unused(levels)
        return np.concatenate([part[marked[:, index]] for index, part in enumerate(self._maps)], axis=1)

    def _stage_values(self, levels: Levels, name: str) -> Levels:
        """One parameter of every stage, as its value: (n, 4)."""
        columns = []
        for stage in range(1, STAGES + 1):
            key = f"stage{stage}.{name}"
            choices = np.array(self.space.choices[key])
            index = self._index.get(key)
            columns.append(np.full(len(levels), choices[0]) if index is None else choices[levels[:, index]])
        return np.stack(columns, axis=1)

    def _is(self, levels: Levels, name: str, value: int | str) -> NDArray[np.bool_]:
        if name not in self._index:
            return np.full(len(levels), self.space.choices[name][0] == value)
        level = self._level_of[self._index[name]].get(value, -1)
        same: NDArray[np.bool_] = levels[:, self._index[name]] == level
        return same


@dataclass(frozen=True)
class Hyperparameters:
    """Relevances (D,), the shares a of main effects and b of the product, and the noise variance, of unit-sd scores."""

    relevances: FloatArray
    main: float
    product: float
    noise: float


def fit(features: Features, levels: Levels, scores: FloatArray) -> Hyperparameters:
    """Hyper-parameters of highest posterior density under broad log-normal priors."""
    count, parameters = levels.shape
    y = normal_scores(scores)
    marked = features.with_unused(levels)
    k = np.stack(
        [kernel[marked[:, index][:, None], marked[:, index][None]] for index, kernel in enumerate(features.kernels)]
    )
    prior_mean = np.concatenate([np.full(parameters, math.log(2.0 / parameters)), [0.0, 0.0, math.log(1e-2)]])
    prior_sd = np.concatenate([np.full(parameters, 1.5), [1.0, 1.0, 1.5]])

    def negative_log_likelihood(theta: FloatArray) -> tuple[float, FloatArray]:
        w = np.exp(theta[:parameters])
        a, b, noise = np.exp(theta[parameters:])
        total = w.sum()
        s = np.tensordot(w, k, 1)  # (n, n)
        e = np.exp(s - total)
        covariance = a / total * s + b * e
        covariance[np.diag_indices(count)] += noise + _JITTER
        lower = cholesky(covariance, lower=True, check_finite=False)
        inverse = cho_solve((lower, True), np.eye(count), check_finite=False)
        alpha = inverse @ y
        loss = 0.5 * y @ alpha + np.log(np.diag(lower)).sum()
        slope = 0.5 * (inverse - np.outer(alpha, alpha))  # of the loss, by covariance entry
        along_s, along_e = np.vdot(slope, s), np.vdot(slope, e)
        gradient = np.empty_like(theta)
        by_s = slope * (a / total + b * e)
        gradient[:parameters] = w * (np.tensordot(k, by_s, 2) - a / total**2 * along_s - b * along_e)
        gradient[parameters:] = a / total * along_s, b * along_e, noise * np.trace(slope)
        return float(loss), gradient

    found = map_fit(negative_log_likelihood, prior_mean, prior_sd, reach=6)
    main, product, noise = np.exp(found[parameters:]).tolist()
    return Hyperparameters(np.exp(found[:parameters]), main, product, noise)


class GaussianProcess:
    """Posterior over scores, in units of `normal_scores`."""

    def __init__(self, features: Features, levels: Levels, scores: FloatArray, given: Hyperparameters) -> None:
        self._features = features
        self._given = given
        self._weights = given.relevances[features.parameter_of_feature]
        self._total = float(given.relevances.sum())
        self._x = features.expand(levels)
        covariance = self._covariance(self._x, self._x)
        covariance[np.diag_indices(len(levels))] += given.noise + _JITTER
        self._lower = cholesky(covariance, lower=True, check_finite=False)
        self._y = normal_scores(scores)
        self._alpha = cho_solve((self._lower, True), self._y, check_finite=False)

    def mean(self, levels: Levels) -> FloatArray:
        """Posterior mean (m,)."""
        result: FloatArray = self._covariance(self._features.expand(levels), self._x) @ self._alpha
        return result

    def mean_and_sd(self, levels: Levels) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation, each (m,)."""
        across = self._covariance(self._features.expand(levels), self._x)
        half = solve_triangular(self._lower, across.T, lower=True, check_finite=False)
        variance = self._given.main + self._given.product - np.einsum("nm,nm->m", half, half)
        return across @ self._alpha, np.sqrt(np.maximum(variance, _JITTER))

    def mean_and_covariance(self, levels: Levels) -> tuple[FloatArray, FloatArray]:
        """Posterior mean (m,) and covariance (m, m)."""
        x = self._features.expand(levels)
        across = self._covariance(x, self._x)
        half = solve_triangular(self._lower, across.T, lower=True, check_finite=False)
        return across @ self._alpha, self._covariance(x, x) - half.T @ half

    def leave_one_out(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation (n,) of each observed score from all others, the hyper-parameters as they are.

        Closed form, with K the covariance of the observations, noise included: mean y - K^-1 y / diag(K^-1), variance
        1 / diag(K^-1) (Rasmussen and Williams 2006, equations 5.10 to 5.12).
        """
        inverse = cho_solve((self._lower, True), np.eye(len(self._y)), check_finite=False)
        precision = np.diag(inverse)
        return self._y - self._alpha / precision, 1.0 / np.sqrt(precision)

    def _covariance(self, one: FloatArray, other: FloatArray) -> FloatArray:
        s = (one * self._weights) @ other.T
        result: FloatArray = self._given.main / self._total * s + self._given.product * np.exp(s - self._total)
        return result


def normal_scores(scores: FloatArray) -> FloatArray:
    """Scores moved and scaled to zero mean and unit standard deviation.

    A score far below the others (a network that did not train, say) counts as `_FENCE` interquartile ranges below their
    lower quartile: as it is, it would make all the others look alike.
    """
    centre, spread = centre_and_spread(scores)
    result: FloatArray = (_fenced(scores) - centre) / spread
    return result


def centre_and_spread(scores: FloatArray) -> tuple[float, float]:
    """What `normal_scores` subtracts, then divides by."""
    fenced = _fenced(scores)
    return float(fenced.mean()), float(fenced.std()) + 1e-12


def _fenced(scores: FloatArray) -> FloatArray:
    low, high = np.quantile(scores, [0.25, 0.75])
    result: FloatArray = np.maximum(scores, low - _FENCE * (high - low)) if high > low else scores
    return result


def log_expected_improvement(mean: FloatArray, sd: FloatArray, best: float) -> FloatArray:
    """Logarithm of the expected improvement over `best`, exact also where it underflows (arXiv 2310.20708)."""
    z = (mean - best) / sd
    log_density = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
    near = np.maximum(z, -5.0)
    # phi(z) + z Phi(z); far below 0 its asymptotic series, phi(z) / z^2 (1 - 3 / z^2)
    improvement = np.exp(-0.5 * near * near) / math.sqrt(2 * math.pi) + near * np.exp(log_ndtr(near))
    far = np.minimum(z, -5.0)
    series = log_density - 2 * np.log(-far) + np.log1p(-3 / (far * far))
    result: FloatArray = np.log(sd) + np.where(z > -5.0, np.log(improvement), series)
    return result


def _kernel(space: SearchSpace, name: str) -> FloatArray:
    """k_d over the choices and "unused", the last."""
    choices = space.choices[name]
    count = len(choices)
    kernel = np.full((count + 1, count + 1), _UNLIKE)
    np.fill_diagonal(kernel, 1.0)
    if all(isinstance(choice, int) for choice in choices):
        rank = np.arange(count) / (count - 1)
        kernel[:count, :count] = np.exp(-0.5 * ((rank[:, None] - rank[None]) / _LENGTH_SCALE) ** 2)
    return kernel


def _feature_map(kernel: FloatArray) -> FloatArray:
    """One row a level, whose inner products are the kernel."""
    values, vectors = np.linalg.eigh(kernel)
    result: FloatArray = vectors * np.sqrt(np.maximum(values, 0.0))
    return result
