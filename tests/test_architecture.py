import json
import subprocess
import sys

import pytest
from hypothesis import given

from mvig_nas.architecture import PRESETS, SCHEMA, Architecture, Stage, preset, stage_sizes
from mvig_nas.errors import MvigNasError
from tests.strategies import SPACES, architectures

TI = PRESETS["mobilevig_ti"]


@given(architectures(SPACES["mobilevig"]))
def test_json_round_trip(architecture: Architecture) -> None:
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.fingerprint == architecture.fingerprint


def test_fingerprint_is_the_same_in_every_version_and_process() -> None:
    assert {name: architecture.fingerprint for name, architecture in PRESETS.items()} == {
        "mobilevig_ti": "30e8ee71e55f13ab",
        "mobilevig_s": "796d38cd63a83393",
        "mobilevig_m": "577fc402553391ce",
        "mobilevig_b": "5f02e1cd30a7a6b5",
    }
    program = "from mvig_nas.architecture import preset; print(preset('mobilevig_ti').fingerprint)"
    for hash_seed in ("0", "1"):
        printed = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == TI.fingerprint


def test_equal_networks_are_equal_values() -> None:
    assert Stage(8, conv_depth=1, graph_step=3) == Stage(8, conv_depth=1, graph_step=5, graph_groups=7)
    assert Stage(8, graph_depth=1, conv_kernel=7) == Stage(8, graph_depth=1, conv_kernel=3)
    assert Stage(8, graph_depth=1, graph_operator="knn", graph_step=9).graph_step is None
    assert Stage(8, graph_depth=1, graph_cpe=False, graph_scale=False) == Stage(8, graph_depth=1)
    assert Stage(8, conv_depth=1, graph_cpe=True, graph_scale=True) == Stage(8, conv_depth=1)


def test_switches_that_are_off_leave_no_trace_in_the_json() -> None:
    on = preset("greedyvig_s")
    assert "graph_cpe" not in TI.to_json()
    assert Architecture.from_json(on.to_json()) == on
    assert on.to_dict()["stages"][0]["graph_cpe"] is True
    assert on.fingerprint == "9b7e6e22747d7a47"


def test_stage_sizes_round_up() -> None:
    assert stage_sizes(224) == (56, 28, 14, 7)
    assert stage_sizes(225) == (57, 29, 15, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "`width` must be an integer of at least 1, got 0"),
        ({"width": 8.0}, "`width` must be an integer of at least 1, got 8.0"),
        ({"width": True}, "`width` must be an integer of at least 1, got True"),
        ({"width": 8, "conv_depth": -1}, "`conv_depth` must be an integer of at least 0, got -1"),
        ({"width": 8, "graph_depth": None}, "`graph_depth` must be an integer of at least 0, got None"),
        ({"width": 8, "conv_depth": 1, "conv_kernel": 4}, "`conv_kernel` must be odd, got 4"),
        ({"width": 8, "conv_depth": 1, "conv_expansion": 0}, "`conv_expansion` must be an integer of at least 1"),
        ({"width": 8, "graph_depth": 1, "ffn_expansion": 0}, "`ffn_expansion` must be an integer of at least 1"),
        ({"width": 8, "graph_depth": 1, "graph_step": 0}, "`graph_step` must be an integer of at least 1, got 0"),
        ({"width": 8, "graph_depth": 1, "graph_operator": "knm"}, "`graph_operator` .* did you mean 'knn'"),
        (
            {"width": 42, "graph_depth": 1, "graph_groups": 4},
            "`width` must be divisible by `graph_groups`, got width 42",
        ),
        ({"width": 8, "graph_depth": 1, "graph_operator": "lsgc", "graph_step": 1}, "`graph_step` of lsgc must be at"),
        ({"width": 8, "graph_depth": 1, "graph_cpe": 7}, "`graph_cpe` must be true, false or null, got 7"),
        ({"width": 8, "activation": "gleu"}, "`activation` .* did you mean 'gelu'"),
        ({"width": 8, "activation": 3}, "`activation` must be one of .* got 3"),
    ],
)
def test_stage_refuses(values: dict[str, object], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        Stage(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ((Stage(8),) * 3, {}, "`stages` must hold 4 stages, got 3"),
        ([Stage(8)] * 4, {}, "`stages` must be a tuple of Stage"),
        ((Stage(9), *(Stage(8),) * 3), {}, "`stage1.width` must be even, got 9"),
        ((Stage(8),) * 4, {"head_width": 0}, "`head_width` must be an integer of at least 1, got 0"),
        ((Stage(8),) * 4, {"resolution": "224"}, "`resolution` must be an integer of at least 1, got '224'"),
        (
            (*(Stage(8),) * 3, Stage(8, graph_depth=1, graph_step=7)),
            {},
            "`stage4.graph_step` must be below the stage's size, 7 pixels at resolution 224, got 7",
        ),
    ],
)
def test_architecture_refuses(stages: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        Architecture(stages, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("stages"), "architecture lacks 'stages'"),
        (lambda values: values.update(resolutoin=3), "no entry 'resolutoin'; did you mean 'resolution'"),
        (lambda values: values.update(schema=SCHEMA + 1), "schema must be at most 1, got 2.*upgrade"),
        (lambda values: values["stages"][1].update(widht=3), "stage2 has no entry 'widht'; did you mean 'width'"),
        (lambda values: values["stages"][2].pop("activation"), "stage3 lacks 'activation'"),
        (lambda values: values.update(stages=3), "`stages` must be a list, got 3"),
        (lambda values: values.update(stages=[1, 2, 3, 4]), "`stage1` must be an object, got 1"),
    ],
)
def test_json_refuses(change: object, message: str) -> None:
    values = json.loads(TI.to_json())
    change(values)  # type: ignore[operator]
    with pytest.raises(MvigNasError, match=message):
        Architecture.from_json(json.dumps(values))


def test_json_truncated_anywhere_is_refused_with_one_line() -> None:
    text = TI.to_json()
    for end in range(len(text)):
        with pytest.raises(MvigNasError) as caught:
            Architecture.from_json(text[:end])
        assert "\n" not in str(caught.value)


def test_json_of_another_type_is_refused() -> None:
    with pytest.raises(MvigNasError, match="must be a JSON object, got list"):
        Architecture.from_json("[]")


def test_unknown_preset_names_the_nearest() -> None:
    assert preset("mobilevig_ti") is TI
    with pytest.raises(MvigNasError, match="no preset is called 'mobilevig_t'; did you mean 'mobilevig_ti'"):
        preset("mobilevig_t")
