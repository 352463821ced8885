"""Predictors of one device, fitted to synthetic devices: none of these latencies was measured anywhere."""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvig_nas import kernels, shipped
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.cli import main
from mvig_nas.device_log import Device, DeviceLog, Measurement, Network, Package, TimmNetwork, read, write
from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency import ArchitectureLatency, LatencyPredictor, fit_device, network_features
from mvig_nas.latency.card import rows_of
from mvig_nas.latency.features import FEATURES, FloatArray
from mvig_nas.latency.held_out import (
    BASELINES,
    OWN,
    HeldOut,
    errors_by_range,
    false_accepts,
    family_folds,
    figures,
    folds,
    hold_out,
    learning_curve,
)
from mvig_nas.latency.published import families, log_networks
from mvig_nas.latency.rows import Rows
from tests.strategies import SPACES

GROUP = "synthetic 1 cpu-only@synthetic-core"
DEVICE = Device("synthetic-core", "synthetic", "synthetic", "1", "cpu-only")
NOISE = 0.02
WILD = (3, 40, 77, 101, 130)  # rows of the training set that the synthetic device measures three times too slow


def synthetic_ms(network: Sequence[Kernel]) -> float:
    """A roofline with a launch cost: nothing like the sums of costs that the predictor is made of."""
    total_ms = 0.25
    for kernel in network:
        moved_ms = (kernel.bytes_in + kernel.bytes_out + kernel.bytes_weights) / 6e7
        channels = kernel.shape[1]
        rate = 4e9 * channels / (channels + 24) * (0.15 if kernel.groups > 1 else 1.0)
        work_ms = kernel.macs / rate if kernel.macs else prod(kernel.shape) / 2e9
        total_ms += 0.004 + max(moved_ms, work_ms)
    return total_ms


def synthetic_sibling_ms(networks: Sequence[Sequence[Kernel]], start: LatencyPredictor) -> FloatArray:
    """A phone like the start's in all but its bandwidth, its launch cost, its rate and its fixed cost."""
    features = network_features(networks)
    factors = {"count": 2.0, "gmacs": 0.7, "ms": 0.7, "mb": 0.6}
    changed = start.costs_ms * [0.8, *(factors[name.partition("_")[0]] for name in FEATURES)]
    before = features @ start.costs_ms[1:] + start.costs_ms[0]
    slower: FloatArray = start.predict_ms(networks) * (features @ changed[1:] + changed[0]) / before
    return slower


def sampled(count: int, seed: int) -> list[Architecture]:
    generator = random.Random(seed)
    names = sorted(SPACES)
    return [SPACES[names[place % len(names)]].sample(generator) for place in range(count)]


def noisy(latencies_ms: FloatArray, seed: int = 5) -> FloatArray:
    return latencies_ms * np.exp(np.random.default_rng(seed).normal(0.0, NOISE, len(latencies_ms)))


def log_of(networks: Sequence[Network], latencies_ms: FloatArray) -> DeviceLog:
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        Measurement(
            network, DEVICE, (), float(latency_ms), None, "reported", {"synthetic": "1"}, begun + timedelta(minutes=n)
        )
        for n, (network, latency_ms) in enumerate(zip(networks, latencies_ms, strict=True))
    ]
    return DeviceLog(tuple(rows))


@pytest.fixture(scope="module")
def networks() -> list[tuple[Kernel, ...]]:
    return [kernels.of(architecture, "exported") for architecture in sampled(210, 1)]


@pytest.fixture(scope="module")
def latencies_ms(networks: list[tuple[Kernel, ...]]) -> FloatArray:
    measured = noisy(np.array([synthetic_ms(network) for network in networks]))
    measured[list(WILD)] *= 3
    return measured


@pytest.fixture(scope="module")
def phone() -> LatencyPredictor:
    return LatencyPredictor.load(shipped.predictor_folder("iphone-13-mini"))


