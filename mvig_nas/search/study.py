"""Study: the settings and every recorded candidate of one search, as a value; read back from its folder."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.files import write_whole
from mvig_nas.search import storage
from mvig_nas.search.contracts import FEASIBLE, INFEASIBLE, Candidate
from mvig_nas.search_space import SearchSpace

if TYPE_CHECKING:
    from mvig_nas.search.samplers.surrogate import PredictorError

SCHEMA = 1
CANDIDATES_FILE_NAME = "candidates.jsonl"

# what may differ when a search is resumed: more of the same
_MAY_DIFFER = ("schema", "versions", "evaluations", "time_limit_s", "candidates_limit")


@dataclass(frozen=True)
class Settings:
    """What a search was asked for. `sampler` is the one that ran, also where `auto` was asked for.

    `labels` is what the caller wants held fixed besides, such as the device or the images of a score.
    """

    space: SearchSpace
    score: str
    budget: Budget
    evaluations: int
    sampler: str
    seed: int
    front: bool
    candidates_limit: int
    batch: int = 1
    time_limit_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"schema": SCHEMA, **values, "space": self.space.to_dict(), "budget": asdict(self.budget)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from `to_dict`'s values.

        Raises:
            MvigNasError: of a newer schema, or not settings.
        """
        schema = values.get("schema")
        if not isinstance(schema, int) or schema > SCHEMA:
            raise MvigNasError(f"study schema must be at most {SCHEMA}, got {schema!r}, of a newer mvig-nas: upgrade.")
        rest = {name: value for name, value in values.items() if name != "schema"}
        try:
            rest |= {"space": SearchSpace.from_dict(rest["space"]), "budget": Budget.from_dict(rest["budget"])}
            return cls(**rest)
        except (KeyError, TypeError) as error:
            raise MvigNasError(
                f"a study's settings must be as a search wrote them, got {error}; start anew."
            ) from error

    def require_same(self, asked: "Settings") -> None:
        """Refuse to go on under other settings than these.

        Raises:
            MvigNasError: names the first setting that differs, and both values.
        """
        mine, theirs = self.to_dict(), asked.to_dict()
        for name, value in mine.items():
            if name not in _MAY_DIFFER and value != theirs[name]:
                raise MvigNasError(_difference(name, value, theirs[name]))


@dataclass(frozen=True)
class Study:
    """Every recorded candidate, in the order of the search.

    `ended` says why the search stopped: "evaluations", "space exhausted", "candidates limit" or "time limit"; None if
    it was interrupted and can be resumed.
    """

    settings: Settings
    candidates: tuple[Candidate, ...]
    ended: str | None = None
    folder: Path | None = None

    @cached_property
    def winner(self) -> Candidate | None:
        """The feasible candidate of the highest score; of equals the fastest, then the first; None without any."""
        feasible = [candidate for candidate in self.candidates if candidate.score is not None]
        return max(feasible, key=lambda c: (c.score or 0.0, -c.latency_ms, -c.round, -c.position), default=None)

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
        """Error of the Gaussian process on these candidates, each left out in turn; see `surrogate.leave_one_out`."""
        # imports scipy
        from mvig_nas.search.samplers.surrogate import leave_one_out

        return leave_one_out(self.settings.space, self.candidates)

    @property
    def evaluated(self) -> int:
        """Candidates that cost a score, failures included."""
        return sum(candidate.is_evaluated for candidate in self.candidates)

    @property
    def judged(self) -> int:
        """Architectures held against the budget, those included that a sampler screened out unrecorded."""
        return sum({candidate.round: candidate.screened for candidate in self.candidates}.values())

    @classmethod
    def load(cls, folder: Path) -> "Study":
        """The study of a run folder, finished or not.

        Raises:
            MvigNasError: there is none, it is damaged or of a newer version.
        """
        values, trials, ended = storage.read(folder)
        settings = Settings.from_dict(values)
        path = folder / storage.FILE_NAME
        candidates = tuple(
            storage.candidate_of(trial, number, settings.space, path) for number, trial in enumerate(trials)
        )
        return cls(settings, candidates, ended, folder)

    def write_candidates(self, folder: Path) -> Path:
        """Write `candidates.jsonl`: one JSON object a candidate, for people and other programs.

        Raises:
            MvigNasError: the folder cannot be written.
        """
        path = folder / CANDIDATES_FILE_NAME
        lines = "".join(json.dumps(candidate.to_dict()) + "\n" for candidate in self.candidates)
        try:
            write_whole(path, lines.encode())
        except OSError as error:
            raise MvigNasError(
                f"the run folder must be writable, got {error.strerror!r} at {path}; the study itself is saved: "
                "make room or mend the rights, then resume."
            ) from error
        return path


def _difference(name: str, mine: Any, theirs: Any) -> str:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted({*mine, *theirs}):
            if mine.get(key) != theirs.get(key):
                return _difference(f"{name}.{key}", mine.get(key), theirs.get(key))
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True), start=1):
            if one != other and isinstance(one, dict):
                return _difference(f"{name}{number}", one, other)
    return (
        f"a resumed search must keep its settings, but `{name}` was {mine!r} and is now {theirs!r}; resume with the "
        "old one, or start anew in another folder."
    )


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The feasible candidates that no other beats in both score and latency, fastest first.

    Of candidates equal in both, the first stays.
    """
    front: list[Candidate] = []
    best = -math.inf
    scored = [candidate for candidate in candidates if candidate.score is not None]
    for candidate in sorted(scored, key=lambda c: (c.latency_ms, -(c.score or 0.0), c.order)):
        if candidate.score is not None and candidate.score > best:
            front.append(candidate)
            best = candidate.score
    return front
