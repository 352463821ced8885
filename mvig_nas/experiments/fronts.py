"""Fronts under budgets of memory: what a space offers to devices that hold so many bytes of weights and activations."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from mvig_nas import run_folder, values
from mvig_nas.architecture import Architecture
from mvig_nas.budget import parse_bytes
from mvig_nas.errors import MvigNasError
from mvig_nas.experiments.experiment import Fronts
from mvig_nas.experiments.intervals import COVERAGE, Estimate
from mvig_nas.files import read_json, save
from mvig_nas.kernels import BYTES_PER_ELEMENT
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.search import Candidate, Progress, SearchRequest, SearchSettings, Study, attainable, kernel_costs
from mvig_nas.search import run_search as search_in
from mvig_nas.search.turn import Judge
from mvig_nas.search_space import SearchSpace

FOLDER, RANDOM_FILE = "fronts", "random.json"
DRAWS = 1000  # random networks of the space, the same for every budget
_KIB = 2**10


@dataclass(frozen=True)
class Point:
    """A network of a front.

    Attributes:
        architecture: the network.
        score: that the search maximised.
        predicted_ms, interval_ms: on the phone, with the 80 % interval.
        parameters, macs: with both classifiers of `Fronts.classes`.
        weight_bytes, peak_bytes: of weights, and of activations at a time, in int8.
    """

    architecture: Architecture
    score: float
    predicted_ms: float
    interval_ms: tuple[float, float]
    parameters: int
    macs: int
    weight_bytes: int
    peak_bytes: int

    @classmethod
    def of(cls, candidate: Candidate) -> "Point":
        """What a search knows of a network that it scored."""
        totals, interval_ms, score = candidate.totals, candidate.interval_ms, candidate.score
        assert totals is not None
        assert interval_ms is not None
        assert score is not None
        weight_bytes, peak_bytes = totals.weight_bytes, totals.peak_activation_bytes
        return cls(
            candidate.architecture,
            score,
            candidate.latency_ms,
            interval_ms,
            totals.parameters,
            totals.macs,
            weight_bytes // BYTES_PER_ELEMENT,
            peak_bytes // BYTES_PER_ELEMENT,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        architecture = self.architecture
        own = {
            **values.plain(self),
            "architecture": architecture.to_dict(),
            "graph_blocks": sum(stage.graph_depth for stage in architecture.stages),
        }
        return {"fingerprint": architecture.fingerprint, "resolution": architecture.resolution, **own}


@dataclass(frozen=True)
class Front:
    """What a space offers within one budget.

    Attributes:
        budget: as it was asked for, e.g. `256KiB`.
        fitting: of `DRAWS` random networks, those that keep it.
        judged, evaluated: networks that the search held against the budget, and scored.
        points: the front of score and predicted latency, fastest first.
        winner: the network of highest score; None where no score could be computed.
    """

    budget: str
    fitting: int
    judged: int
    evaluated: int
    points: tuple[Point, ...]
    winner: Point | None

    @property
    def share(self) -> Estimate:
        """Share of random networks that keep the budget, with Wilson's 95 % interval."""
        ends = binomtest(self.fitting, DRAWS).proportion_ci(COVERAGE, method="wilson")
        return Estimate(self.fitting / DRAWS, float(ends.low), float(ends.high))

    def finding(self, asked: Fronts) -> str:
        """One sentence: how many networks fit, and what the best of them is."""
        share = self.share.scaled(100)
        fit = f"Within {self.budget} of int8 weights and as much of activations, {share.shown(1)} % of the networks of "
        if self.winner is None:
            return f"{fit}{asked.space!r} fit; none of them could be scored."
        best = self.winner
        blocks = sum(stage.graph_depth for stage in best.architecture.stages)
        return (
            f"{fit}{asked.space!r} fit; the best of {self.evaluated} by {asked.score} takes {best.macs / 1e6:.1f} "
            f"million MACs at {best.architecture.resolution} pixels, {best.weight_bytes / _KIB:.0f} KiB of weights and "
            f"{best.peak_bytes / _KIB:.0f} KiB of activations, and has {blocks} graph block{'s' * (blocks != 1)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "budget": self.budget,
            "int8_bytes": parse_bytes(self.budget),
            "share": self.share.to_dict(),
            "judged": self.judged,
            "evaluated": self.evaluated,
            "front": [each.to_dict() for each in self.points],
            "winner": None if self.winner is None else self.winner.to_dict(),
        }