@pytest.fixture(scope="module")
def small(networks: list[tuple[Kernel, ...]], latencies_ms: FloatArray) -> LatencyPredictor:
    return fit_device(networks[:36], latencies_ms[:36], GROUP).predictor


@pytest.fixture(scope="module")
def moved(networks: list[tuple[Kernel, ...]], phone: LatencyPredictor) -> LatencyPredictor:
    """Fitted to 10 networks on a sibling of the shipped phone."""
    sibling_ms = synthetic_sibling_ms(networks[:10], phone)
    return fit_device(networks[:10], noisy(sibling_ms), "me@synthetic-phone", start=phone).predictor


def test_150_networks_predict_60_others(networks: list[tuple[Kernel, ...]], latencies_ms: FloatArray) -> None:
    fitted = fit_device(networks[:150], latencies_ms[:150], GROUP)
    predicted = fitted.predictor.predict_ms(networks[150:])
    lower, upper = fitted.predictor.interval_ms(networks[150:], 0.8)
    found = figures(latencies_ms[150:], HeldOut(predicted, lower, upper))
    assert found["within_10_percent"] >= 0.9
    assert found["median_error"] < 0.025
    assert found["spearman"] > 0.98
    assert 0.65 < found["interval_coverage_80"] < 0.95
    assert set(WILD) == set(fitted.wild[: len(WILD)])
    assert len(fitted.wild) <= 12  # a roofline is no sum of costs, and a few networks show it
    expected_ms = np.array([synthetic_ms(networks[place]) for place in WILD])
    np.testing.assert_allclose(fitted.left_out_ms[list(WILD)], expected_ms, rtol=0.2)


def test_a_sort_of_kernel_that_departs_from_its_price_is_learned() -> None:
    """Every network holds a cheap and a dear sort of one class: no sum of features can tell them apart."""
    generator = np.random.default_rng(3)
    sorts = [
        Kernel("conv", (1, 64, 28, 28), 2_000_000, 100_000, 100_000, 8192, kernel_size=(1, 1), stride=(one, 1))
        for one in (1, 2)
    ]
    counts = generator.integers(2, 40, size=(24, 2))
    built = [[kernel for kernel, times in zip(sorts, row, strict=True) for _ in range(times)] for row in counts]
    measured = 0.3 + counts @ [0.01, 0.04]
    own = fit_device(built[:12], measured[:12], GROUP).predictor
    told_apart = np.abs(own.predict_ms(built[12:]) / measured[12:] - 1)
    alike = np.abs(own.predict_from_features_ms(network_features(built[12:])) / measured[12:] - 1)
    assert told_apart.mean() < 0.04
    assert told_apart.mean() < alike.mean() / 3


def test_a_file_from_before_sorts_of_kernels_departed_is_read(
    small: LatencyPredictor, networks: list[tuple[Kernel, ...]], tmp_path: Path
) -> None:
    small.save(tmp_path)
    with np.load(tmp_path / "predictor.npz") as file:
        kept = {name: file[name] for name in file.files if "signature" not in name and name != "shares"}
    kept["log_terms"] = np.delete(kept["log_terms"], 2)
    np.savez_compressed(tmp_path / "predictor.npz", **kept)
    description = json.loads((tmp_path / "predictor.json").read_text())
    del description["arrays_sha256"], description["device_fit"]["terms"]["departure"]
    (tmp_path / "predictor.json").write_text(json.dumps(description))
    old = LatencyPredictor.load(tmp_path)
    features = network_features(networks[36:50])
    np.testing.assert_allclose(old.predict_ms(networks[36:50]), old.predict_from_features_ms(features))
    np.testing.assert_allclose(old.predict_ms(networks[36:50]), small.predict_ms(networks[36:50]), rtol=0.2)
    low, high = old.interval_ms(networks[36:50])
    assert np.all(low < high)
    assert old.outside(networks[36:37]) == small.outside(networks[36:37])


