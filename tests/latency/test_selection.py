"""Architectures picked to be measured: what they cover, and whether a predictor learns more from them."""

import random

import numpy as np
import pytest

from mvig_nas import kernels, shipped
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.latency import ArchitectureLatency, LatencyPredictor, fit_device
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.selection import most_telling, spread, uncertainty
from mvig_nas.search_space import SearchSpace
from tests.latency.test_own_device import synthetic_ms
from tests.strategies import SPACES

TI = SearchSpace.from_toml(shipped.space_path("mobilevig-ti"))


@pytest.fixture(scope="module")
def phone() -> LatencyPredictor:
    return LatencyPredictor.load(shipped.predictor_folder("iphone-13-mini"))


@pytest.fixture(scope="module")
def latency(phone: LatencyPredictor) -> ArchitectureLatency:
    return ArchitectureLatency(phone)


def synthetic(architectures: list[Architecture]) -> FloatArray:
    return np.array([synthetic_ms(kernels.of(each, "exported")) for each in architectures])


def fit(architectures: list[Architecture], start: LatencyPredictor | None = None) -> LatencyPredictor:
    networks = [kernels.of(each, "exported") for each in architectures]
    return fit_device(networks, synthetic(architectures), "synthetic@synthetic-core", start=start).predictor


def uniform(number: int, seed: int) -> list[Architecture]:
    rng = random.Random(seed)
    return [TI.sample(rng) for _ in range(number)]


def test_each_pick_leaves_least_variance_over_all() -> None:
    generator = np.random.default_rng(0)
    parts = generator.normal(size=(30, 4))
    covariance = parts @ parts.T + 0.01 * np.eye(30)
    noise = 0.3

    def left(measured: list[int]) -> float:
        known = covariance[np.ix_(measured, measured)] + noise**2 * np.eye(len(measured))
        shared = covariance[:, measured]
        return float(np.trace(covariance - shared @ np.linalg.solve(known, shared.T)))

    chosen = most_telling(covariance, 6, noise)
    for place, pick in enumerate(chosen):
        before = chosen[:place]
        others = [each for each in range(30) if each not in before]
        assert left([*before, pick]) == pytest.approx(min(left([*before, other]) for other in others), rel=1e-9)


def test_picks_cover_the_range_of_latencies(latency: ArchitectureLatency) -> None:
    picked = latency.predict_ms(spread(TI, latency, 40, seed=3))
    drawn = latency.predict_ms(uniform(40, 3))
    ends = np.log(latency.predict_ms([TI.smallest, TI.largest]))
    sixths = np.linspace(*ends, 7)
    assert (np.histogram(np.log(picked), sixths)[0] >= 2).all()
    assert np.ptp(np.log(picked)) > 0.9 * np.ptp(ends) > np.ptp(np.log(drawn))


def test_picks_differ_and_depend_on_the_seed_alone(latency: ArchitectureLatency) -> None:
    picks = spread(TI, latency, 30, seed=1)
    assert len(set(picks)) == 30
    assert all(pick in TI for pick in picks)
    assert picks == spread(TI, latency, 30, seed=1)
    assert picks != spread(TI, latency, 30, seed=2)


def test_few_picks_teach_more_than_as_many_uniform_draws(latency: ArchitectureLatency) -> None:
    strangers = [*uniform(60, 11), *spread(TI, latency, 60, seed=12)]
    measured_ms = synthetic(strangers)
    networks = [kernels.of(each, "exported") for each in strangers]

    def error(architectures: list[Architecture]) -> float:
        return float(np.abs(np.log(fit(architectures).predict_ms(networks) / measured_ms)).mean())

    picked = [error(spread(TI, latency, 12, seed=seed)) for seed in range(3)]
    drawn = [error(uniform(12, seed)) for seed in range(3)]
    assert np.median(picked) < np.median(drawn)


def test_against_a_predictor_the_wide_intervals_are_picked(latency: ArchitectureLatency) -> None:
    fitted = fit([each for each in uniform(60, 5) if latency.predict_ms([each])[0] < 0.8][:15])
    own = ArchitectureLatency(fitted)

    def widths(architectures: list[Architecture]) -> FloatArray:
        lower, upper = own.interval_ms(architectures, 0.8)
        return np.log(upper / lower)

    picked = spread(TI, own, 10, against=fitted, seed=1)
    assert widths(picked).mean() > widths(uniform(200, 6)).mean()


def test_uncertainty_is_the_interval_without_noise(latency: ArchitectureLatency, phone: LatencyPredictor) -> None:
    fitted = fit(uniform(15, 7), start=phone)
    features = latency.features(uniform(20, 8))
    variances = np.diag(uncertainty(features, fitted))
    lower, upper = fitted.interval_from_features_ms(features, 0.8)
    half = np.log(upper / lower) / 2
    assert np.corrcoef(half**2, variances)[0, 1] > 0.999
    # a fit that starts from the phone knows more, before it has a row, than one that starts from nothing
    assert np.trace(uncertainty(features, phone)) < np.trace(uncertainty(features))


def test_small_spaces_budgets_and_large_numbers(latency: ArchitectureLatency) -> None:
    one = SPACES["toy"]
    within = spread(TI, latency, 20, budget_ms=0.7)
    assert latency.predict_ms(within).max() <= 0.7
    with pytest.raises(MvigNasError, match=r"only 0 of 5 architectures were found in 'toy'; ask for fewer"):
        spread(one, latency, 5, budget_ms=0.01)
    with pytest.raises(MvigNasError, match="at most 3000 architectures"):
        spread(TI, latency, 3001)
