"""Phones of a chip that the pooled fit never saw."""

import json
from pathlib import Path

import numpy as np
import pytest

from mvig_nas import kernels, shipped
from mvig_nas.architecture import PRESETS
from mvig_nas.cli import main
from mvig_nas.errors import MvigNasError
from mvig_nas.latency import FEATURES, LatencyPredictor, fit_device
from mvig_nas.latency.published import NEW_CHIPS, read_published
from mvig_nas.latency.rows import Rows, chip_of

NETWORKS = [kernels.of(architecture, "exported") for architecture in PRESETS.values()]


@pytest.fixture(scope="module")
def a15() -> LatencyPredictor:
    return LatencyPredictor.load(shipped.predictor_folder("iphone-13-mini")).for_device("iphone-13-pro")


def rows_of(factor: float, count: int, a15: LatencyPredictor) -> Rows:
    """Measurements of a chip that runs everything `factor` times as long as the moved costs say."""
    nothing = Rows((), (), (), np.zeros(0), np.zeros(0), np.zeros((0, len(FEATURES))))
    still = a15.moved("next-phone", nothing)
    names = tuple(str(place) for place in range(count))
    features = still.network_features(NETWORKS[:count])
    measured = still.predict_ms(NETWORKS[:count]) * factor
    return Rows(names, names, ("me@next-phone",) * count, measured, np.ones(count), features)


def test_rows_move_the_fit_and_narrow_it(a15: LatencyPredictor) -> None:
    still = a15.moved("next-phone", rows_of(1.0, 0, a15))
    moved = a15.moved("next-phone", rows_of(0.7, 3, a15))
    factor = moved.predict_ms(NETWORKS, "me@next-phone") / still.predict_ms(NETWORKS)
    assert np.all((factor > 0.65) & (factor < 0.85))
    unknown = moved.predict_ms(NETWORKS) / still.predict_ms(NETWORKS)
    assert np.all((unknown > factor) & (unknown < 1))  # some of it may be the laboratory

    def width(predictor: LatencyPredictor, group: str | None = None) -> float:
        low, high = predictor.interval_ms(NETWORKS, 0.8, group)
        return float(np.log(high / low).mean())

    assert width(moved, "me@next-phone") < width(moved) < width(still)
    assert width(still) < width(a15.moved("next-phone", rows_of(1.0, 0, a15), generations=4))


def test_a_wild_row_loses_its_weight(a15: LatencyPredictor) -> None:
    rows = rows_of(0.8, 4, a15)
    wild = Rows(*(getattr(rows, name) for name in ("networks", "families", "groups")),
                rows.latencies_ms * [1, 1, 1, 10], rows.weights, rows.features)  # fmt: skip
    plain_ms = a15.moved("next-phone", rows).predict_ms(NETWORKS, "me@next-phone")
    moved_ms = a15.moved("next-phone", wild).predict_ms(NETWORKS, "me@next-phone")
    np.testing.assert_allclose(moved_ms, plain_ms, rtol=0.2)


def test_saved_and_loaded_it_predicts_the_same(a15: LatencyPredictor, tmp_path: Path) -> None:
    moved = a15.moved("iphone-14-pro", rows_of(0.8, 2, a15))
    moved.save(tmp_path)
    loaded = LatencyPredictor.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_ms(NETWORKS), moved.predict_ms(NETWORKS))
    np.testing.assert_array_equal(loaded.interval_ms(NETWORKS), moved.interval_ms(NETWORKS))
    assert loaded.few_rows == 2
    np.testing.assert_array_equal(loaded.for_device("iphone-15").predict_ms(NETWORKS), moved.predict_ms(NETWORKS))
    with pytest.raises(MvigNasError, match="must predict for a phone with that chip"):
        loaded.for_device("iphone-12")


def test_a_fit_to_one_device_is_not_moved(a15: LatencyPredictor) -> None:
    own = fit_device(NETWORKS, a15.predict_ms(NETWORKS), "me@phone").predictor
    assert own.few_rows is None
    with pytest.raises(MvigNasError, match="a fit of several laboratories must be moved"):
        own.moved("next-phone", rows_of(1.0, 1, a15))


@pytest.mark.parametrize("device", NEW_CHIPS)
def test_shipped_phones_cover_their_rows_and_their_intervals_are_wide(device: str, a15: LatencyPredictor) -> None:
    predictor = LatencyPredictor.load(shipped.predictor_folder(device))
    rows = read_published(shipped.folder("predictors") / "published", "new_chips", "new_chips")
    own = rows.pick([row for row, name in enumerate(rows.devices) if chip_of(name) == chip_of(device)])
    assert predictor.few_rows == len(own.networks) == 1
    low, high = predictor.interval_from_features_ms(own.features, 0.9)
    assert np.all((low < own.latencies_ms) & (own.latencies_ms < high))
    low, high = predictor.interval_ms(NETWORKS)
    known_low, known_high = a15.interval_ms(NETWORKS)
    assert np.all(high / low > 1.3 * known_high / known_low)
    again = a15.moved(device, own, NEW_CHIPS[device])
    np.testing.assert_allclose(again.predict_ms(NETWORKS), predictor.predict_ms(NETWORKS), rtol=1e-9)


def test_devices_says_on_how_many_rows_a_phone_rests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mvig-nas", "devices", "--json"])
    main()
    cards = {card["device"]: card for card in json.loads(capsys.readouterr().out)}
    assert cards["iphone-17-pro"]["rests_on_rows"] == 1
    assert "rests_on_rows" not in cards["iphone-13"]
