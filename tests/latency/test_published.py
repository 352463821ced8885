"""The shipped rows and predictors: complete, consistent, and made again from each other."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency_published import choose
from mvig_nas.architecture import preset
from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel, of
from mvig_nas.latency import LatencyPredictor, network_features, published
from mvig_nas.latency.held_out import KNOWN, UNKNOWN, HeldOut, figures, hold_out_pooled, parts_of
from mvig_nas.latency.published import DEVICES, load_kernels, read_published, save_kernels
from mvig_nas.latency.rows import Rows, device_of

SHIPPED = Path(__file__).parents[2] / "predictors"


@pytest.fixture(scope="module")
def rows() -> Rows:
    return read_published(SHIPPED / "published")


@pytest.fixture(scope="module")
def few(rows: Rows) -> Rows:
    families = ("MobileNetV2", "RepViT", "ResNet", "MobileViG")
    return rows.where(np.array([family in families for family in rows.families]))


def test_every_row_has_a_source_and_a_network(rows: Rows) -> None:
    with (SHIPPED / "published" / "measurements.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows.networks) >= 350
    assert all(row["source_url"].startswith("http") and row["locator"] for row in table)
    assert not any(tag in row["notes"] for row in table for tag in ("[EXCLUDE-FIT]", "[DUP]", "[COPY?]", "[ABLATION]"))
    assert set(rows.networks) == set(load_kernels(SHIPPED / "published" / "kernels.npz"))
    assert {device_of(group) for group in rows.groups} == set(DEVICES)
    assert np.all((rows.weights > 0) & (rows.weights <= 1))


@pytest.mark.parametrize("name", ["mobilevig_ti", "mobilevig_s", "mobilevig_m", "mobilevig_b"])
def test_published_mobilevig_is_the_reference_form(name: str) -> None:
    kernels = load_kernels(SHIPPED / "published" / "kernels.npz")
    assert kernels[f"{name}@224"] == of(preset(name), form="reference")


@pytest.mark.parametrize("device", DEVICES)
def test_shipped_predictors_load_and_know_how_good_they_are(device: str, rows: Rows) -> None:
    predictor = LatencyPredictor.load(SHIPPED / device)
    own = sum(device_of(group) == device for group in rows.groups)
    assert (predictor.device, predictor.measurements_[device]) == (device, own)
    assert predictor.errors_["measurements"] == own
    assert predictor.errors_["all_measurements"] == len(rows.networks)
    assert predictor.errors_["all_median_error"] <= 0.12
    assert predictor.errors_["all_spearman"] >= 0.95
    assert 0.75 <= predictor.errors_["all_coverage80"] <= 0.90
    lower, upper = predictor.interval_from_features_ms(rows.features)
    predicted = predictor.predict_from_features_ms(rows.features)
    assert np.all((lower > 0.2) & (lower < predicted) & (predicted < upper) & (upper < 500))


def test_the_shipped_predictors_are_made_again_from_the_shipped_rows(rows: Rows, tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "published", tmp_path / "published")
    published.main(tmp_path)
    for device in DEVICES:
        ours, shipped = LatencyPredictor.load(tmp_path / device), LatencyPredictor.load(SHIPPED / device)
        np.testing.assert_allclose(
            ours.predict_from_features_ms(rows.features), shipped.predict_from_features_ms(rows.features), rtol=2e-3
        )
        assert ours.errors_ == shipped.errors_


def test_mobilevig_is_predicted_near_its_authors() -> None:
    """Published for the iPhone 13 mini: Ti 0.78 ms, B 2.30 ms."""
    predictor = LatencyPredictor.load(SHIPPED / "iphone-13-mini")
    lower, upper = predictor.interval_ms(
        [of(preset("mobilevig_ti"), "reference"), of(preset("mobilevig_b"), "reference")]
    )
    assert lower[0] < 0.78 < upper[0]
    assert lower[1] < 2.30 < upper[1]


def test_the_archive_gives_back_what_it_took(tmp_path: Path) -> None:
    networks = {
        "a": (
            Kernel("conv", (1, 4, 2, 2), 10**12, 6, 32, 8, 3, (3, 1), (2, 2), 2, (-1,)),
            Kernel("add", (1,), 0, 4, 2, 0),
        ),
        "empty": (),
        "b": (Kernel("softmax", (1, 2, 3, 4, 5), 0, 240, 240, 0, inputs=(0, 0)),),
    }
    save_kernels(tmp_path / "kernels.npz", networks)
    assert load_kernels(tmp_path / "kernels.npz") == networks


def test_a_family_left_out_is_not_learned_from(few: Rows) -> None:
    def quick(train: Rows) -> LatencyPredictor:
        device = device_of(train.groups[0])
        return LatencyPredictor(device=device, bags=1, calibration_folds=0).fit_rows(train)

    answers = hold_out_pooled(few, parts_of(few.families), quick)
    known, unknown = answers[KNOWN], answers[UNKNOWN]
    out = np.array([family == "ResNet" for family in few.families])
    alone = quick(few.where(~out))
    for row in np.flatnonzero(out)[:3]:
        aimed, features = alone.for_device(device_of(few.groups[row])), few.features[row : row + 1]
        assert known.predicted_ms[row] == aimed.predict_from_features_ms(features, few.groups[row])[0]
        assert unknown.predicted_ms[row] == aimed.predict_from_features_ms(features)[0]
    changed = replace(few, latencies_ms=np.where(out, few.latencies_ms * 5, few.latencies_ms))
    again = hold_out_pooled(changed, parts_of(changed.families), quick)[KNOWN]
    np.testing.assert_array_equal(again.predicted_ms[out], known.predicted_ms[out])


def test_errors_by_hand() -> None:
    factors = np.array([1.1, 0.7, 1.0])
    measured = np.array([1.0, 2.0, 4.0])
    found = figures(measured, HeldOut(measured * factors, measured * 0.9, measured * factors))
    assert found["median_error"] == pytest.approx(0.1)
    assert found["mape"] == pytest.approx((0.1 + 0.3) / 3)
    assert (found["spearman"], found["interval_coverage_80"]) == (pytest.approx(1.0), pytest.approx(2 / 3))


def test_choose_takes_the_better_candidate(few: Rows) -> None:
    absurd, sound = {"cost_spread": 1e-3}, {"cost_spread": 2.0}
    assert choose(few, [absurd, sound], folds=2) == sound


def test_a_broken_published_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match=r"must hold measurements.csv and kernels.npz"):
        read_published(tmp_path)
    shutil.copy(SHIPPED / "published" / "measurements.csv", tmp_path)
    save_kernels(tmp_path / "kernels.npz", {"other": (Kernel("relu", (1, 1), 0, 2, 2, 0),)})
    with pytest.raises(MvigNasError, match=r"each network of measurements.csv must be in kernels.npz, '.*' is not"):
        read_published(tmp_path)


def test_features_of_shipped_kernels_are_finite(rows: Rows) -> None:
    assert np.all(np.isfinite(rows.features))
    assert np.all(rows.features >= 0)
    assert network_features([of(preset("mobilevig_ti"))]).shape == rows.features[:1].shape
