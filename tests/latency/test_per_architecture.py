"""Latency of Architectures: block by block or whole, the same milliseconds."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvig_nas import kernels, shipped
from mvig_nas.architecture import PRESETS, preset
from mvig_nas.kernels import FORMS, Form
from mvig_nas.latency import FEATURES, ArchitectureLatency, LatencyPredictor, fit_device, network_features
from mvig_nas.latency.per_architecture import BlockFeatures
from mvig_nas.search_space import SearchSpace
from tests.strategies import FAMILY, architectures, spaces

PREDICTOR = LatencyPredictor.load(shipped.predictor_folder("iphone-13-mini"))


@pytest.mark.parametrize("form", FORMS)
@given(space=st.one_of(spaces(), st.just(FAMILY)), data=st.data())
@settings(max_examples=25, deadline=None)
def test_features_add_up_block_by_block(form: Form, space: SearchSpace, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(architectures(space), min_size=1, max_size=4))
    whole = network_features([kernels.of(architecture, form) for architecture in drawn])
    assert np.allclose(BlockFeatures(form, PREDICTOR)(drawn), whole, rtol=1e-9, atol=1e-12)


def test_predictions_and_intervals_equal_those_of_kernel_lists() -> None:
    latency = ArchitectureLatency(PREDICTOR)
    presets = list(PRESETS.values())
    networks = [kernels.of(architecture, "exported") for architecture in presets]
    assert np.allclose(latency.predict_ms(presets), PREDICTOR.predict_ms(networks))
    low, high = latency.interval_ms(presets, 0.8)
    assert np.allclose((low, high), PREDICTOR.interval_ms(networks, 0.8))
    assert np.all(low < latency.predict_ms(presets))
    assert np.all(latency.predict_ms(presets) < high)


def test_a_fit_to_one_device_sees_the_sorts_of_kernels_of_architectures_too() -> None:
    space = SearchSpace.from_toml(shipped.space_path("toy"))
    presets = [space.sample(random.Random(seed)) for seed in range(12)]
    networks = [kernels.of(architecture, "exported") for architecture in presets]
    depart = np.array([1.0 + 0.5 * any(kernel.kernel_size == (5, 5) for kernel in each) for each in networks[:10]])
    own = fit_device(networks[:10], PREDICTOR.predict_ms(networks[:10]) * depart, "me@phone").predictor
    latency = ArchitectureLatency(own)
    seen = own.network_features(networks)
    assert seen.shape[1] > len(FEATURES)
    np.testing.assert_allclose(latency.features(presets), seen, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(latency.predict_ms(presets), own.predict_ms(networks))
    plain_ms = own.predict_from_features_ms(network_features(networks))
    assert not np.allclose(plain_ms, own.predict_ms(networks), rtol=1e-3)


@pytest.mark.parametrize("device", ["pooled", "own"])
def test_nothing_in_gives_nothing_out(device: str) -> None:
    networks = [kernels.of(architecture, "exported") for architecture in PRESETS.values()]
    own = fit_device(networks, PREDICTOR.predict_ms(networks), "me@phone").predictor
    assert ArchitectureLatency({"pooled": PREDICTOR, "own": own}[device]).predict_ms([]).shape == (0,)


@pytest.mark.parametrize("name", PRESETS)
def test_stages_and_kinds_sum_to_the_prediction(name: str) -> None:
    latency = ArchitectureLatency(PREDICTOR)
    predicted_ms = float(latency.predict_ms([PRESETS[name]])[0])
    stages = latency.by_stage(PRESETS[name])
    assert sum(stage.latency_ms for stage in stages) == pytest.approx(predicted_ms)
    assert sum(latency.by_kind(PRESETS[name]).values()) == pytest.approx(predicted_ms)
    assert [stage.name for stage in stages] == ["stem", "stage1", "stage2", "stage3", "stage4", "head", "dispatch"]
    assert sum(stage.parameters for stage in stages) == kernels.totals(kernels.of(PRESETS[name])).parameters


def test_the_reference_form_costs_more_than_ours() -> None:
    """A roll a link is more work than a few rolls for all, and the predictor must see it."""
    ours = ArchitectureLatency(PREDICTOR)
    presets = list(PRESETS.values())
    assert np.all(ours.with_form("reference").predict_ms(presets) > ours.predict_ms(presets))


def test_masks_rest_on_no_measurement() -> None:
    latency = ArchitectureLatency.load("iphone-13-mini")
    with_masks, without = (latency.outside([preset(name)])[0] for name in ("greedyvig_s", "mobilevigv2_ti"))
    assert any("sign is an operation that no measured network had" in reason for reason in with_masks)
    assert not without
