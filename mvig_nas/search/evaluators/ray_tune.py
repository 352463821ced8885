"""The search's samplers for Ray Tune: architectures inside a budget, for trainables of your own, say short trainings.

`mvig-nas search --evaluator ray` has no need of this; see docs/cluster.md for which of the two to take.
"""

import json
import math
import random
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.search.contracts import FAILED, FEASIBLE, INFEASIBLE, Candidate, Latency, Problem, Verdict
from mvig_nas.search.loop import kernel_costs
from mvig_nas.search.samplers import resolve, sampler_of
from mvig_nas.search.turn import Judge, attainable
from mvig_nas.search_space import SearchSpace

ARCHITECTURE = "architecture"  # of a trial's config, as JSON
_TURNS = 20  # without anything new before the space is taken to be exhausted


class ArchitectureSearcher(Searcher):
    """Proposes different architectures that fit a budget; a trial's config is `{"architecture": JSON}`.

    The trainable reads it with `Architecture.from_json` and reports the metric, once or after every epoch; the last
    report counts, also of a trial that a scheduler such as ASHA has stopped. A trial that ends without one is a failed
    candidate. What Tune asks for while trials run depends on which ended first, and so does the search.

    Args:
        space: the choices.
        latency: predicts milliseconds.
        budget: limits that every proposal keeps.
        metric: what trials report, to be maximised.
        sampler: as in `study.search`.
        seed: of the proposals.

    Raises:
        MvigNasError: the space cannot meet the budget, or no such sampler.
    """

    def __init__(
        self,
        space: SearchSpace,
        latency: Latency,
        budget: Budget,
        *,
        metric: str,
        sampler: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(metric=metric, mode="max")
        self._new_judge = partial(Judge, latency, kernel_costs, budget)
        self._space = space
        self._seed = seed
        self._sampler = sampler_of(resolve(sampler), Problem(space, attainable(space, self._new_judge())))
        self._queue: deque[Architecture] = deque()
        self._turn = 0
        self._running: dict[str, Architecture] = {}
        self._told: list[tuple[Architecture, float | None]] = []
        self._known: set[Architecture] = set()

    def suggest(self, trial_id: str) -> Any:
        """A config with the next architecture, or `Searcher.FINISHED` where the space has no other."""
        for _ in range(_TURNS):
            if self._queue:
                architecture = self._queue.popleft()
                self._running[trial_id] = architecture
                return {ARCHITECTURE: architecture.to_json()}
            self._propose()
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn what came of a trial."""
        architecture = self._running.pop(trial_id, None)
        if architecture is None:
            return
        value = None if error or result is None else result.get(self.metric)
        is_score = isinstance(value, int | float) and math.isfinite(value)
        self._tell(architecture, float(value) if is_score and value is not None else None)

    def save(self, checkpoint_path: str) -> None:
        """Write what was learnt; trials that run are proposed again."""
        values = {
            "turn": self._turn,
            "told": [[architecture.to_dict(), score] for architecture, score in self._told],
            "open": [architecture.to_dict() for architecture in (*self._running.values(), *self._queue)],
        }
        Path(checkpoint_path).write_text(json.dumps(values), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """What `save` wrote, into a searcher of the same arguments."""
        values = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        for entry, score in values["told"]:
            self._known.add(Architecture.from_dict(entry))
            self._tell(Architecture.from_dict(entry), score)
        self._turn = values["turn"]
        self._queue = deque(Architecture.from_dict(entry) for entry in values["open"])
        self._known.update(self._queue)

    def _propose(self) -> None:
        rng = random.Random(f"{self._seed}/{self._turn}")
        self._turn += 1
        judge = self._new_judge()
        proposals = [each for each in dict.fromkeys(self._sampler.propose(rng, judge)) if each not in self._known]
        if not proposals:  # a change of something known, as a search helps itself out
            known = sorted(self._known, key=lambda each: each.fingerprint)
            changed = (self._space.mutate(rng.choice(known), rng) for _ in range(_TURNS)) if known else ()
            proposals = [each for each in dict.fromkeys(changed) if each not in self._known]
        rejected = []
        for architecture, verdict in zip(proposals, judge(proposals), strict=True):
            self._known.add(architecture)
            if verdict.fits:
                self._queue.append(architecture)
            else:
                rejected.append(self._candidate(architecture, verdict, INFEASIBLE, None))
        if rejected:
            self._sampler.observe(rejected)

    def _tell(self, architecture: Architecture, score: float | None) -> None:
        self._told.append((architecture, score))
        (verdict,) = self._new_judge()([architecture])
        state = FAILED if score is None else FEASIBLE
        self._sampler.observe([self._candidate(architecture, verdict, state, score)])

    def _candidate(self, architecture: Architecture, verdict: Verdict, state: str, score: float | None) -> Candidate:
        return Candidate(
            number=len(self._told),
            round=len(self._told),
            architecture=architecture,
            state=state,
            latency_ms=verdict.latency_ms,
            violations=verdict.violations,
            screened=1,
            score=score,
        )


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The architecture of a trial's config.

    Raises:
        MvigNasError: the config has none.
    """
    if ARCHITECTURE not in config:
        raise MvigNasError(
            f"a trial's config must have {ARCHITECTURE!r}, got {sorted(config)}; search with our searcher."
        )
    return Architecture.from_json(config[ARCHITECTURE])