def test_a_start_is_worth_rows(networks: list[tuple[Kernel, ...]], phone: LatencyPredictor) -> None:
    """On a sibling of the start's phone, 10 rows with the start do what 20 do without, and half as badly as 10."""
    sibling_ms = synthetic_sibling_ms(networks, phone)
    measured_ms = noisy(sibling_ms)
    errors: dict[tuple[int, bool], list[float]] = {}
    for draw in range(4):
        places = np.random.default_rng(draw).permutation(150)
        for count, start in ((10, phone), (10, None), (20, None)):
            chosen = places[:count]
            fitted = fit_device([networks[place] for place in chosen], measured_ms[chosen], GROUP, start=start)
            error = np.abs(fitted.predictor.predict_ms(networks[150:]) / sibling_ms[150:] - 1).mean()
            errors.setdefault((count, start is not None), []).append(float(error))
    mean = {case: float(np.mean(values)) for case, values in errors.items()}
    assert mean[10, True] < 0.04
    assert mean[10, True] < mean[10, False] / 2
    assert mean[10, True] < mean[20, False]
    unmoved = np.abs(phone.predict_ms(networks[150:]) / sibling_ms[150:] - 1)
    assert mean[10, True] < unmoved.mean() / 5


def test_the_start_is_the_expectation_before_rows_say_more(
    networks: list[tuple[Kernel, ...]], phone: LatencyPredictor
) -> None:
    """Rows that the start predicts but for a factor leave all but the factor."""
    few = fit_device(networks[:6], 1.5 * phone.predict_ms(networks[:6]), "me@p", start=phone).predictor
    assert few.fit_summary["start_from"] == "iphone-13-mini"
    np.testing.assert_allclose(few.predict_ms(networks), 1.5 * phone.predict_ms(networks), rtol=0.05)


def test_the_order_of_rows_is_irrelevant(networks: list[tuple[Kernel, ...]], latencies_ms: FloatArray) -> None:
    one = fit_device(networks[:20], latencies_ms[:20], GROUP)
    other = fit_device(networks[19::-1], latencies_ms[19::-1], GROUP)
    np.testing.assert_array_equal(one.predictor.predict_ms(networks), other.predictor.predict_ms(networks))
    np.testing.assert_array_equal(one.standard_errors, other.standard_errors[::-1])


def test_repeated_rows_count_as_their_median(networks: list[tuple[Kernel, ...]]) -> None:
    clean = noisy(np.array([synthetic_ms(network) for network in networks[:15]]))
    once = fit_device(networks[:15], clean, GROUP).predictor
    tripled = np.concatenate([clean, clean, 5 * clean])
    thrice = fit_device([*networks[:15]] * 3, tripled, GROUP)
    np.testing.assert_allclose(thrice.predictor.predict_ms(networks), once.predict_ms(networks), rtol=1e-9)
    assert set(thrice.wild) == set(range(30, 45))
    assert thrice.predictor.measurements_ == {"synthetic-core": 45}


