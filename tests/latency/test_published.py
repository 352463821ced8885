"""The shipped rows and predictors: complete, consistent, and made again from each other."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from benchmarks.latency_published import choose
from mvig_nas.architecture import preset
from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel, of, trace
from mvig_nas.latency import LatencyPredictor, network_features, published
from mvig_nas.latency.features import attention_beyond
from mvig_nas.latency.held_out import (
    KNOWN,
    UNKNOWN,
    HeldOut,
    error_sizes,
    figures,
    hold_out_pooled,
    interval_scale,
    parts_of,
    scaled_by_device,
)
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
    assert 0.75 <= predictor.errors_["coverage80"] <= 0.87
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
        assert ours.interval_scale_ == shipped.interval_scale_ != 1


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


def test_a_device_whose_errors_are_large_gets_wider_intervals() -> None:
    assert interval_scale(np.array([])) == 1
    assert interval_scale(np.full(20, 4.0)) == pytest.approx(2.0)  # half way to 4, in log
    assert interval_scale(np.full(20, 0.25)) == pytest.approx(0.5)
    # of 9 errors the largest is the one that covers a next row with 80 %
    sizes = np.linspace(0.1, 0.9, 9)
    assert interval_scale(sizes) == pytest.approx(np.quantile(sizes, 8 / 9) ** (9 / 29))


def test_a_familys_own_errors_do_not_scale_its_intervals(few: Rows) -> None:
    half = np.exp(np.full(len(few.networks), 0.1))
    predicted = few.latencies_ms * np.exp(0.2)
    narrow = HeldOut(predicted, predicted / half, predicted * half)
    np.testing.assert_allclose(error_sizes(few.latencies_ms, narrow), 2)
    out = np.array([family == "ResNet" for family in few.families])
    wild = replace(few, latencies_ms=np.where(out, few.latencies_ms * 9, few.latencies_ms))
    before, after = scaled_by_device(few, narrow), scaled_by_device(wild, narrow)
    np.testing.assert_array_equal(after.upper_ms[out], before.upper_ms[out])
    assert (after.upper_ms[~out] > before.upper_ms[~out]).any()
    assert (before.upper_ms >= narrow.upper_ms).all()  # a device of one family has no others


def test_a_scale_is_kept_and_scales_both_ends(rows: Rows, tmp_path: Path) -> None:
    predictor = LatencyPredictor.load(SHIPPED / "iphone-14")
    scale = predictor.interval_scale_
    wide = [np.log(each) for each in predictor.interval_from_features_ms(rows.features[:3])]
    middle = np.log(predictor.predict_from_features_ms(rows.features[:3]))
    predictor.save(tmp_path / "kept")
    assert LatencyPredictor.load(tmp_path / "kept").interval_scale_ == scale
    predictor.interval_scale_ = 1.0
    plain = [np.log(each) for each in predictor.interval_from_features_ms(rows.features[:3])]
    for end, unscaled in zip(wide, plain, strict=True):
        np.testing.assert_allclose(end - middle, (unscaled - middle) * scale)
    assert predictor.for_device("iphone-13").interval_scale_ == 1


def test_attention_beyond_what_was_published_is_a_guess() -> None:
    """An EfficientViT was measured at 7.8 ms at 512 pixels, where 1.7 ms had been predicted."""
    known = load_kernels(SHIPPED / "published" / "kernels.npz")
    assert [name for name, network in known.items() if attention_beyond(network)] == ["pvt_v2_b1@512-features"]
    predictor = LatencyPredictor.load(SHIPPED / "iphone-13")
    for side, said in ((224, []), (512, ["its attention runs in 25 windows, which may leave the Neural Engine"])):
        with torch.device("meta"):
            network = timm.create_model("efficientvit_m4", features_only=True, img_size=side).eval()
        (reasons,) = predictor.outside([trace(network, (3, side, side))])
        assert [reason.partition(";")[0] for reason in reasons] == said
    whole = Kernel("matmul", (1, 5000, 64), 10**6, 6, 32, 0)
    assert "over 5,000 tokens" in attention_beyond([whole])["attention tokens"]
