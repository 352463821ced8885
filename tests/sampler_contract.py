"""What every sampler must do; a test of one inherits `SamplerContract` and names its sampler."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mvig_nas import shipped
from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.constraints import Constraints
from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Totals
from mvig_nas.search import FEASIBLE, INFEASIBLE, Candidate, Study, search
from mvig_nas.search.contracts import Outcome
from mvig_nas.search.evaluators.local import evaluated
from mvig_nas.search_space import SearchSpace

TOY = SearchSpace.from_toml(shipped.folder("search_spaces") / "toy.toml")


HALF = Budget(latency_ms=0.25)


class SizeLatency:
    """Blocks times width, in place of a phone: 0.09 to 0.6 ms over the toy space."""

    def predict_ms(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        return np.array([_size(a) * a.resolution / 32 / 1000 for a in architectures])

    def interval_ms(
        self, architectures: Sequence[Architecture], coverage: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        latencies_ms = self.predict_ms(architectures)
        return latencies_ms * (1 - coverage / 4), latencies_ms * (1 + coverage / 4)


class WidthScore:
    """Wide and deep is good, and so is a gelu; remembers what it was asked."""

    name = "width"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, architecture: Architecture) -> float:
        self.asked.append(architecture.fingerprint)
        stages = architecture.stages
        return _size(architecture) ** 0.5 + 0.4 * sum(stage.activation == "gelu" for stage in stages)


class StopAfter(WidthScore):
    """Ctrl-C in the middle of an evaluation."""

    def __init__(self, evaluations: int) -> None:
        super().__init__()
        self.evaluations = evaluations

    def __call__(self, architecture: Architecture) -> float:
        if len(self.asked) == self.evaluations:
            raise KeyboardInterrupt
        return super().__call__(architecture)


class Backwards:
    """An evaluator whose last architecture is ready first, and that may stop in the middle of a turn."""

    name = WidthScore.name

    def __init__(self, score: WidthScore, stop_after: int | None = None) -> None:
        self.score = score
        self.left = stop_after

    def __call__(self, architectures: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        for architecture in reversed(architectures):
            if is_over():
                return
            if self.left is not None:
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
            yield evaluated(self.score, architecture)


def timeless(study: Study) -> list[tuple[object, ...]]:
    """As `outcome`, but for the order in which things were ready."""
    return [(c.order, *essence(c)[2:]) for c in sorted(study.candidates, key=lambda c: c.order)]


def _size(architecture: Architecture) -> int:
    return sum(stage.width * (1 + stage.conv_depth + 2 * stage.graph_depth) for stage in architecture.stages)


def no_costs(architecture: Architecture) -> Totals:
    """Costs that nothing here depends on."""
    return Totals(parameters=1000 * _size(architecture), macs=1, weight_bytes=2, peak_activation_bytes=3)


def outcome(study: Study) -> list[tuple[object, ...]]:
    """What two studies must share to be the same search: everything but the clock."""
    return [essence(candidate) for candidate in study.candidates]


def essence(c: Candidate) -> tuple[object, ...]:
    return (c.number, c.round, c.fingerprint, c.state, c.score, c.latency_ms, c.screened, dict(c.violations))


class SamplerContract:
    """Subclass and give `sampler`; a smaller `space`, a wider `budget`, fewer `evaluations` where it is slow."""

    sampler: str
    space = TOY
    budget = HALF
    evaluations = 40

    def run(self, score: WidthScore | None = None, **changes: object) -> Study:
        settings: dict[str, object] = {"evaluations": self.evaluations, "sampler": self.sampler, "costs": no_costs}
        return search(self.space, score or WidthScore(), SizeLatency(), self.budget, **(settings | changes))  # type: ignore[arg-type]

    def test_stays_in_the_space_and_spends_what_was_asked(self) -> None:
        score = WidthScore()
        study = self.run(score)
        assert study.ended == "evaluations"
        assert study.evaluated == len(score.asked) == self.evaluations
        assert all(candidate.architecture in self.space for candidate in study.candidates)
        assert study.judged >= len(study.candidates)

    def test_keeps_the_constraints_of_a_space(self, tmp_path: Path) -> None:
        asked = Constraints(least_blocks=1, least_graph_blocks=1, widths_may_fall=False)
        space = replace(self.space, constraints=asked)
        evaluations = min(self.evaluations, 24)
        settings = {"evaluations": evaluations, "sampler": self.sampler, "costs": no_costs, "folder": tmp_path}
        study = search(space, WidthScore(), SizeLatency(), self.budget, **settings)  # type: ignore[arg-type]
        assert study.evaluated == evaluations
        assert all(asked.broken_by(candidate.architecture) is None for candidate in study.candidates)
        assert outcome(Study.load(tmp_path)) == outcome(study)

    def test_scores_nothing_twice(self) -> None:
        score = WidthScore()
        study = self.run(score)
        assert len(set(score.asked)) == len(score.asked)
        assert len({candidate.fingerprint for candidate in study.candidates}) == len(study.candidates)

    def test_scores_only_what_fits_the_budget(self) -> None:
        study = self.run()
        for candidate in study.candidates:
            fits = candidate.latency_ms <= (self.budget.latency_ms or 0.0)
            assert candidate.state == (FEASIBLE if fits else INFEASIBLE)
            assert (candidate.score is not None) == fits
            assert (candidate.violations["latency_ms"] <= 0) == fits

    def test_same_seed_same_study_other_seed_another(self) -> None:
        one, same, other = self.run(seed=3), self.run(seed=3), self.run(seed=4)
        assert outcome(one) == outcome(same)
        assert outcome(one) != outcome(other)

    @pytest.mark.parametrize("stop", [1, 7, 23])
    def test_a_search_cut_short_and_resumed_equals_the_whole_one(self, tmp_path: Path, stop: int) -> None:
        stop = min(stop, self.evaluations - 2)
        whole = self.run()
        with pytest.raises(KeyboardInterrupt):
            self.run(StopAfter(stop), folder=tmp_path)
        score = WidthScore()
        resumed = self.run(score, folder=tmp_path, resume=True)
        assert outcome(resumed) == outcome(whole)
        assert len(score.asked) == self.evaluations - stop
        assert outcome(Study.load(tmp_path)) == outcome(whole)

    def test_a_search_asked_for_more_equals_the_longer_one(self, tmp_path: Path) -> None:
        self.run(folder=tmp_path, evaluations=self.evaluations - 4)
        assert outcome(self.run(folder=tmp_path, resume=True)) == outcome(self.run())

    def test_batches_are_the_same_search_whatever_is_ready_first(self, tmp_path: Path) -> None:
        whole = self.run(batch=6)
        turns = Counter(candidate.round for candidate in whole.candidates)
        assert max(turns.values()) >= 6  # some samplers propose what is known already
        score = WidthScore()
        other = self.run(score, batch=6, evaluator=Backwards(score))
        assert timeless(other) == timeless(whole)
        assert other.winner is not None
        assert whole.winner is not None
        assert other.winner.fingerprint == whole.winner.fingerprint
        with pytest.raises(KeyboardInterrupt):
            self.run(batch=6, folder=tmp_path, evaluator=Backwards(WidthScore(), stop_after=self.evaluations // 2))
        assert timeless(self.run(batch=6, folder=tmp_path, resume=True)) == timeless(whole)
        with pytest.raises(MvigNasError, match="batch"):
            self.run(batch=5, folder=tmp_path, resume=True)

    def test_traces_a_front(self) -> None:
        study = self.run(front=True)
        assert study.evaluated == self.evaluations
        scores = [candidate.score for candidate in study.front]
        latencies = [candidate.latency_ms for candidate in study.front]
        assert len(study.front) > 1
        assert scores == sorted(scores)
        assert latencies == sorted(latencies)
        assert max(latencies) <= (self.budget.latency_ms or 0.0)

    def test_finds_every_architecture_of_a_small_space(self) -> None:
        first = {key: choices[:1] for key, choices in TOY.choices.items()}
        small = SearchSpace("small", first | {"stage1.width": (8, 12), "stage2.width": (12, 16)})
        score = WidthScore()
        study = search(small, score, SizeLatency(), HALF, evaluations=40, sampler=self.sampler, costs=no_costs)
        assert study.ended == "space exhausted"
        assert len(study.candidates) == small.size == 4
