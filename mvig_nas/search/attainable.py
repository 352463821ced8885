"""What a space can reach: an architecture that fits a budget, or the least that the budget would have to be."""

import math
from collections.abc import Callable

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.search.contracts import Judge
from mvig_nas.search_space import SearchSpace

_STEPS = 50


def attainable(space: SearchSpace, judge: Judge) -> Architecture:
    """An architecture that fits: `space.smallest`, or what a descent from it over single changes finds.

    Raises:
        MvigNasError: none is found; names the limit, the least that the space reaches, and by which architecture.
    """
    start = space.smallest
    (verdict,) = judge([start])
    if verdict.fits:
        return start
    found = _descend(space, judge, start, lambda verdict: verdict.excess)
    if judge([found])[0].fits:
        return found
    for name in judge.budget.limits:
        least = _descend(space, judge, found, lambda verdict, name=name: verdict.violations[name])
        excess = judge([least])[0].violations[name]
        if excess > 0:
            raise MvigNasError(_out_of_reach(space, judge, name, least))
    limits = ", ".join(f"{name} {limit:g}" for name, limit in judge.budget.limits.items())
    raise MvigNasError(
        f"a budget must be within the space's reach, but no architecture of {space.name!r} was found that meets "
        f"{limits} together, though each alone can be met; loosen one of them."
    )


def _descend(space: SearchSpace, judge: Judge, start: Architecture, cost: Callable[..., float]) -> Architecture:
    best, least = start, cost(judge([start])[0])
    for _ in range(_STEPS):
        if least <= 0:
            break
        neighbours = space.neighbours(best)
        costs = [cost(verdict) for verdict in judge(neighbours)]
        index = min(range(len(costs)), key=costs.__getitem__, default=-1)
        if index < 0 or costs[index] >= least:
            break
        best, least = neighbours[index], costs[index]
    return best


def _out_of_reach(space: SearchSpace, judge: Judge, name: str, least: Architecture) -> str:
    limit = judge.budget.limits[name]
    reached = limit * (1 + judge([least])[0].violations[name])
    if name == "latency_ms":
        bound = "" if judge.budget.confidence is None else f" with confidence {judge.budget.confidence:g}"
        # rounded up, so that the advice holds when it is followed
        advice = f"{math.ceil(reached * 1e3) / 1e3:.3f}ms"
        return (
            f"the latency budget must be within the space's reach, got {limit:g}ms: the fastest architecture found in "
            f"{space.name!r} takes {reached:.4f}ms{bound} (fingerprint {least.fingerprint}); ask for {advice} or more, "
            f"or take another space. It is {least.to_json()}"
        )
    return (
        f"the budget `{name}` must be within the space's reach, got {limit:g}: the least found in {space.name!r} is "
        f"{math.ceil(reached)} (architecture {least.fingerprint}); ask for that or more, or take another space."
    )
