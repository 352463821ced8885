"""Which networks of a space to measure, so that few measurements teach a predictor most.

A fit is a Gaussian process on log t, so what a measurement would teach is known before it is made. One network after
the other is taken, each time the one that leaves the least variance over all candidates (Cohn's criterion,
doi:10.1613/jair.295). The candidates are spread over the range of latencies, so that its ends count like its middle.
"""

import random
from collections.abc import Sequence

import numpy as np

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.latency.device_model import starting_covariance, templates
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.latency_predictor import LatencyPredictor
from mvig_nas.latency.per_architecture import ArchitectureLatency
from mvig_nas.search_space import SearchSpace

_NOISE = 0.02  # of a measurement, in log t
_RANGES = 16
_LEAST_CANDIDATES = 800
_MOST_CANDIDATES = 3000
_CANDIDATES_PER_PICK = 8
_DRAWS_PER_CANDIDATE = 6


def spread(
    space: SearchSpace,
    latency: ArchitectureLatency,
    number: int,
    *,
    against: LatencyPredictor | None = None,
    seed: int = 0,
    budget_ms: float | None = None,
) -> list[Architecture]:
    """Different architectures to measure, those that teach most first.

    Args:
        space: where they are from.
        latency: says what the range of latencies is.
        number: how many, at most 3,000.
        against: a predictor that exists: its own device's, whose wide intervals are to become narrow, or a phone's from
            which a fit to another device will start. None is a fit from scratch.
        seed: of the draws.
        budget_ms: none that are predicted to be slower.

    Raises:
        MvigNasError: the space, or what of it fits the budget, holds fewer architectures, or too many are asked for.
    """
    if number > _MOST_CANDIDATES:
        raise MvigNasError(
            f"at most {_MOST_CANDIDATES} architectures can be picked to cover a space, got {number}; draw uniformly."
        )
    pool = _candidates(space, latency, max(_LEAST_CANDIDATES, _CANDIDATES_PER_PICK * number), seed, budget_ms)
    if len(pool) < number:
        raise MvigNasError(
            f"only {len(pool)} of {number} architectures were found in {space.name!r}; ask for fewer, or for a larger "
            "budget."
        )
    features = latency.features(pool)
    return [pool[place] for place in most_telling(uncertainty(features, against), number)]


def uncertainty(features: FloatArray, against: LatencyPredictor | None = None) -> FloatArray:
    """Covariance of log t between networks of summed features (n, F), before any more is measured. Shape (n, n).

    Without a predictor, what is known of any device: the Neural Engine's costs and a processor core's, in equal parts.
    """
    if against is not None:
        return against.covariance_from_features(features)
    starts = templates()
    zeros = np.zeros(len(features))
    covariance: FloatArray = np.mean([starting_covariance(start, features, zeros) for start in starts], axis=0)
    return covariance


def most_telling(covariance: FloatArray, number: int, noise: float = _NOISE) -> list[int]:
    """Places of `number` networks, in the order in which measuring them leaves the least variance over all.

    `covariance` is (n, n), of log t; `noise` a measurement's deviation in log t.
    """
    left = covariance.copy()
    is_open = np.ones(len(left), dtype=bool)
    chosen: list[int] = []
    for _ in range(number):
        variances = np.maximum(np.diag(left), 0.0) + noise**2
        gains = np.where(is_open, np.einsum("ij,ij->i", left, left) / variances, -np.inf)
        place = int(np.argmax(gains))
        chosen.append(place)
        is_open[place] = False
        column = left[place] / np.sqrt(variances[place])
        left -= np.outer(column, column)
    return chosen


def _candidates(
    space: SearchSpace, latency: ArchitectureLatency, number: int, seed: int, budget_ms: float | None
) -> list[Architecture]:
    """Draws spread over the range of predicted latencies: no more from one part of it than from another."""
    number = min(number, _MOST_CANDIDATES)
    rng = random.Random(seed)
    ends = (space.smallest, space.largest)
    drawn: dict[Architecture, None] = dict.fromkeys(ends)
    for place in range(_DRAWS_PER_CANDIDATE * number):
        # uniform draws all but never come near the ends
        near_end = place % 2 and space.size > 1
        drawn[space.mutate(rng.choice(ends), rng, rng.random()) if near_end else space.sample(rng)] = None
    pool = list(drawn)
    latencies_ms = latency.predict_ms(pool)
    if budget_ms is not None:
        pool = [each for each, ms in zip(pool, latencies_ms, strict=True) if ms <= budget_ms]
        latencies_ms = latencies_ms[latencies_ms <= budget_ms]
    return [pool[place] for place in _evenly(np.log(latencies_ms), number)]


def _evenly(sizes: FloatArray, number: int) -> list[int]:
    """Up to `number` places, taken in turns from parts of equal width."""
    if not len(sizes):
        return []
    edges = np.linspace(sizes.min(), sizes.max(), _RANGES + 1)[1:-1]
    part_of = np.digitize(sizes, edges)
    turn_of = np.zeros(len(sizes), dtype=np.int64)
    for part in range(_RANGES):
        places = np.flatnonzero(part_of == part)
        turn_of[places] = np.arange(len(places))
    taken: Sequence[int] = np.lexsort((part_of, turn_of))[:number].tolist()
    return list(taken)
