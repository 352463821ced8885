"""Optuna's samplers keep the contract of samplers, and the study on disk is Optuna's."""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mvig_nas.architecture import Architecture
from mvig_nas.budget import Budget
from mvig_nas.errors import MvigNasError
from mvig_nas.search import FEASIBLE, INFEASIBLE, STUDY_FILE, Progress, Study, search
from mvig_nas.search.contracts import Candidate, Problem
from mvig_nas.search.samplers.optuna_samplers import NSGA2_POPULATION, OptunaSampler
from mvig_nas.search.turn import Judge
from mvig_nas.search_space import SearchSpace
from tests.sampler_contract import HALF, TOY, SamplerContract, SizeLatency, WidthScore, no_costs, outcome


class TestTpe(SamplerContract):
    sampler = "tpe"


class TestNsga2(SamplerContract):
    sampler = "nsga2"


# seconds a proposal over all of the space, so only widths and depths are free
WIDTHS = SearchSpace(
    "widths",
    {name: choices if name.endswith(("width", "depth")) else choices[-1:] for name, choices in TOY.choices.items()},
)


def test_the_gp_proposes_what_fits() -> None:
    study = search(WIDTHS, WidthScore(), SizeLatency(), HALF, evaluations=6, sampler="gp", costs=no_costs)
    assert study.evaluated == 6
    assert study.winner is not None


@pytest.mark.slow
class TestGp(SamplerContract):
    sampler = "gp"
    space = WIDTHS
    budget = Budget(latency_ms=0.4)
    evaluations = 13  # ten of them are drawn at random


@pytest.mark.parametrize("front", [False, True])
def test_optuna_reads_the_study(tmp_path: Path, front: bool) -> None:
    study = search(
        TOY,
        WidthScore(),
        SizeLatency(),
        HALF,
        evaluations=25,
        sampler="random",
        costs=no_costs,
        front=front,
        folder=tmp_path,
    )
    storage = JournalStorage(JournalFileBackend(str(tmp_path / STUDY_FILE)))
    loaded = optuna.load_study(study_name=tmp_path.name, storage=storage)
    assert [d.name for d in loaded.directions] == (["MAXIMIZE", "MINIMIZE"] if front else ["MAXIMIZE"])
    assert len(loaded.trials) == len(study.candidates)
    states = {FEASIBLE: TrialState.COMPLETE, INFEASIBLE: TrialState.PRUNED}
    for trial, candidate in zip(loaded.trials, study.candidates, strict=True):
        assert trial.state == states[candidate.state]
        assert trial.params == used(candidate.architecture)
        assert trial.distributions == {name: CategoricalDistribution(TOY.choices[name]) for name in trial.params}
        assert trial.constraints == trial.user_attrs["violations"] == dict(candidate.violations)
        attributes = trial.user_attrs
        assert attributes["fingerprint"] == candidate.fingerprint
        assert attributes["latency_ms"] == candidate.latency_ms
        assert (attributes["turn"], attributes["position_in_turn"]) == candidate.order
        assert attributes.get("score") == candidate.score
        if candidate.score is not None:
            assert trial.values == ([candidate.score, candidate.latency_ms] if front else [candidate.score])
            assert (attributes["latency_low_ms"], attributes["latency_high_ms"]) == candidate.interval_ms
            assert attributes["evaluated_s"] == candidate.seconds
            assert attributes["parameters"] == no_costs(candidate.architecture).parameters
    assert {trial.state for trial in loaded.trials} == set(states.values())
    if not front:
        assert study.winner is not None
        assert loaded.best_value == study.winner.score


def test_what_others_note_in_the_study_while_it_is_searched_is_kept(tmp_path: Path) -> None:
    def note(progress: Progress) -> None:
        if progress.recorded == 5:
            storage = JournalStorage(JournalFileBackend(str(tmp_path / STUDY_FILE)))
            optuna.load_study(study_name=None, storage=storage).set_user_attr("note", "looks good")

    options: dict[str, Any] = {"evaluations": 12, "sampler": "evolution", "costs": no_costs}
    study = search(TOY, WidthScore(), SizeLatency(), HALF, folder=tmp_path, on_candidate=note, **options)
    assert (
        outcome(study)
        == outcome(Study.load(tmp_path))
        == outcome(search(TOY, WidthScore(), SizeLatency(), HALF, **options))
    )
    storage = JournalStorage(JournalFileBackend(str(tmp_path / STUDY_FILE)))
    assert optuna.load_study(study_name=None, storage=storage).user_attrs["note"] == "looks good"


def used(architecture: Architecture) -> dict[str, int | str]:
    """The values of the parameters that have several choices, without those of blocks that are not there."""
    values = {"resolution": architecture.resolution, "head_width": architecture.head_width}
    for number, stage in enumerate(architecture.stages, start=1):
        values |= {f"stage{number}.{name}": value for name, value in asdict(stage).items() if value is not None}
    return {name: value for name, value in values.items() if len(TOY.choices[name]) > 1}


def test_nsga2_breeds_from_its_first_generation() -> None:
    problem = Problem(TOY, TOY.smallest)
    sampler = OptunaSampler(problem, "nsga2")
    parent = TOY.encode(TOY.largest)
    generation = [
        Candidate(number, 0, TOY.decode(parent | {"stage1.width": TOY.choices["stage1.width"][number % 2]}), FEASIBLE,
                  0.2, {"latency_ms": -0.2}, 1, float(number))
        for number in range(NSGA2_POPULATION)
    ]  # fmt: skip
    sampler.observe(generation)
    for seed in range(5):
        (child,) = sampler.propose(random.Random(seed), Judge(SizeLatency(), no_costs, HALF))
        values = TOY.encode(child)
        # one parameter in thirty mutates; drawn at random, half of them would differ
        assert sum(values[name] != parent[name] for name in values) < 8


@pytest.mark.parametrize("sampler", [optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler])
def test_any_sampler_of_optunas_can_be_given(sampler: type[optuna.samplers.BaseSampler], tmp_path: Path) -> None:
    def run(given: optuna.samplers.BaseSampler, folder: Path | None = None) -> Study:
        return search(
            TOY, WidthScore(), SizeLatency(), HALF, evaluations=15, sampler=given, costs=no_costs, folder=folder
        )

    study = run(sampler(seed=0), tmp_path)  # type: ignore[call-arg]
    assert study.evaluated == 15
    assert study.settings.sampler == f"optuna:{sampler.__name__}"
    assert outcome(study) == outcome(run(sampler(seed=0)))  # type: ignore[call-arg]
    assert outcome(study) != outcome(run(sampler(seed=1)))  # type: ignore[call-arg]
    assert outcome(Study.load(tmp_path)) == outcome(study)
    with pytest.raises(MvigNasError, match="cannot be resumed"):
        search(TOY, WidthScore(), SizeLatency(), HALF, evaluations=15, costs=no_costs, folder=tmp_path, resume=True)
    with pytest.raises(MvigNasError, match="must have a sampler by name"):
        search(TOY, WidthScore(), SizeLatency(), HALF, sampler=sampler(), folder=tmp_path, resume=True)
