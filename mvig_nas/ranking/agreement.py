"""How far an estimate orders architectures as their stand-alone accuracy does, with bootstrap intervals.

Legend: B resamples, n architectures. A resample is the row of counts (how often each architecture was drawn), so every
statistic below is arithmetic on counts of shape (B, n), and row 0 of ones is the sample itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mvig_nas.errors import MvigNasError

Array = NDArray[np.float64]

FEWEST = 4


@dataclass(frozen=True)
class Ranked:
    """An architecture trained alone: its accuracy (top-1, a fraction), and what each estimator said of it.

    `accuracies` are those of its trainings, in the order of their seeds, and `accuracy` is their mean.
    """

    fingerprint: str
    latency_ms: float
    macs: int
    accuracy: float
    estimates: Mapping[str, float]
    accuracies: tuple[float, ...] = ()


@dataclass(frozen=True)
class Interval:
    """A value and its bootstrap interval; all three are nan where the value is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of an estimate with accuracy over `count` architectures.

    `kendall_tau` is tau-b; `top_k_overlap` the share of the `top_k` most accurate that are in the estimate's top k;
    `ndcg` the normalised discounted cumulative gain of the estimate's top k (Jarvelin and Kekalainen 2002), where the
    gain of an architecture is its accuracy over the lowest one's; `regret` what choosing by the estimate costs: best
    accuracy minus accuracy of the chosen one, a fraction.
    """

    kendall_tau: Interval
    spearman: Interval
    top_k_overlap: Interval
    ndcg: Interval
    regret: Interval
    count: int
    top_k: int
    coverage: float = 0.9


def agreement(
    scores: Sequence[float],
    accuracies: Sequence[float],
    *,
    top_k: int = 5,
    coverage: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Compares `scores` with stand-alone `accuracies` (fractions) of the same architectures; the order is irrelevant.

    Intervals are percentile bootstraps over architectures, stretched to the value where the percentiles leave it out
    (regret is an extreme of the sample, and can). Resamples in which a statistic is undefined are left out. Kendall's
    tau and Spearman are nan if all scores or all accuracies are equal, nDCG if all accuracies are. Architectures that
    tie across the cut of the top k belong to it in part, and nDCG takes the mean over the orders of those tied; of
    those tied for the highest score, regret takes the mean. `top_k` is at most one less
    than the number of architectures: the overlap of all with all is 1.

    Raises:
        MvigNasError: fewer than 4 architectures, unequal lengths, non-finite values, or an option out of range.
    """
    if top_k < 1:
        raise MvigNasError(f"`top_k` must be at least 1, got {top_k}: ask for 1 or more.")
    score, accuracy = _columns({"scores": scores, "accuracies": accuracies})
    top_k = min(top_k, len(score) - 1)
    counts = _counts(len(score), coverage, resamples, seed)
    return Agreement(
        kendall_tau=_interval(_tau(counts, _signs(score), _signs(accuracy)), coverage),
        spearman=_interval(_spearman(counts, score, accuracy), coverage),
        top_k_overlap=_interval(_overlap(counts, score, accuracy, top_k), coverage),
        ndcg=_interval(_ndcg(counts, score, accuracy, top_k), coverage),
        regret=_interval(_regret(counts, score, accuracy), coverage),
        count=len(score),
        top_k=top_k,
        coverage=coverage,
    )


def agreements(
    rows: Sequence[Ranked], *, top_k: int = 5, coverage: float = 0.9, resamples: int = 2000, seed: int = 0
) -> dict[str, Agreement]:
    """The agreement of every estimator in `rows`, in the order of the first row's estimates.

    Raises:
        MvigNasError: rows that differ in their estimators, and whatever `agreement` refuses.
    """
    names = list(rows[0].estimates) if rows else []
    for row in rows:
        if odd := sorted(set(names) ^ set(row.estimates)):
            raise MvigNasError(
                f"all architectures need the same estimates, {row.fingerprint} and {rows[0].fingerprint} differ in "
                f"{', '.join(odd)}: estimate it for both or for neither."
            )
    accuracies = [row.accuracy for row in rows]
    _columns({"accuracies": accuracies})
    found = {}
    for name in names:
        scores = [row.estimates[name] for row in rows]
        try:
            found[name] = agreement(scores, accuracies, top_k=top_k, coverage=coverage, resamples=resamples, seed=seed)
        except MvigNasError as error:
            raise MvigNasError(f"estimate {name}: {error}") from error
    return found


