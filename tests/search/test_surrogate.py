"""The Gaussian process behind the default sampler, and what it is to a search."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.stats import norm

from mvig_nas import shipped
from mvig_nas.architecture import Architecture
from mvig_nas.cli.search import print_search
from mvig_nas.constraints import UNCONSTRAINED
from mvig_nas.latency import ArchitectureLatency, LatencyPredictor
from mvig_nas.report import write_report
from mvig_nas.search import FEASIBLE, Candidate, SearchRun, search
from mvig_nas.search.samplers import gaussian_process
from mvig_nas.search.samplers.gaussian_process import (
    Features,
    GaussianProcess,
    Hyperparameters,
    log_expected_improvement,
)
from mvig_nas.search.samplers.surrogate import leave_one_out
from mvig_nas.search_space import STAGE_CHOICES, SearchSpace
from tests.sampler_contract import HALF, TOY, SizeLatency, WidthScore, no_costs

SPACES = [SearchSpace.from_toml(shipped.space_path(name)) for name in ("toy", "mobilevig", "mobilevig-ti")]


@given(st.sampled_from(SPACES), st.integers(0, 10_000))
def test_levels_are_the_architecture(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(random.Random(seed))
    features = Features(space)
    levels = features.levels([architecture])
    assert features.architecture(levels[0]) == architecture


@given(st.sampled_from(SPACES), st.integers(0, 10_000))
def test_what_an_architecture_does_not_use_is_marked_unused(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    features = Features(space)
    raw = np.array([[rng.randrange(count) for count in features.counts]])
    while not features.keep_constraints(raw)[0]:
        raw = np.array([[rng.randrange(count) for count in features.counts]])
    architecture = features.architecture(raw[0])
    marked = features.with_unused(raw)[0]
    for name, level, count in zip(features.names, marked, features.counts, strict=True):
        stage, _, choice = name.rpartition(".")
        owner = architecture.stages[int(stage[-1]) - 1] if choice in STAGE_CHOICES else architecture
        assert (level == count) == (getattr(owner, choice) is None)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_levels_keep_constraints_if_their_network_does(space: SearchSpace) -> None:
    features = Features(space)
    free = Features(replace(space, constraints=UNCONSTRAINED))
    raw = np.random.default_rng(0).integers(features.counts, size=(200, len(features.names)))
    kept = [space.constraints.broken_by(free.architecture(row)) is None for row in raw]
    assert features.keep_constraints(raw).tolist() == kept
    assert any(kept)
    assert all(kept) == (space.constraints == UNCONSTRAINED)


def test_equal_networks_are_equal_to_the_model() -> None:
    features = Features(TOY)
    rng = np.random.default_rng(0)
    raw = rng.integers(features.counts, size=(200, len(features.names)))
    canonical = features.levels([features.architecture(row) for row in raw])
    np.testing.assert_array_equal(features.with_unused(raw), features.with_unused(canonical))


def test_features_multiply_to_the_kernels() -> None:
    features = Features(TOY)
    levels = np.random.default_rng(0).integers(features.counts, size=(5, len(features.names)))
    marked = features.with_unused(levels)
    expected = sum(kernel[marked[:, index][:, None], marked[:, index]] for index, kernel in enumerate(features.kernels))
    x = features.expand(levels)
    np.testing.assert_allclose(x @ x.T, expected)


def problem(count: int) -> tuple[Features, np.ndarray, np.ndarray]:
    rng = random.Random(0)
    architectures = [TOY.sample(rng) for _ in range(count)]
    features = Features(TOY)
    return features, features.levels(architectures), np.array([WidthScore()(one) for one in architectures])


def test_the_posterior_is_that_of_the_textbook() -> None:
    features, levels, scores = problem(12)
    given_ = Hyperparameters(np.full(len(features.names), 0.1), main=0.7, product=0.5, noise=0.01)
    model = GaussianProcess(features, levels[:8], scores[:8], given_)
    marked = features.with_unused(levels)
    s = sum(0.1 * kernel[marked[:, p][:, None], marked[:, p]] for p, kernel in enumerate(features.kernels))
    total = 0.1 * len(features.names)
    k = 0.7 / total * s + 0.5 * np.exp(s - total)
    y = (scores[:8] - scores[:8].mean()) / scores[:8].std()
    inverse = np.linalg.inv(k[:8, :8] + (0.01 + 1e-6) * np.eye(8))
    mean = k[8:, :8] @ inverse @ y
    covariance = k[8:, 8:] - k[8:, :8] @ inverse @ k[:8, 8:]
    np.testing.assert_allclose(model.mean(levels[8:]), mean, atol=1e-9)
    np.testing.assert_allclose(model.mean_and_sd(levels[8:])[1], np.sqrt(np.diag(covariance)), atol=1e-9)
    np.testing.assert_allclose(model.mean_and_covariance(levels[8:])[1], covariance, atol=1e-9)


def test_leaving_one_out_is_a_fit_without_it() -> None:
    features, levels, scores = problem(12)
    given_ = Hyperparameters(np.full(len(features.names), 0.1), main=0.7, product=0.5, noise=0.01)
    mean, sd = GaussianProcess(features, levels, scores, given_).leave_one_out()
    marked = features.with_unused(levels)
    s = sum(0.1 * kernel[marked[:, p][:, None], marked[:, p]] for p, kernel in enumerate(features.kernels))
    total = 0.1 * len(features.names)
    k = 0.7 / total * s + 0.5 * np.exp(s - total)
    noise = 0.01 + 1e-6
    y = (scores - scores.mean()) / scores.std()
    for left_out in range(12):
        rest = np.delete(np.arange(12), left_out)
        weights = np.linalg.solve(k[np.ix_(rest, rest)] + noise * np.eye(11), k[rest, left_out])
        assert mean[left_out] == pytest.approx(weights @ y[rest], abs=1e-9)
        assert sd[left_out] == pytest.approx((k[left_out, left_out] + noise - weights @ k[rest, left_out]) ** 0.5)


def test_the_fit_follows_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    features, levels, scores = problem(20)
    errors = []

    def instead(loss, start, **_):  # type: ignore[no-untyped-def]
        start = start + np.random.default_rng(0).normal(scale=0.5, size=len(start))
        errors.append(check_grad(lambda t: loss(t)[0], lambda t: loss(t)[1], start))
        return type("Found", (), {"x": start})

    monkeypatch.setattr("mvig_nas.map_fit.minimize", instead)
    gaussian_process.fit(features, levels, scores)
    assert errors[0] < 1e-4


def test_relevance_goes_to_what_matters() -> None:
    features, levels, _ = problem(60)
    index = features.names.index("stage3.width")
    found = gaussian_process.fit(features, levels, levels[:, index].astype(float))
    assert int(np.argmax(found.relevances)) == index


def test_a_score_far_below_the_others_does_not_hide_their_differences() -> None:
    usual = np.linspace(70.0, 75.0, 20)
    values = gaussian_process.normal_scores(np.append(usual, -500.0))
    assert values[-1] == values.min()
    assert np.ptp(values[:-1]) > 0.7
    np.testing.assert_allclose(gaussian_process.normal_scores(usual), (usual - usual.mean()) / usual.std())


def test_log_expected_improvement() -> None:
    mean, sd, best = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 0.3]), 0.2
    z = (mean - best) / sd
    expected = np.log(sd * (norm.pdf(z) + z * norm.cdf(z)))
    np.testing.assert_allclose(log_expected_improvement(mean, sd, best), expected)


def test_log_expected_improvement_where_it_underflows() -> None:
    z = np.array([-40.0, -20.0, -5.1, -5.0, -4.9])
    values = log_expected_improvement(z, np.ones(5), 0.0)
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) > 0)
    # phi(z) / z^2 far below
    assert values[0] == pytest.approx(-0.5 * 1600 - 0.5 * np.log(2 * np.pi) - 2 * np.log(40), abs=0.01)


def test_it_beats_random_search() -> None:
    def best(sampler: str, seed: int) -> float:
        study = search(
            TOY, WidthScore(), SizeLatency(), HALF, evaluations=40, sampler=sampler, seed=seed, costs=no_costs
        )
        assert study.winner is not None
        return study.winner.score or 0.0

    pairs = [(best("surrogate", seed), best("random", seed)) for seed in range(3)]
    assert all(modelled >= uniform for modelled, uniform in pairs)
    assert sum(modelled > uniform for modelled, uniform in pairs) >= 2


def scored(score: Callable[[Architecture], float], count: int, seed: int = 0) -> list[Candidate]:
    rng = random.Random(seed)
    return [
        Candidate(index, 0, architecture, FEASIBLE, 1.0, {}, 1, score=score(architecture))
        for index, architecture in enumerate(dict.fromkeys(TOY.sample(rng) for _ in range(count)))
    ]


def test_a_smooth_score_is_foretold() -> None:
    candidates = scored(WidthScore(), 60)
    error = leave_one_out(TOY, candidates)
    assert error is not None
    assert error.count == len(candidates)
    assert error.kendall_tau > 0.8
    spread = np.std([candidate.score for candidate in candidates])
    assert error.mean_absolute_error < 0.3 * spread
    larger = leave_one_out(TOY, scored(lambda architecture: 1000 * WidthScore()(architecture) + 7, 60))
    assert larger is not None
    assert larger.mean_absolute_error == pytest.approx(1000 * error.mean_absolute_error, rel=1e-3)


def test_noise_is_not_foretold() -> None:
    # hyper-parameters that had seen the left-out score would bring about 0.3
    noise = random.Random(0)
    errors = [leave_one_out(TOY, scored(lambda _: noise.random(), 50, seed)) for seed in range(8)]
    assert abs(np.mean([error.kendall_tau for error in errors if error is not None])) < 0.12


def test_the_error_depends_on_no_order() -> None:
    candidates = scored(WidthScore(), 30)
    shuffled = random.Random(1).sample(candidates, len(candidates))
    assert leave_one_out(TOY, candidates) == leave_one_out(TOY, shuffled)


def test_too_few_or_equal_scores_have_no_error() -> None:
    assert leave_one_out(TOY, scored(WidthScore(), 60)[:7]) is None
    assert leave_one_out(TOY, scored(lambda _: 3.3, 20)) is None
    unscored = [Candidate(index, 0, TOY.largest, "infeasible", 1.0, {}, 1) for index in range(9)]
    assert leave_one_out(TOY, unscored) is None


@pytest.mark.parametrize("sampler", ["surrogate", "random"])
def test_a_search_reports_it(sampler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = search(
        TOY,
        WidthScore(),
        SizeLatency(),
        HALF,
        evaluations=10,
        sampler=sampler,
        costs=no_costs,
        labels={"device": "a phone"},
    )
    error = study.predictor_error
    assert error == leave_one_out(TOY, study.candidates)
    assert error is not None
    latency = ArchitectureLatency(LatencyPredictor.load(shipped.predictor_folder("iphone-13-mini")))
    done = SearchRun(replace(study, folder=tmp_path), latency, WidthScore(), seconds=1.0)
    files = write_report(done, [], "search")
    line = f"each of 10 scored architectures left out in turn: mean absolute error {error.mean_absolute_error:.3g}"
    assert line in files["report"].read_text()
    print_search(done, "search", as_json=False)
    assert line in capsys.readouterr().out
    print_search(done, "search", as_json=True)
    assert json.loads(capsys.readouterr().out)["predictor_error"] == {
        "mean_absolute_error": error.mean_absolute_error,
        "kendall_tau": error.kendall_tau,
        "count": 10,
    }