def check_attainable(asked: Fronts, device: str) -> None:
    """Refuse a budget that no network of the space keeps.

    Raises:
        MvigNasError: names the budget, and the least that the smallest network keeps; or the space, the score or the
            phone is unknown.
    """
    space, latency = SearchSpace.load(asked.space), ArchitectureLatency.load(device, num_classes=asked.classes)
    costs = partial(kernel_costs, num_classes=asked.classes)
    for name in asked.budgets:
        try:
            attainable(space, Judge(latency, costs, asked.budget(name)))
        except MvigNasError as error:
            least = costs(space.smallest)
            sizes = [
                -(-each // (BYTES_PER_ELEMENT * _KIB)) for each in (least.weight_bytes, least.peak_activation_bytes)
            ]
            raise MvigNasError(
                f"the budget {name!r} of the fronts must hold a network of {asked.space!r}, but its smallest takes "
                f"{sizes[0]}KiB of int8 weights and {sizes[1]}KiB of int8 activations; ask for {max(sizes)}KiB or more."
            ) from error


def traced(
    asked: Fronts, device: str, folder: Path, on_progress: Callable[[str, Progress], None] | None = None
) -> tuple[Front, ...]:
    """The front of every budget; a search that has ended is read back, and one that was killed goes on.

    Args:
        asked: the budgets, and what is searched.
        device: phone of the predicted latencies.
        folder: of the experiment; each search has a run folder of its own below it.
        on_progress: called with the budget after each new candidate.

    Raises:
        MvigNasError: as `run_search`.
    """
    costs = _random_costs(asked, folder / FOLDER)
    found = []
    for name in asked.budgets:
        own = folder / FOLDER / name
        study = Study.load(own) if (own / run_folder.FILE).is_file() and _has_ended(own) else None
        if study is None:
            request = SearchRequest(
                asked.space,
                device,
                asked.score,
                budget=asked.budget(name),
                settings=SearchSettings(asked.evaluations, seed=asked.seed, front=True),
                classes=asked.classes,
            )
            told = None if on_progress is None else partial(on_progress, name)
            study = search_in(request, own, resume=(own / run_folder.FILE).is_file(), on_candidate=told).study
        limit = parse_bytes(name) * BYTES_PER_ELEMENT
        fitting = sum(max(each) <= limit for each in costs)
        winner = None if study.winner is None else Point.of(study.winner)
        points = tuple(Point.of(each) for each in study.front)
        found.append(Front(name, fitting, study.judged, study.evaluated, points, winner))
    return tuple(found)


def _has_ended(folder: Path) -> bool:
    content = read_json(folder / run_folder.FILE, "the record of a run", "remove its folder, and it is searched again")
    return isinstance(content, dict) and "result" in content


def _random_costs(asked: Fronts, folder: Path) -> Sequence[Sequence[int]]:
    """Bytes of weights and of activations in fp16 of random networks of the space."""
    path = folder / RANDOM_FILE
    if not path.is_file():
        space, rng = SearchSpace.load(asked.space), random.Random(asked.seed)
        drawn = (kernel_costs(space.sample(rng), asked.classes) for _ in range(DRAWS))
        costs = [(each.weight_bytes, each.peak_activation_bytes) for each in drawn]
        folder.mkdir(parents=True, exist_ok=True)
        save(path, json.dumps(costs) + "\n")
    content = read_json(path, "the sizes of random networks", "remove it, and they are counted again")
    return values.read(list[tuple[int, int]], content, str(path))
