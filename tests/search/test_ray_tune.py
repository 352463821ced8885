"""Our samplers in Ray Tune: what is proposed, what is learnt, and early stopping."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from mvig_nas.errors import MvigNasError
from mvig_nas.search.evaluators.ray_tune import ArchitectureSearcher, architecture_of
from mvig_nas.search_space import SearchSpace
from tests.sampler_contract import HALF, TOY, SizeLatency, WidthScore

LATENCY = SizeLatency()


def searcher(sampler: str = "evolution", space: SearchSpace = TOY, **changes: Any) -> ArchitectureSearcher:
    return ArchitectureSearcher(space, LATENCY, HALF, metric="score", sampler=sampler, **changes)


def drive(found: ArchitectureSearcher, trials: range, score: WidthScore) -> list[str]:
    """One trial after the other; their architectures."""
    asked = []
    for trial in trials:
        config = found.suggest(str(trial))
        assert isinstance(config, dict)
        architecture = architecture_of(config)
        asked.append(architecture.fingerprint)
        found.on_trial_complete(str(trial), {"score": score(architecture)})
    return asked


@pytest.mark.parametrize("sampler", ["evolution", "surrogate", "tpe", "random"])
def test_proposals_differ_fit_and_depend_on_the_seed(sampler: str) -> None:
    score = WidthScore()
    asked = drive(searcher(sampler, seed=3), range(24), score)
    assert len(set(asked)) == 24
    assert asked == drive(searcher(sampler, seed=3), range(24), WidthScore())
    assert asked != drive(searcher(sampler, seed=4), range(24), WidthScore())
    found = searcher(sampler)
    for trial in range(10):
        config = found.suggest(str(trial))
        assert isinstance(config, dict)
        assert LATENCY.predict_ms([architecture_of(config)])[0] <= (HALF.latency_ms or 0)


def test_it_learns_from_results() -> None:
    def best(sampler: str) -> float:
        found, score = searcher(sampler), WidthScore()
        values = []
        for trial in range(60):
            config = found.suggest(str(trial))
            assert isinstance(config, dict)
            values.append(score(architecture_of(config)))
            found.on_trial_complete(str(trial), {"score": values[-1]})
        return sum(values[-15:]) / 15

    assert best("evolution") > best("random") + 0.5


def test_saved_and_restored_it_goes_on(tmp_path: Path) -> None:
    whole, score = searcher(), WidthScore()
    first = drive(whole, range(30), score)
    running = whole.suggest("running")
    whole.save(str(tmp_path / "state"))
    again = searcher()
    again.restore(str(tmp_path / "state"))
    assert again.suggest("running") == running
    rest = drive(again, range(31, 45), score)
    assert not set(rest) & set(first)
    assert rest == drive(whole, range(31, 45), score)


def test_failures_and_an_exhausted_space() -> None:
    first = {key: choices[:1] for key, choices in TOY.choices.items()}
    found = searcher(space=SearchSpace("small", first | {"stage1.width": (8, 12)}))
    seen = []
    for trial in range(2):
        config = found.suggest(str(trial))
        assert isinstance(config, dict)
        seen.append(architecture_of(config))
    found.on_trial_complete("0", error=True)
    found.on_trial_complete("1", {"score": float("nan")})
    found.on_trial_complete("of somebody else")
    assert len(set(seen)) == 2
    assert found.suggest("2") == Searcher.FINISHED
    with pytest.raises(MvigNasError, match="config must have 'architecture', got"):
        architecture_of({"lr": 1})


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    ray.shutdown()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def epochs(config: dict[str, Any]) -> None:
    """A short training: a better network is better after every epoch."""
    for epoch in range(1, 5):
        tune.report({"score": WidthScore()(architecture_of(config)) * epoch / 4})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("local")
def test_tune_stops_bad_trainings_early(tmp_path: Path) -> None:
    tuner = tune.Tuner(
        epochs,
        tune_config=tune.TuneConfig(
            search_alg=searcher(),
            scheduler=ASHAScheduler(metric="score", mode="max", max_t=4, grace_period=1, reduction_factor=2),
            num_samples=8,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    reports = [result.metrics["training_iteration"] for result in results if result.metrics]
    assert len(reports) == 8
    assert max(reports) == 4
    assert min(reports) < 4
    architectures = [architecture_of(result.config or {}) for result in results]
    assert len(set(architectures)) == 8
    assert max(LATENCY.predict_ms(architectures)) <= (HALF.latency_ms or 0)
