"""Score that is a predicted top-1: a small regression on what other scores say, fitted to networks trained alone.

Ridge regression (Hoerl and Kennard 1970) of stand-alone top-1 on standardised scores. Which of the scores are used and
the strength of the penalty are chosen by the leave-one-out error, which a linear fit has in closed form (PRESS, Allen
1974). Errors that are reported come from a second leave-one-out around the whole of that choice.

Legend: n networks that were trained alone, p scores of each.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from scipy.stats import t as student_t

from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import read_json, save
from mvig_nas.scores.meaning import Meaning
from mvig_nas.values import about

FloatArray = NDArray[np.float64]

PREFIX = "calibrated:"
FILE = "calibrated.json"
FEWEST = 8
SCHEMA = 1
_PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
_NOTE = (
    "The score is the top-1 of a network that is trained by itself, predicted from other scores by a fit to {count} "
    "such networks; `mvig-nas docs scores` says how far to trust it."
)
_SLACK = 0.05  # of the range fitted to; a score that lies further outside is told


@dataclass(frozen=True)
class LeftOut:
    """How well the fit predicts networks that it was not fitted to, each of n left out in turn.

    `tau` is Kendall's tau-b between predicted and measured top-1, `mean_error` the mean absolute error and `coverage`
    the share of networks inside the 80 % interval, all fractions.
    """

    tau: Annotated[float, about("Kendall's tau-b between predicted and measured top-1.", ge=-1, le=1)]
    mean_error: Annotated[float, about("Mean absolute error of top-1, a fraction.", ge=0)]
    coverage: Annotated[float, about("Share of networks inside the 80 % interval.", ge=0, le=1)]


@dataclass(frozen=True)
class CalibratedFit:
    """Top-1 (a fraction) as a linear function of p scores, and how uncertain it is.

    `scores` are the names that `scores.load` knows; a supernet's path is relative to the folder of the fit. `spread`
    is the standard deviation of top-1 around the fit, `shape` the p x p matrix by which the uncertainty grows away from
    the `means` of the n = `count` networks fitted to, `lows` and `highs` the range of their scores.
    """

    scores: tuple[str, ...]
    seed: Annotated[int, about("Seed of the training-free scores.", ge=0)]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]
    top1: Annotated[float, about("Mean top-1 of the networks fitted to, a fraction.", ge=0, le=1)]
    spread: Annotated[float, about("Standard deviation of top-1 around the fit, a fraction.", ge=0)]
    shape: tuple[tuple[float, ...], ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    count: Annotated[int, about("Networks fitted to.", ge=FEWEST)]
    left_out: LeftOut | None = None
    schema: Annotated[int, about("Version of this file.", ge=SCHEMA, le=SCHEMA)] = SCHEMA

    def __post_init__(self) -> None:
        values.check(self)
        lengths = {len(column) for column in (self.means, self.deviations, self.weights, self.lows, self.highs)}
        rows = {len(self.shape), *map(len, self.shape)}
        if not self.scores or lengths | rows != {len(self.scores)} or min(self.deviations) <= 0:
            raise MvigNasError(
                f"a calibrated fit must hold one positive deviation and one of each other value for every score, got "
                f"{len(self.scores)} scores; fit it anew."
            )

    def predict(self, estimates: FloatArray) -> FloatArray:
        """Top-1, a fraction, of shape (n,), for scores of shape (n, p) in the order of `scores`."""
        predicted: FloatArray = self.top1 + self._standardised(estimates) @ np.array(self.weights)
        return np.clip(predicted, 0.0, 1.0)

    def interval(self, estimates: FloatArray, coverage: float = 0.8) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bound of top-1 of a training alone, each of shape (n,)."""
        away = self._standardised(estimates)
        leverage = 1 / self.count + np.einsum("np,pq,nq->n", away, np.array(self.shape), away)
        half = student_t.ppf((1 + coverage) / 2, self._freedom) * self.spread * np.sqrt(1 + leverage)
        middle = self.predict(estimates)
        return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)

    def outside(self, estimates: Sequence[float]) -> tuple[str, ...]:
        """Names of the scores of one network that lie outside the range fitted to, by more than 5 % of it."""
        return tuple(
            name
            for name, value, low, high in zip(self.scores, estimates, self.lows, self.highs, strict=True)
            if not low - _SLACK * (high - low) <= value <= high + _SLACK * (high - low)
        )

    @property
    def _freedom(self) -> int:
        return max(self.count - 1 - len(self.scores), 1)

    def _standardised(self, estimates: FloatArray) -> FloatArray:
        standard: FloatArray = (np.asarray(estimates, np.float64) - np.array(self.means)) / np.array(self.deviations)
        return standard


