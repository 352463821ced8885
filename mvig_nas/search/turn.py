"""One turn of a search: what was proposed is judged against the budget, scored and recorded; nothing in it changes."""

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.search.contracts import (
    FAILED,
    FEASIBLE,
    INFEASIBLE,
    Candidate,
    Costs,
    Evaluator,
    Latency,
    Outcome,
    Verdict,
)
from mvig_nas.search_space import SearchSpace

IsOver = Callable[[], bool]
_STEPS = 50

# Budget's name for a limit -> Totals' name for the cost
_TOTAL_OF = {
    "parameters": "parameters",
    "macs": "macs",
    "memory_bytes": "peak_activation_bytes",
    "weight_bytes": "weight_bytes",
}


class Judge:
    """Holds architectures against a budget, in batches; one for each turn of a search, which remembers what it saw."""

    def __init__(self, latency: Latency, costs: Costs, budget: Budget) -> None:
        self.latency = latency
        self.costs = costs
        self.budget = budget
        self._limits = budget.limits
        self._needs_totals = any(name in _TOTAL_OF for name in self._limits)
        self._seen: dict[Architecture, Verdict] = {}

    @property
    def screened(self) -> int:
        """The number of different architectures that were judged."""
        return len(self._seen)

    def __call__(self, architectures: Sequence[Architecture]) -> list[Verdict]:
        """A verdict for each architecture.

        Raises:
            MvigNasError: a predicted latency is not a positive finite number.
        """
        new = [a for a in dict.fromkeys(architectures) if a not in self._seen]
        if new:
            latencies_ms = np.asarray(self.latency.predict_ms(new), dtype=np.float64)
            held_ms = latencies_ms
            if self.budget.confidence is not None:
                held_ms = self.latency.interval_ms(new, 2 * self.budget.confidence - 1)[1]
            for architecture, latency_ms, at_most_ms in zip(
                new, latencies_ms.tolist(), np.asarray(held_ms).tolist(), strict=True
            ):
                self._seen[architecture] = self._verdict(architecture, latency_ms, at_most_ms)
        return [self._seen[architecture] for architecture in architectures]

    def _verdict(self, architecture: Architecture, latency_ms: float, at_most_ms: float) -> Verdict:
        if not (math.isfinite(latency_ms) and latency_ms > 0 and math.isfinite(at_most_ms)):
            raise MvigNasError(
                f"a predicted latency must be a positive number of milliseconds, got {latency_ms} for architecture "
                f"{architecture.fingerprint}; check the predictor."
            )
        totals = self.costs(architecture) if self._needs_totals else None
        violations = {
            name: (at_most_ms if name == "latency_ms" else getattr(totals, _TOTAL_OF[name])) / limit - 1.0
            for name, limit in self._limits.items()
        }
        return Verdict(latency_ms, violations, totals)


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
            "or take another space."
        )
    return (
        f"the budget `{name}` must be within the space's reach, got {limit:g}: the least found in {space.name!r} is "
        f"{math.ceil(reached)} (architecture {least.fingerprint}); ask for that or more, or take another space."
    )


@dataclass(frozen=True)
class Proposal:
    """An architecture that a turn proposed as number `position`, judged; those that fit have a latency interval."""

    architecture: Architecture
    position: int
    verdict: Verdict
    interval_ms: tuple[float, float] | None


@dataclass(frozen=True)
class Turn:
    """The judged proposals of one turn, each once, in their order; `screened` counts all that were judged in it."""

    number: int
    proposals: tuple[Proposal, ...]
    screened: int

    @classmethod
    def judged(
        cls,
        number: int,
        asked: Sequence[Architecture],
        judge: Judge,
        coverage: float,
        is_older: Callable[[Architecture], bool],
    ) -> "Turn":
        """Judge what a sampler asked for, without what an older turn recorded, though positions count that too."""
        position_of = {architecture: position for position, architecture in enumerate(dict.fromkeys(asked))}
        fresh = [architecture for architecture in position_of if not is_older(architecture)]
        verdict_of = dict(zip(fresh, judge(fresh), strict=True))
        fitting = [architecture for architecture, verdict in verdict_of.items() if verdict.fits]
        interval_of: dict[Architecture, tuple[float, float]] = {}
        if fitting:
            low, high = judge.latency.interval_ms(fitting, coverage)
            interval_of = {a: (float(lo), float(hi)) for a, lo, hi in zip(fitting, low, high, strict=True)}
        proposals = tuple(
            Proposal(architecture, position_of[architecture], verdict, interval_of.get(architecture))
            for architecture, verdict in verdict_of.items()
        )
        return cls(number, proposals, judge.screened)

    def scored(self, evaluator: Evaluator, is_late: IsOver) -> Generator[tuple[Proposal, Outcome | None]]:
        """Each proposal as its outcome becomes ready; those that do not fit come in their order, without an outcome."""
        rejected = deque(proposal for proposal in self.proposals if not proposal.verdict.fits)
        fitting = {proposal.architecture: proposal for proposal in self.proposals if proposal.verdict.fits}
        with closing(evaluator(list(fitting), is_late)) as outcomes:
            for outcome in outcomes:
                proposal = fitting[outcome.architecture]
                while rejected and rejected[0].position < proposal.position:
                    yield rejected.popleft(), None
                yield proposal, outcome
        for proposal in rejected:
            yield proposal, None

    def candidate(self, number: int, proposal: Proposal, outcome: Outcome | None, costs: Costs) -> Candidate:
        """What is recorded of a proposal, as candidate `number`; `costs` is called only for what was scored."""
        verdict = proposal.verdict
        known = Candidate(
            number=number,
            round=self.number,
            architecture=proposal.architecture,
            state=INFEASIBLE,
            latency_ms=verdict.latency_ms,
            violations=verdict.violations,
            screened=self.screened,
            interval_ms=proposal.interval_ms,
            totals=verdict.totals,
            position=proposal.position,
        )
        if outcome is None:
            return known
        return replace(
            known,
            state=FAILED if outcome.score is None else FEASIBLE,
            score=outcome.score,
            totals=verdict.totals or costs(proposal.architecture),
            seconds=outcome.seconds,
            reason=outcome.reason,
        )