@pytest.mark.parametrize("name", ["small", "moved"])
def test_a_saved_fit_is_the_same(
    name: str, networks: list[tuple[Kernel, ...]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fitted: LatencyPredictor = request.getfixturevalue(name)
    fitted.save(tmp_path)
    loaded = LatencyPredictor.load(tmp_path)
    np.testing.assert_allclose(loaded.predict_ms(networks), fitted.predict_ms(networks), rtol=1e-12)
    for ours, theirs in zip(loaded.interval_ms(networks), fitted.interval_ms(networks), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert (loaded.device, loaded.groups_, loaded.measurements_) == (
        fitted.device, fitted.groups_, fitted.measurements_,
    )  # fmt: skip
    assert loaded.fit_summary == fitted.fit_summary
    assert loaded.outside(networks[:5]) == fitted.outside(networks[:5])
    assert (tmp_path / "start" / "predictor.json").exists() == (name == "moved")
    assert not list(tmp_path.rglob("*.tmp"))
    explanation = loaded.explain_ms(networks[0])
    assert explanation.total_ms == pytest.approx(loaded.predict_ms(networks[:1])[0])


def test_a_fit_can_start_from_a_fit(
    networks: list[tuple[Kernel, ...]], moved: LatencyPredictor, tmp_path: Path
) -> None:
    again = fit_device(networks[:5], 2 * moved.predict_ms(networks[:5]), "me@third", start=moved).predictor
    again.save(tmp_path)
    loaded = LatencyPredictor.load(tmp_path)
    np.testing.assert_allclose(loaded.predict_ms(networks), 2 * moved.predict_ms(networks), rtol=0.05)


def test_parts_of_two_fits_are_refused(small: LatencyPredictor, phone: LatencyPredictor, tmp_path: Path) -> None:
    small.save(tmp_path / "one")
    phone.save(tmp_path / "two")
    (tmp_path / "one" / "predictor.npz").replace(tmp_path / "two" / "predictor.npz")
    with pytest.raises(MvigNasError, match="must be of one fit"):
        LatencyPredictor.load(tmp_path / "two")
    (tmp_path / "file").touch()
    with pytest.raises(MvigNasError, match="must be writable"):
        small.save(tmp_path / "file")


def test_a_fit_holds_for_its_device_alone(small: LatencyPredictor) -> None:
    assert small.for_device("synthetic-core").device == "synthetic-core"
    with pytest.raises(MvigNasError, match="must not predict for another device"):
        small.for_device("synthetic-core-2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latencies_ms": [1.0]}, "`latencies_ms` must have one entry a network, got 1 for 4"),
        ({"latencies_ms": [1.0, 2.0, 3.0, 0.0]}, "`latencies_ms` must be positive and finite, got 0.0"),
        ({"latencies_ms": [1.0, 2.0, 3.0, float("nan")]}, "`latencies_ms` must be positive and finite, got nan"),
        ({"group": "synthetic-core"}, "a group must be laboratory@device"),
        ({"same": True}, "a fit needs 3 different measured networks, got 1"),
    ],
)
def test_bad_rows_are_refused(networks: list[tuple[Kernel, ...]], change: dict[str, Any], message: str) -> None:
    chosen = networks[:1] * 4 if "same" in change else networks[:4]
    with pytest.raises(MvigNasError, match=message):
        fit_device(chosen, change.get("latencies_ms", [1.0, 2.0, 3.0, 4.0]), change.get("group", GROUP))


def test_strangers_are_outside(
    networks: list[tuple[Kernel, ...]],
    small: LatencyPredictor,
    phone: LatencyPredictor,
    moved: LatencyPredictor,
) -> None:
    softmax = [Kernel("softmax", (1, 8, 784, 784), 0, 10**7, 10**7, 0, inputs=(-1,))] * 40
    strange = Kernel("aten.cumsum", (1, 8, 56, 56), 0, 10**6, 10**6, 0, inputs=(-1,))
    assert small.outside(networks[:36]) == [[]] * 36
    assert any("softmax" in reason for reason in small.outside([softmax])[0])
    assert any("beyond the slowest" in reason for reason in small.outside([networks[1] * 50])[0])
    assert any("aten.cumsum" in reason for reason in phone.outside([(*networks[0], strange)])[0])
    assert phone.outside([kernels.of(preset, "exported") for preset in PRESETS.values()]) == [[]] * len(PRESETS)
    # what a start has seen is not strange to a fit that began there
    large = [kernels.of(replace(PRESETS["mobilevig_b"], resolution=384), "exported")]
    assert any(small.outside(large))
    assert moved.outside(large) == [[]]
    architecture = sampled(1, 1)[0]
    assert ArchitectureLatency(small).outside([architecture]) == [[]]


