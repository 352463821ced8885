"""The one search loop: propose, judge against the budget, score what fits, record, tell the sampler."""

import math
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import groupby, takewhile
from pathlib import Path

from mvig_nas import kernels
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.search import storage
from mvig_nas.search.attainable import attainable
from mvig_nas.search.contracts import (
    FAILED,
    FEASIBLE,
    INFEASIBLE,
    Alone,
    Candidate,
    Costs,
    Evaluator,
    Judge,
    Latency,
    Outcome,
    Problem,
    Score,
    Verdict,
)
from mvig_nas.search.samplers.registry import resolve, sampler_of
from mvig_nas.search.study import Settings, Study
from mvig_nas.search_space import SearchSpace

# turns in a row that brought nothing new before the search helps the sampler out
_STALE_TURNS = 3
_FRESH_TRIES = 200


@dataclass(frozen=True)
class Progress:
    """Where a search stands, after each new candidate."""

    candidate: Candidate
    best: Candidate | None
    evaluated: int
    evaluations: int
    recorded: int
    judged: int


def kernel_costs(architecture: Architecture) -> kernels.Totals:
    """What a user can limit: parameters and MACs counted as in papers, bytes as in the exported package."""
    built = kernels.totals(kernels.of(architecture))
    exported = kernels.totals(kernels.of(architecture, "exported"))
    return replace(exported, parameters=built.parameters, macs=built.macs)


def search(
    space: SearchSpace,
    score: Score,
    latency: Latency,
    budget: Budget,
    *,
    evaluations: int,
    sampler: str = "auto",
    seed: int = 0,
    front: bool = False,
    folder: Path | None = None,
    resume: bool = False,
    evaluator: Evaluator | None = None,
    batch: int = 1,
    costs: Costs = kernel_costs,
    candidates_limit: int | None = None,
    time_limit_s: float | None = None,
    coverage: float = 0.8,
    labels: Mapping[str, str] | None = None,
    on_candidate: Callable[[Progress], None] | None = None,
) -> Study:
    """Find the architecture of the highest score inside a budget; with `front`, the whole score/latency front.

    Every proposal is judged first: one that violates the budget is recorded without a score. No architecture is scored
    twice. The presets that the space holds and an architecture that fits are proposed first, whatever the sampler.
    A score that is not finite, or that raises MvigNasError, makes a `failed` candidate, which counts as an evaluation.

    With a `folder`, each candidate is durable as soon as it is recorded; a search that was killed there and resumed
    finds what it would have found uninterrupted. KeyboardInterrupt is passed on, with everything saved.

    Args:
        space: the choices.
        score: what to maximise.
        latency: predicts milliseconds.
        budget: limits; may be empty only with `front`.
        evaluations: scores to compute, those of an earlier, now resumed run included.
        sampler: `auto`, or a name of `SAMPLERS`.
        seed: the same seed and settings give the same study.
        front: trace the front up to the budget instead of one winner.
        evaluator: computes the scores, in place of this process.
        batch: proposals a turn at least, so that an evaluator of several workers has enough to do. Another batch is
            another search; the evaluator is not, whatever is ready first.
        folder: where the study is kept; without one it is only returned.
        resume: go on with the study in `folder`.
        costs: parameters, MACs and memory of an architecture.
        candidates_limit: recorded candidates, rejected ones included; default 20 per evaluation and 1,000 more.
        time_limit_s: seconds after which no score is begun.
        coverage: of the latency interval that is recorded with each feasible candidate.
        labels: settings of the caller's that must be the same when resumed, e.g. the device.
        on_candidate: called after each new candidate.

    Raises:
        MvigNasError: the space cannot meet the budget, a setting is out of range or differs from the resumed study's,
            the folder already holds a study, or it cannot be read or written.
    """
    began = time.monotonic()
    if evaluations < 1:
        raise MvigNasError(f"`evaluations` must be at least 1, got {evaluations}; 200 is a usual number.")
    if not budget.limits and not front:
        raise MvigNasError("a search must have a budget, got none; give a latency such as 1.0ms, or trace the front.")
    if batch < 1:
        raise MvigNasError(f"`batch` must be at least 1, got {batch}; twice the number of workers is usual.")
    if resume and folder is None:
        raise MvigNasError("`resume` must come with the folder of a study, got none; name it.")
    recorded: list[Candidate] = []
    if resume and folder is not None:
        earlier = Study.load(folder)
        recorded.extend(earlier.candidates)
        # another version may take another one for `auto`
        sampler = earlier.settings.sampler if sampler == "auto" else sampler
    settings = Settings(
        space=space,
        score=score.name,
        budget=budget,
        evaluations=evaluations,
        sampler=resolve(sampler),
        seed=seed,
        front=front,
        batch=batch,
        candidates_limit=20 * evaluations + 1000 if candidates_limit is None else candidates_limit,
        time_limit_s=time_limit_s,
        labels=dict(labels or {}),
        versions={"mvig-nas": version("mvig-nas"), "optuna": version("optuna"), "python": platform.python_version()},
    )
    if resume:
        earlier.settings.require_same(settings)
        if evaluations < earlier.evaluated:
            raise MvigNasError(
                f"a resumed search must not ask for fewer evaluations than it has, {earlier.evaluated}, got "
                f"{evaluations}; ask for more, or read the study as it is."
            )
    judge = Judge(latency, costs, budget)
    anchor = attainable(space, judge)
    journal = None if folder is None else _journal_of(folder, settings, resume)
    run = _Run(
        settings=settings,
        evaluator=evaluator or Alone(score),
        judge=judge,
        anchor=anchor,
        coverage=coverage,
        journal=journal,
        on_candidate=on_candidate,
        deadline=math.inf if time_limit_s is None else began + time_limit_s,
        recorded=recorded,
    )
    ended: str | None = None
    try:
        ended = run.go()
        if journal is not None:
            journal.end(ended)
    finally:
        study = Study(settings, tuple(run.recorded), ended, folder)
        if journal is not None:
            journal.close()
    if folder is not None:
        study.write_candidates(folder)
    return study


