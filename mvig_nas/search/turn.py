"""One turn of a search: what was proposed is judged, scored and recorded; nothing in it changes."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from mvig_nas.architecture import Architecture
from mvig_nas.search.contracts import FAILED, FEASIBLE, INFEASIBLE, Candidate, Costs, Evaluator, Outcome, Verdict
from mvig_nas.search.verdict import Judge

IsOver = Callable[[], bool]


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
        """Judge what a sampler asked for, but for what an older turn recorded; positions count those too."""
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
        """What is recorded, as the search's candidate `number`; `costs` is asked only for what was scored."""
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
