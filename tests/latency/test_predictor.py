"""The contract of LatencyPredictor, on synthetic phones whose physics is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency import FEATURES, LatencyPredictor, kernel_features, network_features
from mvig_nas.latency.features import FloatArray
from mvig_nas.latency.pooled import fit_residual
from mvig_nas.latency.rows import Rows


def conv(channels: int, size: int, kernel: int = 1, groups: int = 1) -> Kernel:
    elements = channels * size * size
    per_output = channels // groups * kernel * kernel
    return Kernel(
        kind="conv", shape=(1, channels, size, size), macs=elements * per_output, bytes_in=2 * elements,
        bytes_out=2 * elements, bytes_weights=2 * channels * per_output, parameters=channels * per_output,
        kernel_size=(kernel, kernel), groups=groups, inputs=(-1,),
    )  # fmt: skip


def network(generator: np.random.Generator) -> list[Kernel]:
    kernels: list[Kernel] = []
    for size in (56, 28, 14, 7):
        channels = int(generator.integers(2, 12)) * 392 // size
        for _ in range(int(generator.integers(1, 6))):
            kernels += [conv(channels, size), conv(channels, size, 3, channels)]
            elements = channels * size * size
            kernels.append(Kernel("gelu", (1, channels, size, size), 0, 2 * elements, 2 * elements, 0, inputs=(0,)))
    return kernels


def true_ms(kernels: list[Kernel], scale: float = 1.0) -> float:
    weights = sum(kernel.bytes_weights for kernel in kernels) / 1e6
    depthwise = sum(kernel.bytes_in for kernel in kernels if kernel.groups > 1) / 1e6
    return scale * (0.45 + 0.02 * weights + 0.03 * depthwise)


@pytest.fixture(scope="module")
def networks() -> list[list[Kernel]]:
    generator = np.random.default_rng(7)
    return [network(generator) for _ in range(24)]


@pytest.fixture(scope="module")
def latencies_ms(networks: list[list[Kernel]]) -> FloatArray:
    noise = np.random.default_rng(8).normal(0.0, 0.03, len(networks))
    return np.array([true_ms(kernels) for kernels in networks]) * np.exp(noise)


@pytest.fixture(scope="module")
def fitted(networks: list[list[Kernel]], latencies_ms: FloatArray) -> LatencyPredictor:
    return LatencyPredictor(device="iphone-12", bags=2).fit(networks, latencies_ms)


def test_it_learns_the_phone(fitted: LatencyPredictor) -> None:
    generator = np.random.default_rng(9)
    strangers = [network(generator) for _ in range(20)]
    truth = np.array([true_ms(kernels) for kernels in strangers])
    assert np.median(np.abs(fitted.predict_ms(strangers) / truth - 1)) < 0.05


def test_a_second_fit_forgets_the_first(networks: list[list[Kernel]], latencies_ms: FloatArray) -> None:
    once = LatencyPredictor(device="iphone-12", bags=1).fit(networks, latencies_ms)
    twice = LatencyPredictor(device="iphone-12", bags=1).fit(networks[:9], latencies_ms[:9] * 3)
    twice.errors_ = {"median_error": 0.5}
    assert twice.fit(networks, latencies_ms) is twice
    np.testing.assert_array_equal(twice.predict_ms(networks), once.predict_ms(networks))
    assert (twice.errors_, twice.measurements_) == ({}, {"iphone-12": 24})


def test_the_order_of_rows_is_irrelevant(
    fitted: LatencyPredictor, networks: list[list[Kernel]], latencies_ms: FloatArray
) -> None:
    turned = LatencyPredictor(device="iphone-12", bags=2).fit(networks[::-1], latencies_ms[::-1])
    np.testing.assert_array_equal(turned.predict_ms(networks), fitted.predict_ms(networks))


def test_terms_so_far_apart_that_rounding_decides_do_not_stop_a_fit() -> None:
    """What a line search may try: every network nearly alike, and next to no noise between them."""
    count = 40
    inputs = np.linspace(0.0, 1.0, count)[:, None] ** 3
    group = ("a@iphone-12",) * count
    names = tuple(f"n{row}" for row in range(count))
    rows = Rows(names, names, group, np.ones(count), np.ones(count), np.zeros((count, len(FEATURES))))
    far = np.log([3e4, 30.0, 1e-8, 3e4, 3e4, 1e-8, 1e-8, 1e-8])
    residuals = np.sin(5 * inputs[:, 0])
    found = fit_residual(inputs, residuals, rows, far)
    assert np.all(np.isfinite(found.log_terms))
    np.testing.assert_allclose(found.mean(inputs, "A14", "iphone-12", "a@iphone-12"), residuals, atol=0.3)


def test_inputs_are_left_alone(networks: list[list[Kernel]], latencies_ms: FloatArray) -> None:
    features = network_features(networks)
    before = features.copy(), latencies_ms.copy()
    LatencyPredictor(bags=1, calibration_folds=0).fit_from_features(features, latencies_ms)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(latencies_ms, before[1])


def test_a_saved_predictor_is_the_same(fitted: LatencyPredictor, networks: list[list[Kernel]], tmp_path: Path) -> None:
    fitted.save(tmp_path / "phone")
    loaded = LatencyPredictor.load(tmp_path / "phone")
    np.testing.assert_allclose(loaded.predict_ms(networks), fitted.predict_ms(networks), rtol=1e-12)
    for ours, theirs in zip(loaded.interval_ms(networks), fitted.interval_ms(networks), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert (loaded.device, loaded.measurements_, loaded.groups_) == ("iphone-12", {"iphone-12": 24}, ("one@iphone-12",))
    assert {path.name for path in (tmp_path / "phone").iterdir()} == {"predictor.json", "predictor.npz"}


def test_intervals_hold_the_prediction_and_widen(fitted: LatencyPredictor, networks: list[list[Kernel]]) -> None:
    predicted = fitted.predict_ms(networks)
    width = np.zeros(len(networks))
    for coverage in (0.5, 0.8, 0.95):
        lower, upper = fitted.interval_ms(networks, coverage)
        assert np.all((lower > 0) & (lower < predicted) & (predicted < upper))
        assert np.all(upper - lower > width)
        width = upper - lower


def test_a_stranger_is_less_certain_than_a_known_network(
    fitted: LatencyPredictor, networks: list[list[Kernel]]
) -> None:
    strange = [Kernel("softmax", (1, 8, 784, 784), 0, 10**7, 10**7, 0, inputs=(-1,))] * 40

    def width(kernels: list[Kernel]) -> float:
        lower, upper = fitted.interval_ms([kernels])
        return float(np.log(upper / lower)[0])

    assert width(strange) > width(networks[0])


def test_the_explanation_sums_to_the_prediction(fitted: LatencyPredictor, networks: list[list[Kernel]]) -> None:
    explanation = fitted.explain_ms(networks[0])
    assert explanation.total_ms == pytest.approx(fitted.predict_ms(networks[:1])[0], rel=1e-12)
    assert explanation.kernels_ms.shape == (len(networks[0]),)
    assert explanation.kernels_ms.min() >= 0 < explanation.fixed_ms


def test_features_add_up(fitted: LatencyPredictor, networks: list[list[Kernel]]) -> None:
    both = networks[0] + networks[1]
    np.testing.assert_allclose(
        kernel_features(both).sum(axis=0), network_features(networks[:2]).sum(axis=0), rtol=1e-12
    )
    np.testing.assert_array_equal(
        fitted.predict_from_features_ms(network_features(networks)), fitted.predict_ms(networks)
    )
    assert network_features([]).shape == (0, len(FEATURES))


def test_a_slow_laboratory_slows_only_itself(networks: list[list[Kernel]], latencies_ms: FloatArray) -> None:
    """The constant factor of one (laboratory, device) is kept apart from the physics."""
    groups = [("calm" if place % 2 else "slow") + "@iphone-13" for place in range(len(networks))]
    factor = np.array([1.0 if place % 2 else 1.4 for place in range(len(networks))])

    def fit(latencies: FloatArray) -> LatencyPredictor:
        return LatencyPredictor(device="iphone-13", bags=2, calibration_folds=0).fit(networks, latencies, groups)

    plain, slowed = fit(latencies_ms), fit(latencies_ms * factor)
    calm = slowed.predict_ms(networks, "calm@iphone-13") / plain.predict_ms(networks, "calm@iphone-13")
    slow = slowed.predict_ms(networks, "slow@iphone-13") / plain.predict_ms(networks, "slow@iphone-13")
    either = slowed.predict_ms(networks) / plain.predict_ms(networks)
    assert np.median(np.abs(calm - 1)) < 0.07
    assert 1.25 < np.median(slow) < 1.45
    assert np.median(calm) < np.median(either) < np.median(slow)


def test_an_unknown_laboratory_is_less_certain(networks: list[list[Kernel]], latencies_ms: FloatArray) -> None:
    groups = [f"lab{place % 3}@iphone-13" for place in range(len(networks))]
    spread = np.array([(0.8, 1.0, 1.25)[place % 3] for place in range(len(networks))])
    predictor = LatencyPredictor(device="iphone-13", bags=1, calibration_folds=0)
    predictor.fit(networks, latencies_ms * spread, groups)
    widths = [
        float(np.log(np.divide(*predictor.interval_ms(networks[:1], group=group)[::-1]))[0])
        for group in (None, "lab0@iphone-13")
    ]
    assert widths[0] > widths[1]


def test_chips_are_learned_together(networks: list[list[Kernel]], latencies_ms: FloatArray) -> None:
    groups = [f"lab@{'iphone-12' if place % 2 else 'iphone-13'}" for place in range(len(networks))]
    faster = np.array([1.0 if place % 2 else 0.7 for place in range(len(networks))])
    predictor = LatencyPredictor(device="iphone-12", bags=1, calibration_folds=0)
    predictor.fit(networks, latencies_ms * faster, groups)
    newer = predictor.for_device("iphone-13")
    assert np.median(newer.predict_ms(networks) / predictor.predict_ms(networks)) < 0.9
    assert newer.device == "iphone-13"
    assert predictor.measurements_ == {"iphone-12": 12, "iphone-13": 12}


def test_one_wild_row_does_not_bend_the_rest(
    fitted: LatencyPredictor, networks: list[list[Kernel]], latencies_ms: FloatArray
) -> None:
    wild = latencies_ms.copy()
    wild[3] *= 6
    predictor = LatencyPredictor(device="iphone-12", bags=2, calibration_folds=0).fit(networks, wild)
    others = [kernels for place, kernels in enumerate(networks) if place != 3]
    assert np.median(np.abs(predictor.predict_ms(others) / fitted.predict_ms(others) - 1)) < 0.15


@pytest.mark.parametrize("call", ["predict_ms", "interval_ms", "explain_ms", "save", "for_device"])
def test_an_unfitted_predictor_says_so(call: str, tmp_path: Path) -> None:
    argument = {"save": tmp_path, "for_device": "iphone-13"}.get(call, [[conv(8, 7)]])
    with pytest.raises(MvigNasError, match="must be fitted before it predicts"):
        getattr(LatencyPredictor(), call)(argument)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latencies_ms": [1.0]}, "`latencies_ms` must have one entry a network, got 1 for 2"),
        ({"latencies_ms": [1.0, -1.0]}, "`latencies_ms` must be positive and finite, got -1.0"),
        ({"latencies_ms": [1.0, float("nan")]}, "`latencies_ms` must be positive and finite, got nan"),
        ({"weights": [1.0, 0.0]}, "`weights` must be positive and finite, got 0.0"),
        ({"groups": ["me@iphone-13"]}, "`groups` must have one entry a network"),
        ({"families": ["a"]}, "`families` must have one entry a network"),
        ({"groups": ["iphone-13", "me@iphone-13"]}, "a group must be laboratory@device, got 'iphone-13'"),
        ({"groups": ["me@iphone-12"] * 2}, "some measurement must be of 'iphone-13-mini'"),
        ({"networks": [], "latencies_ms": []}, "fit needs at least 2 measured networks, got 0"),
    ],
)
def test_bad_rows_are_refused(change: dict[str, list[object]], message: str) -> None:
    arguments = {"networks": [[conv(8, 7)], [conv(16, 7)]], "latencies_ms": [1.0, 2.0]} | change
    with pytest.raises(MvigNasError, match=message):
        LatencyPredictor().fit(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cost_spread", "chip_spread", "group_spread", "noise", "huber"])
def test_bad_hyperparameters_are_refused(name: str) -> None:
    with pytest.raises(MvigNasError, match=rf"`{name}` must be a number above 0, got 0"):
        LatencyPredictor(**{name: 0.0})  # type: ignore[arg-type]
    with pytest.raises(MvigNasError, match="`bags` must be a whole number of at least 1, got 0"):
        LatencyPredictor(bags=0)


def test_bad_coverage_and_device_are_refused(fitted: LatencyPredictor, networks: list[list[Kernel]]) -> None:
    with pytest.raises(MvigNasError, match=r"`coverage` must be in \(0, 1\), got 80"):
        fitted.interval_ms(networks, 80)
    with pytest.raises(MvigNasError, match="must share a chip with one that was measured, got 'iphone-13'"):
        fitted.for_device("iphone-13")


def test_bad_folders_are_refused(fitted: LatencyPredictor, tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match=r"must hold predictor.json and predictor.npz"):
        LatencyPredictor.load(tmp_path)
    fitted.save(tmp_path)
    description = json.loads((tmp_path / "predictor.json").read_text())
    for change, message in (({"schema_version": 99}, "schema must be 1, got 99"), ({"features": []}, "uses others")):
        (tmp_path / "predictor.json").write_text(json.dumps(description | change))
        with pytest.raises(MvigNasError, match=message):
            LatencyPredictor.load(tmp_path)
    (tmp_path / "predictor.json").write_text("{")
    with pytest.raises(MvigNasError, match=r"a predictor must be readable JSON, got .*predictor.json; fit it again"):
        LatencyPredictor.load(tmp_path)
    no_bags = description["hyperparameters"] | {"bags": 0}
    for change, message in (
        ({"hyperparameters": no_bags}, r"`hyperparameters\.bags` must be a whole number of at least 1, got 0"),
        ({"chips": "A14"}, "`chips` must be a list, got 'A14'"),
        ({"interval_scale": 2**31}, "`interval_scale` must be a number of at most 100, got "),
        ({"errors": {"mape": "low"}}, r"`errors\[\.\.\.\]` must be a number, got "),
    ):
        (tmp_path / "predictor.json").write_text(json.dumps(description | change))
        with pytest.raises(MvigNasError, match=rf"predictor\.json: {message}"):
            LatencyPredictor.load(tmp_path)
    (tmp_path / "predictor.json").write_text(json.dumps(description))
    for content in (b"", b"PK", b"x" * 1000):
        (tmp_path / "predictor.npz").write_bytes(content)
        with pytest.raises(MvigNasError, match=r"predictor\.npz must hold the arrays of a fit"):
            LatencyPredictor.load(tmp_path)
