"""Running an experiment: everything that could refuse it comes first, then costs, host latencies and trainings."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mvig_nas import run_folder, scores, values
from mvig_nas.architecture import Architecture
from mvig_nas.experiments.ablate_request import AblateRequest
from mvig_nas.experiments.costs import Costs, costs_of
from mvig_nas.experiments.dense import DenseResult, changed, dense_cells, trained
from mvig_nas.experiments.disturbances import disturbed_top1
from mvig_nas.experiments.experiment import Cell, Experiment, cells_of
from mvig_nas.experiments.fronts import Front, check_attainable, traced
from mvig_nas.experiments.host_latency import HostLatency, host_latencies, operators_alone
from mvig_nas.experiments.intervals import Estimate, mean_estimate
from mvig_nas.experiments.matching import matched_cells
from mvig_nas.files import read_json, save
from mvig_nas.image_data import check_same_classes, read_split
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.ranking.stand_alone_training import StandAlonePlan, stand_alone
from mvig_nas.recipes import short_recipe
from mvig_nas.search import Progress as SearchProgress
from mvig_nas.training import Progress

COMMAND = "ablate"
CELLS, SUMMARY, HOST_LOG, OPERATORS_FILE, TRAININGS = (
    "cells.json", "summary.json", "host.jsonl", "operators.json", "trainings",
)  # fmt: skip


@dataclass(frozen=True)
class AblationProgress:
    """Where an experiment stands: `done` of `total` parts of a step, what it does now, and how a bar counts that."""

    step: str
    done: int
    total: int
    text: str = ""
    counted: str = ""


OnProgress = Callable[[AblationProgress], None]


@dataclass(frozen=True)
class CellResult:
    """What is known of a cell: its costs, its latency on this computer, and the top-1 of each seed (fractions).

    `disturbed` holds top-1 on disturbed images by the name of the disturbance.
    """

    cell: Cell
    costs: Costs
    host: HostLatency | None = None
    top1: tuple[float, ...] = ()
    disturbed: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def lost(self, disturbance: str) -> Estimate:
        """Top-1 on disturbed images less that on whole ones, over pairs of one seed."""
        pairs = zip(self.disturbed[disturbance], self.top1, strict=True)
        return mean_estimate([moved - whole for moved, whole in pairs])


@dataclass(frozen=True)
class Ablation:
    """What an experiment found; cells stand in their order.

    Attributes:
        experiment: that was run.
        device: phone of the predicted latencies.
        results: of every cell.
        operators: graph operators alone, see `operators_alone`.
        seconds: that this run took.
        fronts: what the searches under budgets of memory found; the winner of each is among the results.
        dense: cells of the dense task, the first of which the others are compared with.
    """

    experiment: Experiment
    device: str
    results: tuple[CellResult, ...]
    operators: tuple[dict[str, Any], ...]
    seconds: float
    fronts: tuple[Front, ...] = ()
    dense: tuple[DenseResult, ...] = ()

    @property
    def reference(self) -> CellResult | None:
        """The cell that the others are compared with; None where only operators are measured."""
        return next((each for each in self.results if each.cell.name == self.experiment.reference_name), None)

    def top1_difference(self, result: CellResult) -> Estimate | None:
        """Top-1 less the reference's, over pairs of one seed; None unless both were trained with the same seeds."""
        reference = self.reference
        if reference is None or not result.top1 or len(result.top1) != len(reference.top1):
            return None
        return mean_estimate([own - other for own, other in zip(result.top1, reference.top1, strict=True)])

    def host_ratio(self, result: CellResult) -> Estimate | None:
        """How many times the reference's time this cell takes on this computer, over pairs of one round."""
        reference = self.reference
        if reference is None or reference.host is None or result.host is None:
            return None
        return result.host.ratio_to(reference.host)

    @property
    def findings(self) -> list[str]:
        """One sentence for each comparison, operator alone, front and dense cell, with its 95 % interval."""
        found = []
        for result in self.results:
            name, ratio, difference = result.cell.name, self.host_ratio(result), self.top1_difference(result)
            if result is self.reference:
                continue
            other = self.experiment.reference_name
            if difference is not None:
                found.append(
                    f"Top-1 of {name!r} is {difference.scaled(100).shown(1, sign=True)} points from that of {other!r}, "
                    f"over {len(result.top1)} seeds."
                )
            if ratio is not None:
                found.append(f"On this computer {name!r} takes {ratio.shown(2)} times as long as {other!r}.")
        for result in self.results:
            for name in result.disturbed:
                found.append(
                    f"On images under {name!r}, top-1 of {result.cell.name!r} is "
                    f"{result.lost(name).scaled(100).shown(1, sign=True)} points from that on whole images."
                )
        for row in self.operators:
            exponent = Estimate(**row["time_exponent"])
            found.append(
                f"Alone, {row['operator']} takes time on this computer that grows with the number of pixels to the "
                f"power of {exponent.shown(2)}, on maps of {row['maps'][0]} to {row['maps'][-1]} pixels a side."
            )
        if self.experiment.fronts is not None:
            found += [each.finding(self.experiment.fronts) for each in self.fronts]
        for each in self.dense[1:]:
            points = each.difference(self.dense[0]).scaled(100).shown(1, sign=True)
            found.append(
                f"In segmenting shapes at equal MACs, the mean IoU of {each.cell.name!r} is {points} points from that "
                f"of {self.dense[0].cell.name!r}, over {len(each.mean_iou)} seeds."
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; accuracies are fractions, latencies milliseconds."""
        return {
            "schema": 1,
            "name": self.experiment.name,
            "question": self.experiment.question,
            "device": self.device,
            "reference": self.experiment.reference_name if self.results else None,
            "cells": [self._row(each) for each in self.results],
            "operators": list(self.operators),
            "fronts": [each.to_dict() for each in self.fronts],
            "dense": [each.to_dict() for each in self.dense],
            "findings": self.findings,
            "versions": {name: version(name) for name in ("mvig-nas", "torch", "timm")},
            "seconds": self.seconds,
        }

    def _row(self, result: CellResult) -> dict[str, Any]:
        cell, ratio, difference = result.cell, self.host_ratio(result), self.top1_difference(result)
        costs = values.plain(result.costs)
        return {
            "name": cell.name,
            "fingerprint": cell.architecture.fingerprint,
            "widths": list(cell.widths),
            "widths_before": list(cell.widths_before),
            "matched": cell.matched,
            "top1": list(result.top1),
            "top1_mean": mean_estimate(result.top1).to_dict() if result.top1 else None,
            "disturbed": {name: list(each) for name, each in result.disturbed.items()},
            "top1_difference": None if difference is None else difference.to_dict(),
            "host_ms": None if result.host is None else result.host.ms.value,
            "host_interval_ms": None if result.host is None else [result.host.ms.low, result.host.ms.high],
            "host_ratio": None if ratio is None else ratio.to_dict(),
            **costs,
            "architecture": cell.architecture.to_dict(),
        }


@dataclass(frozen=True)
class Prepared:
    """An experiment that nothing refused: matched cells, predictor, how cells are trained, the dense task's cells."""

    cells: tuple[Cell, ...]
    latency: ArchitectureLatency
    training: StandAlonePlan | None
    dense: tuple[Cell, ...] = ()


def prepare(request: AblateRequest) -> Prepared:
    """Find everything that would end an experiment before anything runs: cells, matches, predictor, plan, images.

    Args:
        request: what is asked for.

    Raises:
        MvigNasError: a cell is no architecture or not of the experiment's space, or cannot be matched; the predictor,
            the plan or the images cannot be read.
    """
    experiment = request.experiment
    latency = ArchitectureLatency.load(request.device_name)
    training = _training(request) if request.is_training else None
    if experiment.fronts is not None:
        scores.load(experiment.fronts.score)
        check_attainable(experiment.fronts, request.device_name)
    dense = dense_cells(experiment.dense, latency) if experiment.dense is not None and request.accuracy else ()
    return Prepared(
        matched_cells(experiment, cells_of(experiment, request.only_cells), latency), latency, training, dense
    )


def ablate(
    request: AblateRequest, folder: Path, *, resume: bool = False, on_progress: OnProgress | None = None
) -> Ablation:
    """Run an experiment, cell by cell; what is done stays done.

    Args:
        request: what is asked for; it is kept in the folder.
        folder: of the run. `summary.json` is there after the costs, and again after every cell that was trained.
        resume: go on with the run in the folder.
        on_progress: called as the work goes on.

    Raises:
        MvigNasError: as `prepare`; the folder holds a run and `resume` is not set, or a run that was asked for
            something else.
        StopTraining: a signal asked to stop; all is saved.
    """
    began = time.monotonic()
    told = on_progress or _silent
    prepared = prepare(request)
    with run_folder.entered(folder, COMMAND, request, resume, CELLS):
        rows = [{"name": each.name, "widths": each.widths, "matched": each.matched} for each in prepared.cells]
        save(folder / CELLS, json.dumps(rows, indent=1) + "\n")
    fronts = _fronts(request, folder, told)
    cells = (*prepared.cells, *_winners(request.experiment, fronts))
    architectures = [cell.architecture for cell in cells]
    costs = costs_of(architectures, prepared.latency)
    hosts: dict[str, HostLatency] = {}
    operators: list[dict[str, Any]] = []
    if request.host:
        operators = _operators(request.experiment, folder, told)
        if architectures:
            hosts = host_latencies(
                architectures,
                folder / HOST_LOG,
                lambda state: told(AblationProgress("host latency", state.done, state.total, state.now, "timings")),
            )
    results = [
        CellResult(cell, cost, hosts.get(cell.architecture.fingerprint))
        for cell, cost in zip(cells, costs, strict=True)
    ]

    def summarised(dense: tuple[DenseResult, ...] = ()) -> Ablation:
        seconds = time.monotonic() - began
        found = Ablation(
            request.experiment, request.device_name, tuple(results), tuple(operators), seconds, fronts, dense
        )
        save(folder / SUMMARY, json.dumps(found.to_dict(), indent=1) + "\n")
        return found

    found = summarised()
    for index, result in enumerate(results if prepared.training is not None else ()):
        plan = prepared.training
        assert plan is not None
        top1 = _trained(result.cell, plan, folder, _told_of(told, index, len(results), result.cell.name, plan.seeds))
        disturbed = {
            name: tuple(_disturbed(result.cell.architecture, plan, folder, name))
            for name in request.experiment.disturbances
        }
        results[index] = CellResult(result.cell, result.costs, result.host, top1, disturbed)
        found = summarised()
    if prepared.dense and request.experiment.dense is not None:
        asked = changed(request.experiment.dense, request.epochs, request.seeds)
        found = summarised(trained(asked, prepared.dense, folder, partial(_tell_of_dense, told)))
    return found


def _tell_of_dense(told: OnProgress, text: str, done: int, total: int) -> None:
    told(AblationProgress("segmenting", done, total, text, f"training {done + 1}/{total}"))


def _training(request: AblateRequest) -> StandAlonePlan:
    experiment = request.experiment
    assert request.data is not None
    assert experiment.plan is not None
    train_images, val_images = read_split(request.data, "train"), read_split(request.data, "val")
    check_same_classes(train_images, val_images)
    recipe = short_recipe(experiment.plan, request.epochs or experiment.epochs, 0, len(train_images))
    seeds = tuple(range(request.seeds or experiment.seeds))
    return StandAlonePlan(train_images, val_images, recipe, seeds, request.execution)


def _operators(experiment: Experiment, folder: Path, told: OnProgress) -> list[dict[str, Any]]:
    if experiment.operator is None:
        return []
    path = folder / OPERATORS_FILE
    if not path.is_file():
        told(AblationProgress("operators", 0, 1, "each alone", "all operators"))
        save(path, json.dumps(operators_alone(experiment.operator), indent=1) + "\n")
    content = read_json(path, "the operators' times", "remove it, and they are measured again")
    return values.read(list[dict[str, Any]], content, str(path))


def _fronts(request: AblateRequest, folder: Path, told: OnProgress) -> tuple[Front, ...]:
    asked = request.experiment.fronts
    if asked is None:
        return ()
    count = len(asked.budgets)

    def tell(budget: str, state: SearchProgress) -> None:
        done = asked.budgets.index(budget) * asked.evaluations + state.evaluated
        told(AblationProgress("search", done, count * asked.evaluations, f"within {budget}", "networks"))

    return traced(asked, request.device_name, folder, tell)


def _winners(experiment: Experiment, fronts: Sequence[Front]) -> Iterator[Cell]:
    """The winner of each front as a cell."""
    for front in fronts:
        if front.winner is not None:
            architecture = front.winner.architecture
            yield Cell(
                experiment.winner_names[front.budget], architecture, tuple(each.width for each in architecture.stages)
            )


def _trained(
    cell: Cell, plan: StandAlonePlan, folder: Path, on_progress: Callable[[int, Progress], None]
) -> tuple[float, ...]:
    """Top-1 of the cell with every seed; trainings that are done are read back."""
    done = stand_alone([cell.architecture], plan, folder / TRAININGS, on_progress=on_progress)
    return tuple(each.accuracy for each in done)


def _disturbed(architecture: Architecture, plan: StandAlonePlan, folder: Path, name: str) -> Iterator[float]:
    for seed in plan.seeds:
        own = folder / TRAININGS / f"{architecture.fingerprint}-seed{seed}"
        yield disturbed_top1(own, architecture, plan, name)


def _told_of(
    told: OnProgress, index: int, cells: int, name: str, seeds: Sequence[int]
) -> Callable[[int, Progress], None]:
    total = cells * len(seeds)

    def tell(seed: int, progress: Progress) -> None:
        before = index * len(seeds) + seeds.index(seed)
        counted = f"training {before + 1}/{total}, {progress.counted}"
        text = progress.message or f"{name}, seed {seed}, {progress.pace}"
        told(
            AblationProgress("training", before * progress.steps + progress.step, total * progress.steps, text, counted)
        )

    return tell


def _silent(_: AblationProgress) -> None:
    """Tell nobody."""