def rows_from(networks: Sequence[Sequence[Kernel]], latencies_ms: FloatArray, kin: Sequence[str] = ()) -> Rows:
    labels = tuple(str(place // 2) for place in range(len(networks)))
    return Rows.of_one_device(networks, latencies_ms, labels, tuple(kin) or ("one",) * len(networks), GROUP)


def test_parts_keep_a_network_together(networks: list[tuple[Kernel, ...]], latencies_ms: FloatArray) -> None:
    rows = rows_from(networks[:20], latencies_ms[:20], ["a", "b"] * 10)
    parts = folds(rows, 3, seed=1)
    assert sorted(place for part in parts for place in part) == list(range(20))
    for part in parts:
        assert {place ^ 1 for place in part} == set(part)
    assert parts == folds(rows, 3, seed=1) != folds(rows, 3, seed=2)
    assert family_folds(rows) == [list(range(0, 20, 2)), list(range(1, 20, 2))]
    with pytest.raises(MvigNasError, match="leaving a family out needs rows of 2 families, got only one"):
        family_folds(rows_from(networks[:20], latencies_ms[:20]))
    for count, k in ((8, 3), (20, 11)):
        with pytest.raises(MvigNasError, match="cross-validation needs 6 networks"):
            folds(rows_from(networks[:count], latencies_ms[:count]), k, 0)


def test_figures_are_what_they_say() -> None:
    measured = np.array([1.0, 2.0, 4.0, 8.0])
    answer = HeldOut(np.array([1.02, 2.0, 4.36, 6.0]), 0.9 * measured, np.array([1.1, 1.9, 5.0, 9.0]))
    found = figures(measured, answer)
    assert found["within_5_percent"] == 0.5
    assert found["within_10_percent"] == 0.75
    assert found["mape"] == pytest.approx((0.02 + 0.09 + 0.25) / 4)
    assert found["median_error"] == pytest.approx(0.055)
    assert (found["kendall_tau"], found["spearman"]) == pytest.approx((1.0, 1.0))
    assert found["interval_coverage_80"] == 0.75
    middle = false_accepts(measured, HeldOut(np.array([1.0, 2.0, 2.5, 9.0]), measured, np.array([2.0, 2.9, 3.1, 9.0])))
    assert middle[1]["budget_ms"] == 3.0
    assert middle[1]["by_prediction_accepted"] == 3.0
    assert middle[1]["by_prediction_false_share"] == pytest.approx(1 / 3)
    assert (middle[1]["by_upper_end_accepted"], middle[1]["by_upper_end_false_share"]) == (2.0, 0.0)
    ranges = errors_by_range(measured, answer)
    assert [each["from_ms"] for each in ranges] == [1.0, 2.0, 4.0, 8.0]
    assert ranges[3]["median_error"] == pytest.approx(0.25)


def test_it_beats_the_baselines(networks: list[tuple[Kernel, ...]], latencies_ms: FloatArray) -> None:
    rows = rows_from(networks[:50], latencies_ms[:50])
    answers = hold_out(rows, folds(rows, 2, 0), None, 0)
    truth = np.array([synthetic_ms(network) for network in networks[:50]])
    errors = {name: float(np.median(np.abs(answer.predicted_ms / truth - 1))) for name, answer in answers.items()}
    assert set(errors) == {OWN, *BASELINES}
    assert all(errors[OWN] < errors[name] < 0.5 for name in BASELINES)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_learn(name: str, networks: list[tuple[Kernel, ...]]) -> None:
    truth = np.array([synthetic_ms(network) for network in networks])
    fitted = BASELINES[name]().fit(networks[:150], truth[:150])
    errors = np.abs(fitted.predict_ms(networks[150:]) / truth[150:] - 1)
    assert np.median(errors) < 0.1
    assert fitted.predict_ms([[Kernel("conv", (1, 7, 3, 3), 99, 99, 99, 99)]])[0] > 0  # a signature never seen


def test_the_learning_curve_falls(networks: list[tuple[Kernel, ...]], phone: LatencyPredictor) -> None:
    measured_ms = noisy(synthetic_sibling_ms(networks[:30], phone))
    rows = Rows.of_one_device(
        networks[:30], measured_ms, tuple(str(place) for place in range(30)), ("one",) * 30, GROUP
    )
    points = learning_curve(rows, phone, seed=0)
    assert [point["networks"] for point in points[::2]] == [5, 10, 20, 21]
    median = {(point["networks"], point["start"]): float(point["median_error"]) for point in points}
    assert median[20, "from scratch"] < median[5, "from scratch"]
    assert median[10, "from iphone-13-mini"] < median[10, "from scratch"]


def test_kernels_of_a_log(tmp_path: Path) -> None:
    architecture = sampled(1, 3)[0]
    subjects: list[Network] = [architecture, TimmNetwork("test_resnet", 64), TimmNetwork("test_resnet", 96)]
    log = log_of(subjects, np.array([1.0, 2.0, 3.0]))
    found = log_networks(log, tmp_path)
    assert found[0] == kernels.of(architecture, "exported")
    assert sum(kernel.macs for kernel in found[1]) < sum(kernel.macs for kernel in found[2])
    assert families(subjects) == ["mobilevig", "resnet", "resnet"]
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    assert log_networks(log, tmp_path) == found
    assert [path.stat().st_mtime_ns for path in kept] == before
    kept[0].write_bytes(b"damaged")
    assert log_networks(log, tmp_path) == found


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Package("0123456789abcdef"), "must be known to fit it, got only the fingerprint 0123456789abcdef"),
        (TimmNetwork("resnet81", 64), "has no model 'resnet81'; did you mean"),
        (TimmNetwork("test_vit", 65), "test_vit at the row's resolution: the network must run at 65 x 65 px"),
    ],
)
def test_networks_without_kernels_are_refused(network: Network, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, log_of([network], np.array([1.0])))
    with pytest.raises(MvigNasError, match=message) as caught:
        log_networks(read(path), tmp_path)
    assert str(caught.value).startswith(f"{path}, line 1: ")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mvig-nas", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory, latencies_ms: FloatArray) -> Path:
    path = tmp_path_factory.mktemp("log") / "synthetic.jsonl"
    write(path, log_of(sampled(24, 1), latencies_ms[:24]))
    return path


