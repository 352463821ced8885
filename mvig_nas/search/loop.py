"""The one search loop: propose, judge against the budget, score what fits, record, tell the sampler."""

import math
import platform
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import groupby, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvig_nas import kernels, values
from mvig_nas.architecture import FAMILY_PRESETS, Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.scores import Score
from mvig_nas.search.contracts import (
    FEASIBLE,
    STUDY_FILE,
    Candidate,
    Costs,
    Evaluator,
    Latency,
    Problem,
    Progress,
    Sampler,
)
from mvig_nas.search.evaluators.local import LocalEvaluator
from mvig_nas.search.samplers import resolve, sampler_of
from mvig_nas.search.search_settings import BATCH, SearchSettings, StudySettings
from mvig_nas.search.study import Study
from mvig_nas.search.turn import Judge, Turn, attainable
from mvig_nas.search_space import SearchSpace

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search import storage

# turns in a row that brought nothing new before the search helps the sampler out
_STALE_TURNS = 3
_FRESH_TRIES = 200


def kernel_costs(
    architecture: Architecture, num_classes: int = 1000, latency: "ArchitectureLatency | None" = None
) -> kernels.Totals:
    """What a user can limit: parameters and MACs counted as in papers, bytes as in the exported package.

    Where `latency` predicts backbones, they are counted without classifiers, at their size.
    """
    if latency is not None:
        built, exported = latency.totals(architecture), latency.totals(architecture, "exported")
    else:
        built = kernels.totals(kernels.of(architecture, num_classes=num_classes))
        exported = kernels.totals(kernels.of(architecture, "exported", num_classes))
    return replace(exported, parameters=built.parameters, macs=built.macs)


