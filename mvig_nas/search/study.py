"""Study: the settings and every recorded candidate of one search, as a value; read back from its folder."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mvig_nas.errors import MvigNasError
from mvig_nas.files import write_whole
from mvig_nas.search.contracts import FEASIBLE, INFEASIBLE, STUDY_FILE, Candidate
from mvig_nas.search.search_settings import StudySettings

if TYPE_CHECKING:
    import optuna

    from mvig_nas.search.samplers.surrogate import PredictorError

CANDIDATES_FILE = "candidates.jsonl"


@dataclass(frozen=True)
class Study:
    """Every recorded candidate, in the order of the search.

    `ended` says why the search stopped: "evaluations", "space exhausted", "candidates limit" or "time limit"; None if
    it was interrupted and can be resumed.
    """

    settings: StudySettings
    candidates: tuple[Candidate, ...]
    ended: str | None = None
    folder: Path | None = None

    @cached_property
    def winner(self) -> Candidate | None:
        """The feasible candidate of highest score; of equal ones the fastest, then the first; None if there is none."""
        feasible = [candidate for candidate in self.candidates if candidate.score is not None]
        return max(feasible, key=_rank, default=None)

    @cached_property
    def front(self) -> tuple[Candidate, ...]:
        """The feasible candidates that no other beats in both score and latency, fastest first."""
        return tuple(pareto_front(self.candidates))

    @cached_property
    def best_so_far(self) -> tuple[float | None, ...]:
        """The best score after each evaluation; None before the first success."""
        series: list[float | None] = []
        best: float | None = None
        for candidate in self.candidates:
            if candidate.state == FEASIBLE and candidate.score is not None:
                best = candidate.score if best is None else max(best, candidate.score)
            if candidate.state != INFEASIBLE:
                series.append(best)
        return tuple(series)

    @cached_property
    def predictor_error(self) -> "PredictorError | None":
        """The error of the Gaussian process on these candidates, each left out in turn; `surrogate.leave_one_out`."""
        # imports scipy
        from mvig_nas.search.samplers.surrogate import leave_one_out

        return leave_one_out(self.settings.space, self.candidates)

    @property
    def evaluated(self) -> int:
        """The number of candidates for which a score was computed, failures included."""
        return sum(candidate.is_evaluated for candidate in self.candidates)

    @property
    def judged(self) -> int:
        """The number of architectures held against the budget, also those that a sampler left out unrecorded."""
        return sum({candidate.round: candidate.screened for candidate in self.candidates}.values())

    @classmethod
    def load(cls, folder: Path) -> "Study":
        """The study of a run folder, finished or not.

        Raises:
            MvigNasError: there is none, it is damaged or of a newer version.
        """
        # imports optuna, a quarter of a second
        from mvig_nas.search import storage

        return cls.of(storage.read(folder), folder)

    @classmethod
    def of(cls, kept: "optuna.Study", folder: Path) -> "Study":
        """The study that Optuna has kept in a run folder.

        Raises:
            MvigNasError: it is damaged or of a newer version.
        """
        from mvig_nas.search import storage

        path = folder / STUDY_FILE
        settings = StudySettings.from_dict(storage.settings_of(kept, path))
        trials = kept.get_trials(deepcopy=False)
        candidates = tuple(storage.candidate_of(trial, settings.space, path) for trial in trials)
        storage.require_intact(kept, path)
        return cls(settings, candidates, kept.user_attrs.get(storage.ENDED), folder)

    def write_candidates(self, folder: Path) -> Path:
        """Write `candidates.jsonl`: one JSON object a candidate, for people and other programs.

        Raises:
            MvigNasError: the folder cannot be written.
        """
        path = folder / CANDIDATES_FILE
        lines = "".join(json.dumps(candidate.to_dict()) + "\n" for candidate in self.candidates)
        try:
            write_whole(path, lines.encode())
        except OSError as error:
            raise MvigNasError(
                f"the run folder must be writable, got {error.strerror!r} at {path}; the study itself is saved: "
                "make room or mend the rights, then resume."
            ) from error
        return path


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The feasible candidates that no other beats in both score and latency, fastest first.

    Of candidates equal in both, the first stays.
    """
    front: list[Candidate] = []
    best = -math.inf
    scored = [candidate for candidate in candidates if candidate.score is not None]
    for candidate in sorted(scored, key=lambda c: (c.compared[1], -c.compared[0], c.order)):
        if candidate.compared[0] > best:
            front.append(candidate)
            best = candidate.compared[0]
    return front


def _rank(candidate: Candidate) -> tuple[float, float, int, int]:
    score, latency_ms = candidate.compared
    return score, -latency_ms, -candidate.round, -candidate.position
