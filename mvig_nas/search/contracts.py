"""What scores, latencies, samplers and evaluators must do for a search, and the values that they hand to each other.

A sampler sees networks only as values. It is a function of what it observed and of the random numbers it is handed, so
a search that was killed and resumed goes on as if nothing had happened.
"""

import math
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvig_nas.architecture import Architecture
from mvig_nas.kernels import Totals
from mvig_nas.search_space import SearchSpace

FEASIBLE = "feasible"
INFEASIBLE = "infeasible"
FAILED = "failed"

STUDY_FILE = "study.journal"

FloatArray = NDArray[np.float64]
Costs = Callable[[Architecture], Totals]


class Latency(Protocol):
    """Predicted milliseconds at batch 1 on one device."""

    def predict_ms(self, architectures: Sequence[Architecture]) -> FloatArray: ...

    def interval_ms(self, architectures: Sequence[Architecture], coverage: float) -> tuple[FloatArray, FloatArray]: ...


@dataclass(frozen=True)
class Outcome:
    """What came of scoring an architecture: a finite score, or the reason why there is none."""

    architecture: Architecture
    score: float | None
    seconds: float
    reason: str | None = None


class Evaluator(Protocol):
    """Computes scores, of several architectures at once if it can."""

    @property
    def name(self) -> str:
        """The name of the score that is computed."""

    def __call__(self, architectures: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        """One outcome for each architecture, as they become ready; none is begun once `is_over` is true.

        A score that cannot be computed is an outcome with a reason. What is under way when the generator is closed
        is given up.
        """


@dataclass(frozen=True)
class Candidate:
    """One recorded architecture. Only `feasible` ones have a score; `failed` ones fit the budget, but have none.

    `violations` holds, for every limit of the budget, cost over limit minus 1: above 0 is violated. `round` is the
    turn that proposed it, `position` its index among the turn's proposals, `screened` the number of architectures
    judged in that turn, this one included.
    """

    number: int
    round: int
    architecture: Architecture
    state: str
    latency_ms: float
    violations: Mapping[str, float]
    screened: int
    score: float | None = None
    interval_ms: tuple[float, float] | None = None
    totals: Totals | None = None
    seconds: float = 0.0
    reason: str | None = None
    position: int = 0

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the architecture."""
        return self.architecture.fingerprint

    @cached_property
    def compared(self) -> tuple[float, float]:
        """Score (-infinity without one) and latency as they are compared, the latency rounded to 12 digits.

        The last digits of a latency differ between numbers of threads, which is no reason for another winner. Scores
        are not rounded: good networks may differ as little as one network does between kinds of processor.
        """
        return -math.inf if self.score is None else self.score, float(f"{self.latency_ms:.12g}")

    @property
    def order(self) -> tuple[int, int]:
        """Turn and position: an order that does not depend on which score was ready first."""
        return self.round, self.position

    @property
    def is_evaluated(self) -> bool:
        """Whether a score was computed for it, be it in vain."""
        return self.state != INFEASIBLE

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        totals = self.totals
        return {
            "number": self.number,
            "fingerprint": self.fingerprint,
            "state": self.state,
            "score": self.score,
            "latency_ms": self.latency_ms,
            "interval_ms": self.interval_ms,
            "violations": dict(self.violations),
            "totals": None if totals is None else {name: getattr(totals, name) for name in Totals.__slots__},
            "seconds": self.seconds,
            "reason": self.reason,
            "round": self.round,
            "architecture": self.architecture.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The costs of an architecture, held against a budget; `totals` is None where the budget does not need it."""

    latency_ms: float
    violations: Mapping[str, float]
    totals: Totals | None

    @property
    def fits(self) -> bool:
        """Whether no limit is violated."""
        return all(excess <= 0 for excess in self.violations.values())

    @property
    def excess(self) -> float:
        """The sum of how far limits are exceeded, as fractions of the limits; 0 if it fits."""
        return sum(max(excess, 0.0) for excess in self.violations.values())


@dataclass(frozen=True)
class Progress:
    """Where a search stands, after each new candidate."""

    candidate: Candidate
    best: Candidate | None
    evaluated: int
    evaluations: int
    recorded: int
    judged: int


Verdicts = Callable[[Sequence[Architecture]], Sequence[Verdict]]


@dataclass(frozen=True)
class Problem:
    """What a sampler works on: the space, an architecture that fits, and whether a front is asked for.

    `batch` is how many proposals a turn should have at least, for those who score several at once.
    """

    space: SearchSpace
    anchor: Architecture
    front: bool = False
    batch: int = 1


class Sampler(Protocol):
    """Proposes architectures.

    The search calls `propose` once a turn, then `observe` once with the turn's new candidates (none, if all proposals
    were known or the turn was the last). Candidates that no proposal of this sampler led to are observed as well.
    """

    def propose(self, rng: random.Random, judge: Verdicts) -> list[Architecture]:
        """At least one architecture of the space; depends on nothing but what was observed and `rng`.

        `judge` tells of any architectures whether they fit the budget.
        """

    def observe(self, candidates: Sequence[Candidate]) -> None:
        """Learn what came of a turn."""


def sample_fitting(problem: Problem, judge: Verdicts, rng: random.Random, tries: int = 32) -> Architecture:
    """An architecture that fits: a uniform draw where one of them fits, else a draw that is moved towards the anchor.

    The move takes the anchor's values for as few parameters, in random order, as it needs.
    """
    draws = [problem.space.sample(rng) for _ in range(tries)]
    for draw, verdict in zip(draws, judge(draws), strict=True):
        if verdict.fits:
            return draw
    values = problem.space.encode(draws[0])
    towards = problem.space.encode(problem.anchor)
    steps = []
    for name in rng.sample(sorted(values), len(values)):
        values = values | {name: towards[name]}
        steps.append(problem.space.decode(values))
    for step, verdict in zip(steps, judge(steps), strict=True):
        if verdict.fits:
            return step
    return problem.anchor
