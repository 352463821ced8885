"""The closed form against hand-worked numbers and against the traced network, kernel by kernel."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvig_nas.architecture import ACTIVATIONS, PRESETS, Architecture, Stage, preset
from mvig_nas.constraints import UNCONSTRAINED
from mvig_nas.kernels import FORMS, NETWORK_INPUT, Form, Kernel, of, peak_activation_bytes, sections, totals, trace
from mvig_nas.network import build, for_inference
from mvig_nas.search_space import SearchSpace
from tests.strategies import FAMILY, FAMILY_SPACES, SPACES, architectures, spaces


def traced(architecture: Architecture, form: Form) -> tuple[Kernel, ...]:
    size = architecture.resolution
    if form == "exported":
        return trace(for_inference(build(architecture)), (1, 3, size, size))
    with torch.device("meta"):
        network = build(architecture, reference_links=form == "reference")
    return trace(network, (1, 3, size, size))


@pytest.mark.parametrize("form", FORMS)
@given(architecture=architectures(SPACES["toy"]))
@settings(max_examples=12, deadline=None)
def test_equals_the_trace_in_the_toy_space(form: Form, architecture: Architecture) -> None:
    assert of(architecture, form) == traced(architecture, form)


@pytest.mark.parametrize("form", FORMS)
@given(architecture=architectures(FAMILY))
@settings(max_examples=15, deadline=None)
def test_equals_the_trace_of_every_operator(form: Form, architecture: Architecture) -> None:
    assert of(architecture, form) == traced(architecture, form)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_trace_of_every_activation(activation: str, form: Form) -> None:
    stages = (
        Stage(8, conv_depth=1, activation=activation),
        Stage(8, activation=activation),
        Stage(12, graph_depth=1, graph_step=1, activation=activation),
        Stage(12, conv_depth=1, activation=activation),
    )
    architecture = Architecture(stages, head_width=16, resolution=64)
    assert of(architecture, form) == traced(architecture, form)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_equals_the_trace_in_the_family_space(seed: int) -> None:
    architecture = FAMILY_SPACES["vig-family"].sample(random.Random(seed))
    for form in FORMS:
        assert of(architecture, form) == traced(architecture, form)


@given(architecture=architectures(SPACES["mobilevig"]))
@settings(max_examples=12, deadline=None)
def test_equals_the_trace_in_the_large_space(architecture: Architecture) -> None:
    assert of(architecture) == traced(architecture, "built")


@pytest.mark.parametrize("name", [*PRESETS, "mobilevigv2_ti", "greedyvig_s"])
@pytest.mark.parametrize("form", ["built", "reference"])
def test_equals_the_trace_of_presets(name: str, form: Form) -> None:
    assert of(preset(name), form) == traced(preset(name), form)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("mobilevig_ti", 5_271_074, 662_142_336),
        ("mobilevig_s", 7_276_538, 983_688_960),
        ("mobilevig_m", 14_075_786, 1_493_425_152),
        ("mobilevig_b", 26_868_506, 2_792_944_896),
        ("mobilevigv2_ti", 5_695_824, 629_634_560),
        ("mobilevigv2_s", 7_767_632, 912_263_424),
        ("mobilevigv2_m", 15_471_504, 1_619_490_688),
        ("mobilevigv2_b", 27_878_864, 3_558_228_480),
        ("greedyvig_s", 11_983_376, 1_580_681_472),
        ("greedyvig_m", 21_928_112, 3_114_168_768),
        ("greedyvig_b", 30_905_296, 5_059_845_632),
    ],
)
def test_counts_of_the_published_networks(name: str, parameters: int, macs: int) -> None:
    """From the reference code at 224 px with both heads."""
    sums = totals(of(preset(name)))
    assert (sums.parameters, sums.macs) == (parameters, macs)
    assert totals(of(preset(name), "reference")).macs == macs


@pytest.mark.parametrize(("resolution", "ours", "loop"), [(448, 26, 61), (224, 18, 31)])
def test_svga_operations_of_both_forms(resolution: int, ours: int, loop: int) -> None:
    """At 14x14 and 7x7 with K = 2: what the ML program holds for each form."""
    stages = (Stage(8), Stage(8), Stage(8), Stage(8, graph_depth=1, graph_step=2))
    architecture = Architecture(stages, 8, resolution)
    link_kinds = {"slice_by_index", "minimum", "maximum", "sub", "concat"}
    counts = [sum(kernel.kind in link_kinds for kernel in of(architecture, form)) for form in ("built", "reference")]
    # Less the concatenation of x with its links.
    assert [count - 1 for count in counts] == [ours, loop]


@given(spaces(), st.data())
@settings(max_examples=40, deadline=None)
def test_costs_grow_with_depth_and_width(space: SearchSpace, data: st.DataObject) -> None:
    space = replace(space, constraints=UNCONSTRAINED)  # which may change other choices, too
    values = space.encode(data.draw(architectures(space)))
    index = data.draw(st.integers(1, 4))
    name = data.draw(st.sampled_from(["conv_depth", "graph_depth", "width"]))
    key = f"stage{index}.{name}"
    grown = [totals(of(space.decode(values | {key: choice}))) for choice in space.choices[key]]
    for one, other in pairwise(grown):
        assert one.parameters < other.parameters
        assert one.macs < other.macs
        assert one.weight_bytes < other.weight_bytes


def test_sections_join_to_the_whole() -> None:
    parts = sections(PRESETS["mobilevig_s"])
    assert [part.name for part in parts] == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    assert tuple(kernel for part in parts for kernel in part.kernels) == of(PRESETS["mobilevig_s"])


def test_peak_memory_by_hand() -> None:
    """A residual keeps its input alive over the branch: 10 in, 10 branch, 40 hidden live together once."""

    def kernel(bytes_in: int, bytes_out: int, *inputs: int) -> Kernel:
        return Kernel("conv", (1,), 0, bytes_in, bytes_out, 0, inputs=inputs)

    kernels = (
        kernel(6, 10, NETWORK_INPUT),  # image 6 and output 10
        kernel(10, 40, 0),  # 10 and 40
        kernel(40, 10, 1),  # 10, 40 and 10: the peak
        kernel(20, 10, 0, 2),  # 10, 10 and 10
    )
    assert peak_activation_bytes(kernels) == 60
    assert peak_activation_bytes(()) == 0


def test_unused_values_die_at_once() -> None:
    kernels = (
        Kernel("conv", (1,), 0, 4, 8, 0, inputs=(NETWORK_INPUT,)),
        Kernel("relu", (1,), 0, 8, 100, 0, inputs=(0,)),
        Kernel("relu", (1,), 0, 8, 8, 0, inputs=(0,)),
    )
    assert peak_activation_bytes(kernels) == 108