def test_fit_show_and_use(
    log_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "core"
    arguments = ["predictor", "fit", str(log_path), "--out", str(folder), "--k-fold", "2"]
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr()
    assert "24 rows of 24 networks" in printed.out
    assert f"{log_path}, line 4" in printed.err  # the row that the synthetic device measured three times too slow
    card = json.loads((folder / "card.json").read_text())
    assert card["device"]["name"] == "synthetic-core"
    assert card["data"]["rows"] == 24
    assert {row["place"] for row in card["wild_rows"]} == {f"{log_path}, line 4"}
    assert set(card["evaluation"]["figures"]) == {OWN, *BASELINES}
    assert {"mvig-nas", "timm"} <= set(card["versions"])
    assert "NaN" not in (folder / "card.json").read_text()

    assert run(monkeypatch, "predictor", "show", str(folder)) == 0
    shown = capsys.readouterr().out
    page = (folder / "card.md").read_text()
    for name in (OWN, *BASELINES):
        assert f"| {name} |" in page
        assert name.split()[0] in shown
    assert "|" not in shown
    assert run(monkeypatch, "predictor", "show", str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out) == card

    large = tmp_path / "large.json"
    large.write_text(replace(PRESETS["mobilevig_b"], resolution=384).to_json())
    assert run(monkeypatch, "describe", str(large), "--device", str(folder)) == 0
    assert "warning: this network is unlike the networks measured" in capsys.readouterr().err
    winner = tmp_path / "winner.json"
    winner.write_text(sampled(24, 1)[1].to_json())
    assert run(monkeypatch, "describe", str(winner), "--device", str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["outside"] == []

    assert run(monkeypatch, *arguments) == 1
    assert "a predictor is never overwritten" in capsys.readouterr().err


def test_evaluate(
    log_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "figures"
    arguments = ["predictor", "evaluate", str(log_path), "--k-fold", "2", "--start-from", "iphone-13-mini"]
    assert run(monkeypatch, *arguments, "--out", str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((folder / "evaluation.json").read_text())
    assert {point["start"] for point in found["learning_curve"]} == {"from scratch", "from iphone-13-mini"}
    assert len(found["false_accepts"]) == 3
    assert len(found["by_latency"]) == 4
    for name in ("calibration.png", "learning_curve.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert run(monkeypatch, "predictor", "evaluate", str(log_path), "--by", "family") == 1
    assert "needs rows of 2 families, got only mobilevig" in capsys.readouterr().err


def test_evaluate_by_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    subjects: list[Network] = [*sampled(9, 1), *(TimmNetwork("test_resnet", size) for size in range(64, 160, 32))]
    log = log_of(subjects, np.ones(len(subjects)))
    latencies_ms = noisy(np.array([synthetic_ms(network) for network in log_networks(log, tmp_path)]))
    write(tmp_path / "log.jsonl", log_of(subjects, latencies_ms))
    assert run(monkeypatch, "predictor", "evaluate", str(tmp_path / "log.jsonl"), "--by", "family") == 0
    printed = capsys.readouterr().out
    assert "leave one family out" in printed
    assert "resnet" in printed
    assert "|" not in printed
    assert list((tmp_path / "cache").rglob("test_resnet@64-*.npz"))
    assert rows_of(log, tmp_path).families == ("mobilevig",) * 9 + ("resnet",) * 3


def test_show_a_shipped_predictor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "predictor", "show", "iphone-12") == 0
    assert "median error" in capsys.readouterr().out
    assert run(monkeypatch, "predictor", "show", "iphone-12", "--json") == 0
    assert json.loads(capsys.readouterr().out)["chip"] == "A14"


def test_a_damaged_card_is_refused(
    small: LatencyPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small.save(tmp_path)
    for text, message in (("{", "a card must be readable JSON"), ("{}", "a card must be of schema 1")):
        (tmp_path / "card.json").write_text(text)
        assert run(monkeypatch, "predictor", "show", str(tmp_path)) == 1
        assert message in capsys.readouterr().err


def test_intervals_of_few_rows_are_not_too_narrow(networks: list[tuple[Kernel, ...]], latencies_ms: FloatArray) -> None:
    inside = []
    strangers, measured_ms = networks[150:], latencies_ms[150:]
    for begin in range(0, 96, 12):
        few = slice(begin, begin + 8)
        predictor = fit_device(networks[few], noisy(np.array([synthetic_ms(each) for each in networks[few]])), GROUP)
        lower, upper = predictor.predictor.interval_ms(strangers, 0.8)
        inside.append(float(((lower <= measured_ms) & (measured_ms <= upper)).mean()))
    assert 0.65 < np.mean(inside) < 0.97


def test_families_left_out_widen_the_intervals(networks: list[tuple[Kernel, ...]]) -> None:
    """A family here has a layer of its own, and the synthetic device does something to it and to no other."""
    kin = [str(place % 10) for place in range(60)]
    factors = np.exp(np.random.default_rng(1).normal(0, 0.2, 10))
    own = [
        Kernel("conv", (1, 8 * (family + 1), 28, 28), 2_000_000, 100_000, 100_000, 8192, kernel_size=(1, 1))
        for family in range(10)
    ]
    built = [(*network, *[own[int(name)]] * 4) for network, name in zip(networks[:60], kin, strict=True)]
    measured = noisy(np.array([synthetic_ms(each) for each in built])) * [factors[int(name)] for name in kin]
    strangers = networks[60:70]

    def width(families: list[str] | None) -> float:
        fitted = fit_device(built, measured, GROUP, families=families).predictor
        lower, upper = fitted.interval_ms(strangers, 0.8)
        return float(np.log(upper / lower).mean())

    assert width(kin) > 1.1 * width(None)
    # one family that is most of the rows says nothing of strangers
    assert width(["one"] * 50 + kin[50:]) == width(None)
    with pytest.raises(MvigNasError, match="`families` must have one entry a network, got 2 for 60 networks"):
        fit_device(built, measured, GROUP, families=["a", "b"])