def partial_tau(
    scores: Sequence[float],
    accuracies: Sequence[float],
    costs: Sequence[float],
    *,
    within: float = 1.5,
    coverage: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Kendall's tau-b over only the pairs whose costs are within a factor `within`: what a search on a budget needs.

    An estimate that merely knows that larger is better has a high tau over all pairs, and a low one here. `costs` are
    latencies or MACs. The value is nan if no such pair differs in score, or none in accuracy.

    Raises:
        MvigNasError: as `agreement`; costs that are not positive; `within` below 1.
    """
    if not within >= 1:
        raise MvigNasError(f"`within` is a factor of at least 1, got {within}: give 1.5 for half as much again.")
    score, accuracy, cost = _columns({"scores": scores, "accuracies": accuracies, "costs": costs})
    if cost.min() <= 0:
        raise MvigNasError(f"costs must be positive, got {cost.min():g}: give latencies or MACs.")
    near = np.maximum.outer(cost, cost) <= within * np.minimum.outer(cost, cost)
    counts = _counts(len(score), coverage, resamples, seed)
    return _interval(_tau(counts, _signs(score) * near, _signs(accuracy) * near), coverage)


def tau_difference(
    one: Sequence[float],
    other: Sequence[float],
    accuracies: Sequence[float],
    *,
    coverage: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """By how much Kendall's tau-b of scores `one` exceeds that of scores `other`, both resampled together.

    Two intervals that overlap may still differ: most of what moves one of them moves the other as well.

    Raises:
        MvigNasError: as `agreement`.
    """
    first, second, accuracy = _columns({"scores": one, "other scores": other, "accuracies": accuracies})
    counts, truth = _counts(len(accuracy), coverage, resamples, seed), _signs(accuracy)
    return _interval(_tau(counts, _signs(first), truth) - _tau(counts, _signs(second), truth), coverage)


def seed_ceiling(
    accuracies: Sequence[Sequence[float]], *, coverage: float = 0.9, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Kendall's tau-b between two trainings of the same architectures, the mean over all pairs of seeds.

    It is what training every architecture once more would reach as an estimate. Only one that knew the mean of many
    trainings would be above it, by little. Architectures are resampled, each with all of its seeds.

    Args:
        accuracies: for each architecture those of its seeds, at least two, in one order of seeds.
        coverage: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MvigNasError: fewer than two seeds, an architecture with fewer than the others, and as `agreement`.
    """
    numbers = sorted({len(own) for own in accuracies})
    if len(numbers) > 1 or numbers < [2]:
        given = " or ".join(map(str, numbers)) or "no architecture"
        raise MvigNasError(
            f"each architecture needs the same two or more seeds, got {given}: train it with the others'."
        )
    trainings = _columns(
        {f"accuracies of training {at + 1}": own for at, own in enumerate(zip(*accuracies, strict=True))}
    )
    counts, signs = _counts(len(accuracies), coverage, resamples, seed), [_signs(training) for training in trainings]
    return _interval(np.mean([_tau(counts, *pair) for pair in combinations(signs, 2)], axis=0), coverage)


def _columns(columns: Mapping[str, Sequence[float]]) -> list[Array]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise MvigNasError(f"each architecture needs one of each, got {given}: give lists of one length.")
    if (count := min(lengths.values())) < FEWEST:
        raise MvigNasError(f"a ranking needs at least {FEWEST} architectures, got {count}: train more of them.")
    arrays = [np.asarray(values, dtype=np.float64) for values in columns.values()]
    for name, array in zip(columns, arrays, strict=True):
        if not np.isfinite(array).all():
            index = int(np.flatnonzero(~np.isfinite(array))[0])
            raise MvigNasError(f"{name} must be finite, got {array[index]} at index {index}: leave that one out.")
    # Sorted, so that the same resamples are drawn whatever the order of the rows.
    order = np.lexsort(arrays)
    return [array[order] for array in arrays]


def _counts(count: int, coverage: float, resamples: int, seed: int) -> Array:
    if not 0 < coverage < 1:
        raise MvigNasError(f"`coverage` must lie between 0 and 1, got {coverage}: give 0.9 for 90 %.")
    if resamples < 1:
        raise MvigNasError(f"`resamples` must be at least 1, got {resamples}: ask for some hundreds.")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.vstack([np.ones(count), drawn])  # (1 + B, n)


def _interval(values: Array, coverage: float) -> Interval:
    value = float(values[0])
    defined = values[1:][np.isfinite(values[1:])]
    if math.isnan(value) or not len(defined):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def _signs(values: Array) -> Array:
    # Not the sign of a difference, which overflows for the scores of some proxies.
    return np.greater.outer(values, values).astype(np.float64) - np.less.outer(values, values)  # (n, n)


def _tau(counts: Array, one: Array, other: Array) -> Array:
    """Tau-b of each resample; a pair of copies of one architecture has sign 0 in both, and so counts nowhere."""
    return _ratio(_pairs(counts, one * other), np.sqrt(_pairs(counts, np.abs(one)) * _pairs(counts, np.abs(other))))


def _pairs(counts: Array, of_pair: Array) -> Array:
    total: Array = ((counts @ of_pair) * counts).sum(axis=1)
    return total


def _spearman(counts: Array, score: Array, accuracy: Array) -> Array:
    one, other = _centred_ranks(counts, score), _centred_ranks(counts, accuracy)
    scale = np.sqrt((counts * one**2).sum(axis=1) * (counts * other**2).sum(axis=1))
    return _ratio((counts * one * other).sum(axis=1), scale)


def _centred_ranks(counts: Array, values: Array) -> Array:
    """Mid-ranks within each resample, minus their mean: exact multiples of one half."""
    below = np.less.outer(values, values) + 0.5 * np.equal.outer(values, values)
    ranks: Array = counts @ below - len(values) / 2
    return ranks


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _overlap(counts: Array, score: Array, accuracy: Array, top_k: int) -> Array:
    shared = np.minimum(_in_top(counts, score, top_k), _in_top(counts, accuracy, top_k))
    overlap: Array = shared.sum(axis=1) / top_k
    return overlap


def _in_top(counts: Array, values: Array, top_k: int) -> Array:
    """How many copies of each architecture are in the top k; those which tie share the ranks left for them."""
    better = counts @ np.greater.outer(values, values)
    tied = counts @ np.equal.outer(values, values)
    copies: Array = counts * np.clip(top_k - better, 0, tied) / np.maximum(tied, 1)
    return copies


def _ndcg(counts: Array, score: Array, accuracy: Array, top_k: int) -> Array:
    gains = accuracy - np.where(counts > 0, accuracy, np.inf).min(axis=1, keepdims=True)  # (1 + B, n)
    return _ratio(_dcg(counts, score, gains, top_k), _dcg(counts, accuracy, gains, top_k))


def _dcg(counts: Array, values: Array, gains: Array, top_k: int) -> Array:
    """Gains of the top k by `values`, the gain at rank i over log2(i + 1); those which tie share their ranks."""
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, top_k + 2)))])
    above = (counts @ np.greater.outer(values, values)).astype(np.intp)
    tied = (counts @ np.equal.outer(values, values)).astype(np.intp)
    shared = discounts[np.minimum(above + tied, top_k)] - discounts[np.minimum(above, top_k)]
    total: Array = (counts * gains * shared / np.maximum(tied, 1)).sum(axis=1)
    return total


def _regret(counts: Array, score: Array, accuracy: Array) -> Array:
    drawn = counts > 0
    best = np.where(drawn, accuracy, -np.inf).max(axis=1, keepdims=True)
    highest = np.where(drawn, score, -np.inf).max(axis=1, keepdims=True)
    chosen = counts * (score == highest)
    regret: Array = (chosen * (best - accuracy)).sum(axis=1) / chosen.sum(axis=1)
    return regret