def fit_calibrated(estimates: Mapping[str, Sequence[float]], top1: Sequence[float], *, seed: int = 0) -> CalibratedFit:
    """Fit top-1 to scores of the same networks, choosing among the scores by leave-one-out.

    Args:
        estimates: for each score, by the name that `load` knows, its value for each of the n networks. Few scores
            choose better than many: every one more is a chance to fit noise.
        top1: of each network trained alone, a fraction; the mean over seeds where there are several.
        seed: of the training-free scores.

    Raises:
        MvigNasError: fewer than 8 networks, columns of different lengths, values that are not finite, or scores that
            are the same for all networks.
    """
    names = list(estimates)
    lengths = {len(top1), *(len(column) for column in estimates.values())}
    if not names or len(lengths) != 1 or len(top1) < FEWEST:
        raise MvigNasError(
            f"a calibrated score must be fitted to at least {FEWEST} networks with every score, got {len(top1)} "
            f"networks and {len(names)} scores of {sorted(lengths)} values; train more networks."
        )
    columns = np.array([list(estimates[name]) for name in names], np.float64).T  # (n, p)
    target = np.asarray(top1, np.float64)
    if not (np.isfinite(columns).all() and np.isfinite(target).all()):
        raise MvigNasError("scores and top-1 that are fitted must be finite, but some are not; leave those out.")
    if (flat := columns.std(axis=0) <= 1e-12 * np.abs(columns).max(axis=0, initial=1e-300)).any():
        raise MvigNasError(f"score {names[int(np.argmax(flat))]!r} must differ between networks; leave it out.")
    predicted, inside = np.empty_like(target), np.empty(len(target), bool)
    for row in range(len(target)):
        others = np.arange(len(target)) != row
        fit, chosen = _chosen(names, columns[others], target[others], seed)
        left = columns[[row]][:, chosen]
        low, high = fit.interval(left)
        predicted[row] = fit.predict(left)[0]
        inside[row] = low[0] <= target[row] <= high[0]
    tau = float(np.nan_to_num(kendalltau(predicted, target).statistic))
    left_out = LeftOut(tau, float(np.abs(predicted - target).mean()), float(inside.mean()))
    return replace(_chosen(names, columns, target, seed)[0], left_out=left_out)


def _chosen(names: list[str], columns: FloatArray, target: FloatArray, seed: int) -> tuple[CalibratedFit, list[int]]:
    """The fit whose leave-one-out error is least, and which columns it uses."""
    subsets = [list(s) for size in range(1, len(names) + 1) for s in combinations(range(len(names)), size)]
    fits = [
        (*_fitted([names[i] for i in subset], columns[:, subset], target, penalty, seed), subset)
        for subset in subsets
        for penalty in _PENALTIES
    ]
    _, fit, subset = min(fits, key=lambda each: each[0])
    return fit, subset


def _fitted(
    names: list[str], columns: FloatArray, target: FloatArray, penalty: float, seed: int
) -> tuple[float, CalibratedFit]:
    """Mean squared leave-one-out error, and the fit."""
    means, deviations = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-12)
    standard = (columns - means) / deviations  # (n, p)
    shape = np.linalg.inv(standard.T @ standard + penalty * np.eye(len(names)))
    weights = shape @ standard.T @ (target - target.mean())
    leverage = 1 / len(target) + np.einsum("np,pq,nq->n", standard, shape, standard)
    missed = (target - target.mean() - standard @ weights) / (1 - leverage)
    fit = CalibratedFit(
        scores=tuple(names),
        seed=seed,
        means=tuple(means.tolist()),
        deviations=tuple(deviations.tolist()),
        weights=tuple(weights.tolist()),
        top1=float(target.mean()),
        spread=float(np.sqrt(np.mean(missed**2 * (1 - leverage)))),
        shape=tuple(map(tuple, shape.tolist())),
        lows=tuple(columns.min(axis=0).tolist()),
        highs=tuple(columns.max(axis=0).tolist()),
        count=len(target),
    )
    return float(np.mean(missed**2)), fit


def save_calibrated(fit: CalibratedFit, folder: Path) -> Path:
    """Write `calibrated.json` into a folder; paths of supernets in it become relative to the folder.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    names = tuple(_moved(name, lambda path: os.path.relpath(path, folder)) for name in fit.scores)
    save(folder / FILE, json.dumps(values.plain(replace(fit, scores=names)), indent=1) + "\n")
    return folder / FILE


class CalibratedScore:
    """Predicted top-1 in [0, 1] of a network trained alone; `scores.load("calibrated:FOLDER")` makes it.

    Args:
        path: `calibrated.json`, or the folder it is in.
        load: gives the score of a name and a seed.

    Raises:
        MvigNasError: no such file, what is in it is wrong, or a score that it uses cannot be loaded.
    """

    def __init__(self, path: Path, load: Callable[[str, int], Callable[[Architecture], float]]) -> None:
        file = path / FILE if path.is_dir() else path
        what = "a calibrated score, as `supernet rank` writes it,"
        try:
            content = read_json(file, what, "rank networks first")
        except OSError as error:
            raise MvigNasError(f"{what} must be a file, got none at {file}; rank networks first.") from error
        self.fit = values.read(CalibratedFit, content, f"the calibrated score {file}")
        self.name = f"{PREFIX}{path}"
        names = (_moved(name, lambda inside: os.path.normpath(file.parent / inside)) for name in self.fit.scores)
        self._scores = [load(name, self.fit.seed) for name in names]
        self.meaning = Meaning(_NOTE.format(count=self.fit.count), is_top1=True, spread=self.fit.spread)

    def __call__(self, architecture: Architecture) -> float:
        """Predicted top-1.

        Raises:
            MvigNasError: one of the scores has no value for the architecture.
        """
        return float(self.fit.predict(self.estimates(architecture)[None])[0])

    def estimates(self, architecture: Architecture) -> FloatArray:
        """The scores that the prediction rests on, of shape (p,)."""
        return np.array([score(architecture) for score in self._scores])

    def interval(self, architecture: Architecture, coverage: float = 0.8) -> tuple[float, float]:
        """Between which bounds top-1 of a training alone is expected, with this probability."""
        low, high = self.fit.interval(self.estimates(architecture)[None], coverage)
        return float(low[0]), float(high[0])

    def outside(self, architecture: Architecture) -> tuple[str, ...]:
        """Names of the scores that are outside what the fit has seen."""
        return self.fit.outside(self.estimates(architecture).tolist())


def _moved(name: str, change: Callable[[str], str]) -> str:
    """The name of a supernet's score with its path changed; other names as they are."""
    prefix, colon, rest = name.partition(":")
    if prefix != "supernet":
        return name
    path, at, digest = rest.partition("@")
    return f"{prefix}{colon}{change(path)}{at}{digest}"