def search(
    space: SearchSpace,
    score: Score,
    latency: Latency,
    budget: Budget,
    *,
    folder: Path | None = None,
    resume: bool = False,
    evaluator: Evaluator | None = None,
    on_candidate: Callable[[Progress], None] | None = None,
    **settings: Any,
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
        folder: where the study is kept; without one it is only returned.
        resume: go on with the study in `folder`.
        evaluator: computes the scores, in place of this process; it changes nothing in the study but the order in which
            candidates of a turn are recorded.
        on_candidate: called after each new candidate.
        settings: entries of `SearchSettings` by name, such as `evaluations`, `sampler`, `seed` and `front`. `sampler`
            may also be a sampler object of Optuna's, whose study cannot be resumed, because its random numbers are its
            own. `costs` may give parameters, MACs and memory of an architecture in place of `kernel_costs`.

    Raises:
        MvigNasError: the space cannot meet the budget, a setting is unknown, out of range or differs from the resumed
            study's, the folder already holds a study, or it cannot be read or written.
    """
    began = time.monotonic()
    counted: dict[str, Any] = {"num_classes": getattr(latency, "num_classes", 1000)}
    if getattr(latency, "backbone_side", None) is not None:
        counted = {"latency": latency}
    costs: Costs = settings.pop("costs", partial(kernel_costs, **counted))
    sampler = settings.pop("sampler", SearchSettings.sampler)
    asked = values.changed(SearchSettings(), settings)
    if not budget.limits and not asked.front:
        raise MvigNasError("a search must have a budget, got none; give a latency such as 1.0ms, or trace the front.")
    if resume and folder is None:
        raise MvigNasError("`resume` must come with the folder of a study, got none; name it.")
    if resume and not isinstance(sampler, str):
        raise MvigNasError(
            "a resumed search must have a sampler by name, because the random numbers of a sampler object are "
            f"lost, got {type(sampler).__name__}; start anew in another folder."
        )
    with ExitStack() as open_files:
        journal = open_files.enter_context(closing(_journal(folder))) if resume and folder is not None else None
        earlier = None if journal is None or folder is None else Study.of(journal.study, folder)
        if earlier is not None and sampler == "auto":
            # another version may take another one for `auto`
            sampler = earlier.settings.sampler
        batch = asked.batch or (BATCH if earlier is None else earlier.settings.batch)
        own = StudySettings(
            **vars(asked) | {"sampler": resolve(sampler), "batch": batch or 1},
            space=space,
            score=score.name,
            budget=budget,
            versions={
                "mvig-nas": version("mvig-nas"),
                "optuna": version("optuna"),
                "python": platform.python_version(),
            },
        )
        if earlier is not None:
            earlier.settings.require_same(own)
            if own.evaluations < earlier.evaluated:
                raise MvigNasError(
                    "a resumed search must not ask for fewer evaluations than it has, "
                    f"{earlier.evaluated}, got {own.evaluations}; ask for more, or read the study as it is."
                )
        new_judge = partial(Judge, latency, costs, budget)
        anchor = attainable(space, new_judge())
        if folder is not None and journal is None:
            journal = open_files.enter_context(closing(_journal(folder, own)))
        run = _Run(
            settings=own,
            sampler=sampler_of(sampler, Problem(space, anchor, own.front, own.batch or 1)),
            evaluator=evaluator or LocalEvaluator(score),
            new_judge=new_judge,
            costs=costs,
            anchor=anchor,
            deadline=math.inf if own.time_limit_s is None else began + own.time_limit_s,
            journal=journal,
            on_candidate=on_candidate,
            recorded=[] if earlier is None else list(earlier.candidates),
        )
        if journal is not None:
            journal.begin(own.to_dict())
        ended = run.go()
        if journal is not None:
            journal.end(ended)
    study = Study(own, tuple(run.recorded), ended, folder)
    if folder is not None:
        study.write_candidates(folder)
    return study


def _journal(folder: Path, new: StudySettings | None = None) -> "storage.Journal":
    """The writer of the study in a folder; with settings, of a new study."""
    # imports optuna, a quarter of a second
    from mvig_nas.search import storage

    if new is not None:
        if (folder / STUDY_FILE).exists():
            raise MvigNasError(
                f"a new search must have a folder without a study, but {folder} holds one; go on with it by "
                "`--resume`, or take another `--out`."
            )
        storage.create(folder, new.to_dict(), new.front)
    return storage.Journal(folder)


@dataclass
class _Run:
    """One running search: what it has to do, who does it, and what is recorded, from which all else follows."""

    settings: StudySettings
    sampler: Sampler
    evaluator: Evaluator
    new_judge: Callable[[], Judge]
    costs: Costs
    anchor: Architecture  # fits the budget
    deadline: float
    journal: "storage.Journal | None"
    on_candidate: Callable[[Progress], None] | None
    recorded: list[Candidate]

    def __post_init__(self) -> None:
        self.turn_of = {candidate.architecture: candidate.round for candidate in self.recorded}
        self.evaluated = sum(candidate.is_evaluated for candidate in self.recorded)
        self.judged = sum({candidate.round: candidate.screened for candidate in self.recorded}.values())
        self.best = Study(self.settings, tuple(self.recorded)).winner

    def go(self) -> str:
        """Search until it is over, and return why it ended."""
        number = self.recorded[-1].round if self.recorded else 0
        # the last recorded turn may have been cut short: it is proposed again, and what is known of it skipped
        for _, known in groupby((c for c in self.recorded if c.round < number), key=lambda c: c.round):
            self.sampler.observe(sorted(known, key=lambda candidate: candidate.order))
        stale = 0
        while True:
            judge = self.new_judge()
            asked = self._asked(number, stale, judge)
            ended = self._is_over() if asked else "space exhausted"
            if ended is not None:
                return ended
            ended = self._play(self._turn(number, asked, judge))
            if ended is not None:
                return ended
            outcome = self._outcome(number)
            self.sampler.observe(outcome)
            stale = 0 if outcome else stale + 1
            number += 1

    def _asked(self, number: int, stale: int, judge: Judge) -> list[Architecture]:
        """The architectures that a turn proposes; none if the space has no other."""
        rng = random.Random(f"{self.settings.seed}/{number}")
        if number == 0:  # the published networks of this space, and one that is known to fit
            return [*(preset for preset in FAMILY_PRESETS.values() if preset in self.settings.space), self.anchor]
        return self.sampler.propose(rng, judge) if stale < _STALE_TURNS else self._unknown(rng)

    def _turn(self, number: int, asked: Sequence[Architecture], judge: Judge) -> Turn:
        # those of this turn that are recorded already are judged again, so that a resumed turn equals the whole one
        turn = Turn.judged(
            number, asked, judge, self.settings.coverage, lambda a: self.turn_of.get(a, number) != number
        )
        return replace(turn, proposals=tuple(each for each in turn.proposals if each.architecture not in self.turn_of))

    def _play(self, turn: Turn) -> str | None:
        """Score and record a turn, or as much of it as is allowed, and return why the search is then over, if it is."""
        turn, ended = self._allowed(turn)
        with closing(turn.scored(self.evaluator, self._is_late)) as scored:
            for proposal, outcome in scored:
                self._record(turn.candidate(len(self.recorded), proposal, outcome, self.costs))
        if self.journal is not None:
            self.journal.sync()
        is_whole = all(proposal.architecture in self.turn_of for proposal in turn.proposals)
        return ended if is_whole else "time limit"

    def _allowed(self, turn: Turn) -> tuple[Turn, str | None]:
        """The part of a turn that may be recorded before the search is over, and why it then is over, if it is."""
        scores = 0
        for count, proposal in enumerate(turn.proposals):
            ended = self._is_over(scores, count)
            if ended is not None:
                return replace(turn, proposals=turn.proposals[:count]), ended
            scores += proposal.verdict.fits
        return turn, None

    def _is_over(self, scores: int = 0, records: int = 0) -> str | None:
        """Why the search is over once so many more scores and records are made; None if it is not."""
        if self.evaluated + scores >= self.settings.evaluations:
            return "evaluations"
        if len(self.recorded) + records >= self.settings.most_candidates:
            return "candidates limit"
        if len(self.recorded) + records >= self.settings.space.size:
            return "space exhausted"
        return "time limit" if self._is_late() else None

    def _is_late(self) -> bool:
        """Whether the time is up, so that no further score may be begun."""
        return time.monotonic() >= self.deadline

    def _outcome(self, number: int) -> list[Candidate]:
        found = takewhile(lambda candidate: candidate.round == number, reversed(self.recorded))
        return sorted(found, key=lambda candidate: candidate.order)

    def _record(self, candidate: Candidate) -> None:
        if self.journal is not None:
            self.journal.append(candidate, self.settings.space)
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
                    candidate, self.best, self.evaluated, self.settings.evaluations, len(self.recorded), self.judged
                )
            )

    def _unknown(self, rng: random.Random) -> list[Architecture]:
        """An architecture that is not recorded yet, a small change of another one if possible; none if none is left."""
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
    return None if candidate.score is None else (candidate.compared[0], -candidate.compared[1])