def _journal_of(folder: Path, settings: Settings, resume: bool) -> storage.Journal:
    if not resume:
        if (folder / storage.FILE_NAME).exists():
            raise MvigNasError(
                f"a new search must have a folder without a study, but {folder} holds one; go on with it by "
                "`--resume`, or take another `--out`."
            )
        storage.create(folder, settings.to_dict(), settings.front)
    journal = storage.Journal(folder, settings.space, settings.front)
    if resume:
        journal.note_settings(settings.to_dict())
    return journal


class _Run:
    """State of one running search; all of it follows from the settings and what is recorded."""

    def __init__(
        self,
        *,
        settings: Settings,
        evaluator: Evaluator,
        judge: Judge,
        anchor: Architecture,
        coverage: float,
        journal: storage.Journal | None,
        on_candidate: Callable[[Progress], None] | None,
        deadline: float,
        recorded: list[Candidate],
    ) -> None:
        self.settings = settings
        self.evaluator = evaluator
        self.judge = judge
        self.anchor = anchor
        self.coverage = coverage
        self.journal = journal
        self.on_candidate = on_candidate
        self.deadline = deadline
        self.recorded = recorded
        self.turn_of = {candidate.architecture: candidate.round for candidate in recorded}
        self.evaluated = sum(candidate.is_evaluated for candidate in recorded)
        self.judged = sum({candidate.round: candidate.screened for candidate in recorded}.values())
        self.best = Study(settings, tuple(recorded)).winner

    def go(self) -> str:
        """Search until done; says why it ended."""
        settings = self.settings
        sampler = sampler_of(
            settings.sampler, Problem(settings.space, self.judge, self.anchor, settings.front, settings.batch)
        )
        turn = self.recorded[-1].round if self.recorded else 0
        # the last recorded turn may have been cut short: it is proposed again, and what is known of it skipped
        for _, known in groupby((c for c in self.recorded if c.round < turn), key=lambda c: c.round):
            sampler.observe(sorted(known, key=lambda candidate: candidate.order))
        stale = 0
        while True:
            rng = random.Random(f"{settings.seed}/{turn}")
            self.judge.start_turn()
            proposals: Sequence[Architecture]
            if turn == 0:
                proposals = self._first()
            elif stale < _STALE_TURNS:
                proposals = sampler.propose(rng)
            else:
                proposals = self._unknown(rng)
                if not proposals:
                    return "space exhausted"
            reason = self._evaluate(turn, proposals)
            if reason is not None:
                return reason
            outcome = self._outcome(turn)
            sampler.observe(outcome)
            stale = 0 if outcome else stale + 1
            turn += 1

    def _outcome(self, turn: int) -> list[Candidate]:
        found = takewhile(lambda candidate: candidate.round == turn, reversed(self.recorded))
        return sorted(found, key=lambda candidate: candidate.order)

    def _first(self) -> list[Architecture]:
        """Proposed before the sampler is asked: the published networks of this space, and one that is known to fit."""
        return [*(preset for preset in PRESETS.values() if preset in self.settings.space), self.anchor]

    def _evaluate(self, turn: int, proposals: Sequence[Architecture]) -> str | None:
        """Judge, score and record what is new among the proposals; says why the search is over, if it is."""
        reason = self._is_over()
        if reason is not None:
            return reason
        # those of this turn that are recorded already are judged again, so that a resumed turn equals the whole one
        fresh = [a for a in dict.fromkeys(proposals) if self.turn_of.get(a, turn) == turn]
        verdicts = self.judge(fresh)
        screened = self.judge.screened
        fitting = [a for a, verdict in zip(fresh, verdicts, strict=True) if verdict.fits]
        intervals = {}
        if fitting:
            low, high = self.judge.latency.interval_ms(fitting, self.coverage)
            intervals = {a: (float(lo), float(hi)) for a, lo, hi in zip(fitting, low, high, strict=True)}
        reason, due = self._due(fresh, verdicts)
        position_of = {architecture: position for position, architecture in enumerate(dict.fromkeys(proposals))}
        verdict_of = dict(zip(fresh, verdicts, strict=True))

        def record(architecture: Architecture, outcome: Outcome | None) -> None:
            candidate = self._candidate(
                architecture,
                verdict_of[architecture],
                outcome,
                intervals.get(architecture),
                turn=turn,
                position=position_of[architecture],
                screened=screened,
            )
            self._record(candidate)

        rejected = [architecture for architecture in due if not verdict_of[architecture].fits]
        with closing(self.evaluator([a for a in due if verdict_of[a].fits], self._is_late)) as outcomes:
            for outcome in outcomes:
                while rejected and position_of[rejected[0]] < position_of[outcome.architecture]:
                    record(rejected.pop(0), None)
                record(outcome.architecture, outcome)
        for architecture in rejected:
            record(architecture, None)
        return reason if all(architecture in self.turn_of for architecture in due) else "time limit"

    def _due(self, fresh: Sequence[Architecture], verdicts: Sequence[Verdict]) -> tuple[str | None, list[Architecture]]:
        """Those to be recorded before the search is over, and why it then is, if they are not all."""
        due: list[Architecture] = []
        scores = 0
        for architecture, verdict in zip(fresh, verdicts, strict=True):
            if architecture not in self.turn_of:
                reason = self._is_over(scores, len(due))
                if reason is not None:
                    return reason, due
                due.append(architecture)
                scores += verdict.fits
        return None, due

    def _is_over(self, scores: int = 0, records: int = 0) -> str | None:
        """Why the search is over, once so many more are scored and recorded."""
        if self.evaluated + scores >= self.settings.evaluations:
            return "evaluations"
        if len(self.recorded) + records >= self.settings.candidates_limit:
            return "candidates limit"
        if len(self.recorded) + records >= self.settings.space.size:
            return "space exhausted"
        return "time limit" if self._is_late() else None

    def _is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def _candidate(
        self,
        architecture: Architecture,
        verdict: Verdict,
        outcome: Outcome | None,
        interval_ms: tuple[float, float] | None,
        *,
        turn: int,
        position: int,
        screened: int,
    ) -> Candidate:
        totals = verdict.totals
        if outcome is None:
            state = INFEASIBLE
        else:
            totals = totals or self.judge.costs(architecture)
            state = FAILED if outcome.score is None else FEASIBLE
        return Candidate(
            number=len(self.recorded),
            round=turn,
            architecture=architecture,
            state=state,
            latency_ms=verdict.latency_ms,
            violations=verdict.violations,
            screened=screened,
            score=None if outcome is None else outcome.score,
            interval_ms=interval_ms,
            totals=totals,
            seconds=0.0 if outcome is None else outcome.seconds,
            reason=None if outcome is None else outcome.reason,
            position=position,
        )

    def _record(self, candidate: Candidate) -> None:
        if self.journal is not None:
            self.journal.append(candidate)
        if not self.recorded or self.recorded[-1].round != candidate.round:
            self.judged += candidate.screened
        self.recorded.append(candidate)
        self.turn_of[candidate.architecture] = candidate.round
        self.evaluated += candidate.is_evaluated
        rank = _rank(candidate)
        if rank is not None and (self.best is None or rank > (_rank(self.best) or rank)):
            self.best = candidate
        if self.on_candidate is not None:
            self.on_candidate(
                Progress(
                    candidate=candidate,
                    best=self.best,
                    evaluated=self.evaluated,
                    evaluations=self.settings.evaluations,
                    recorded=len(self.recorded),
                    judged=self.judged,
                )
            )

    def _unknown(self, rng: random.Random) -> list[Architecture]:
        """An architecture that is not recorded yet, a small change of another if possible; [] if none is left."""
        space = self.settings.space
        ordered = sorted(self.recorded, key=lambda candidate: candidate.order)
        parents = [c.architecture for c in ordered if c.state == FEASIBLE] or [self.anchor]
        for _ in range(_FRESH_TRIES):
            child = space.mutate(rng.choice(parents), rng)
            if child not in self.turn_of:
                return [child]
        # neighbours connect the whole space, so that nothing is missed
        for candidate in rng.sample(ordered, len(ordered)):
            for neighbour in space.neighbours(candidate.architecture):
                if neighbour not in self.turn_of:
                    return [neighbour]
        return []


def _rank(candidate: Candidate) -> tuple[float, float] | None:
    return None if candidate.score is None else (candidate.score, -candidate.latency_ms)
