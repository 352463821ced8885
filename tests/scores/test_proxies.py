"""Training-free proxies: each against a value worked out by hand, then the contract of every score of `load`."""

import random
import subprocess
import sys
from dataclasses import replace
from math import isfinite, log, sqrt

import pytest
import torch
from torch import Tensor, nn

from mvig_nas import scores
from mvig_nas.architecture import PRESETS, Architecture, Stage
from mvig_nas.errors import MvigNasError
from mvig_nas.network import build
from mvig_nas.scores.fresh_networks import fresh_network, scaled
from tests.strategies import SPACES

TOY = SPACES["toy"]
FREE = ("log_macs", "log_params", "spectral_gap")  # nothing is drawn
PROXIES = tuple(name for name in scores.NAMES if name not in FREE)


def images(*rows: tuple[float, ...]) -> Tensor:
    """One-pixel images, a channel a number."""
    return torch.tensor(rows, dtype=torch.float32)[:, :, None, None]


def linear(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def pointwise(rows: list[list[float]]) -> nn.Conv2d:
    layer = nn.Conv2d(len(rows[0]), len(rows), 1, bias=False)
    layer.weight.data = torch.tensor(rows)[:, :, None, None]
    return layer


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish])
def test_naswot_by_hand(activation: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Flatten(), linear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), activation())
    # Codes 100, 111 and 000, so K = [[3, 1, 2], [1, 3, 0], [2, 0, 3]], whose determinant is 27 - 3 - 12.
    value = scores.naswot(network, images((1, -1), (1, 1), (-1, -1)))
    assert value == pytest.approx(log(12))


def test_naswot_adds_up_layers() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), linear([[1.0, -1.0]]), nn.ReLU(inplace=True))
    # Codes 10|1, 01|0: K = [[3, 0], [0, 3]].
    assert scores.naswot(network, images((1, -1), (-1, 1))) == pytest.approx(log(9))


def test_naswot_refuses_equal_codes() -> None:
    with pytest.raises(MvigNasError, match="naswot needs images whose activation codes differ, got 2"):
        scores.naswot(nn.ReLU(), images((1, 2), (3, 4)))


def test_synflow_by_hand() -> None:
    norm = nn.BatchNorm2d(2, eps=8)
    network = nn.Sequential(pointwise([[2.0], [-3.0]]), norm, nn.GELU(), pointwise([[-1.0, 4.0]]))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    # Four pixels of 2 x 1 + 3 x 4 = 14; each of the two layers gives the whole sum back: 2 x 4 x 14.
    assert scores.synflow(network, torch.zeros(1, 1, 2, 2)) == pytest.approx(log(112))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert network(torch.zeros(1, 1, 2, 2)).dtype == torch.float32


def test_synflow_refuses_a_dead_network() -> None:
    with pytest.raises(MvigNasError, match="synflow needs a positive flow"):
        scores.synflow(pointwise([[0.0]]), torch.zeros(1, 1, 2, 2))


# Equal logits of two classes: the gradient for row 0, label 0, is (1/2 - 1) x, and that for row 1 is x / 2.
def classifier(row: list[float]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), linear([row, row]))


def test_grad_norm_by_hand() -> None:
    # x = (3, 4): two rows of norm 5 / 2.
    value = scores.grad_norm(classifier([0.0, 0.0]), images((3, 4)), torch.tensor([0]))
    assert value == pytest.approx(2.5 * sqrt(2))


def test_snip_by_hand() -> None:
    # |1 x 3/2| + |-2 x 2| in both rows.
    value = scores.snip(classifier([1.0, -2.0]), images((3, 4)), torch.tensor([0]))
    assert value == pytest.approx(2 * (1.5 + 4))


def test_zico_by_hand() -> None:
    label = torch.tensor([0])
    # Gradients of row 0: -(3, 4, 5) / 2 and -(1, 2, 5) / 2: mean sizes 1, 1.5, 2.5; deviations 0.5, 0.5, 0 (left out).
    batches = [(images((3, 4, 5)), label), (images((1, 2, 5)), label)]
    assert scores.zico(classifier([0.0, 0.0, 0.0]), batches) == pytest.approx(log(2 * (2 + 3)))


def test_zico_wants_two_batches() -> None:
    with pytest.raises(MvigNasError, match="zico needs at least 2 batches, got 1"):
        scores.zico(classifier([0.0]), [(images((1,)), torch.tensor([0]))])


def test_zen_by_hand() -> None:
    network = nn.Sequential(pointwise([[2.0]]), nn.BatchNorm2d(1, eps=1e-12))
    # 1, 3 -> 2, 6 (deviation 2) -> -1, 1. Disturbed: 3, 1 -> 1, -1, two away in each image.
    value = scores.zen(network, images((1,), (3,)), images((200,), (-200,)))
    assert value == pytest.approx(log(2) + log(2))


def test_zen_refuses_a_deaf_network() -> None:
    network = nn.Sequential(pointwise([[2.0]]), nn.BatchNorm2d(1, eps=1e-12))
    with pytest.raises(MvigNasError, match="zen needs an output that feels its input"):
        scores.zen(network, images((1,), (3,)), images((0,), (0,)))


@pytest.fixture(scope="module")
def sample() -> list[Architecture]:
    rng = random.Random(0)
    return [TOY.sample(rng) for _ in range(4)] + [TOY.smallest, TOY.largest]


@pytest.mark.parametrize("name", scores.NAMES)
def test_scores_are_finite_and_repeat_in_any_order(name: str, sample: list[Architecture]) -> None:
    score = scores.load(name, seed=3)
    assert score.name == name
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    values = [score(architecture) for architecture in sample]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(isfinite, values))
    assert len(set(values)) == len(values) or name == "spectral_gap"  # which the links alone decide
    again = scores.load(name, seed=3)
    assert [again(architecture) for architecture in reversed(sample)] == values[::-1]


@pytest.mark.parametrize("name", PROXIES)
def test_seed_and_resolution_matter(name: str) -> None:
    architecture = TOY.largest
    value = scores.load(name, seed=0)(architecture)
    assert scores.load(name, seed=1)(architecture) != value
    assert scores.load(name, seed=0, resolution=128)(architecture) != value


def test_threads_and_process_do_not_matter(sample: list[Architecture]) -> None:
    texts = [architecture.to_json() for architecture in sample[:2]]
    code = (
        "import sys, torch; from mvig_nas import scores; from mvig_nas.architecture import Architecture\n"
        "torch.set_num_threads(2)\n"
        "for name in scores.NAMES:\n"
        "    for text in sys.argv[1:]: print(repr(scores.load(name)(Architecture.from_json(text))))\n"
        "assert torch.get_num_threads() == 2\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *texts], capture_output=True, text=True, check=True)
    values = [scores.load(name)(architecture) for name in scores.NAMES for architecture in sample[:2]]
    assert [float(line) for line in ran.stdout.split()] == values


def test_default_orders_the_published_networks() -> None:
    score = scores.load(resolution=64, batch_size=8)
    values = [score(PRESETS[name]) for name in ("mobilevig_ti", "mobilevig_s", "mobilevig_m", "mobilevig_b")]
    assert values == sorted(values)


def test_baselines_are_logarithms_of_costs() -> None:
    network = build(TOY.largest)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert scores.load("log_params")(TOY.largest) == pytest.approx(log(parameters))
    assert scores.load("log_macs")(PRESETS["mobilevig_ti"]) == pytest.approx(log(662_142_336), abs=2e-3)


def test_baselines_and_factory_load_no_torch() -> None:
    code = (
        "import sys; from mvig_nas import scores; from mvig_nas.architecture import PRESETS\n"
        "scores.load('log_macs')(PRESETS['mobilevig_ti']); scores.load(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fresh_network_has_seeded_weights_and_unit_layer_scales() -> None:
    first, second = (fresh_network(TOY.largest, torch.Generator().manual_seed(1)) for _ in range(2))
    for (name, value), (_, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(value, other), name
    for name, value in first.named_parameters():
        if name.endswith(("bias", "layer_scale")):
            assert (value == (name.endswith("layer_scale"))).all(), name
    weight = first.head_conv.conv.weight.detach()
    assert float(weight.std()) == pytest.approx(sqrt(2 / weight.shape[1]), rel=0.1)


def test_scored_at_half_the_resolution_with_steps_in_proportion() -> None:
    stages = tuple(Stage(8, graph_depth=1, graph_step=step) for step in (16, 5, 2, 1))
    architecture = Architecture(stages, 8, 224)  # type: ignore[arg-type]
    half = scaled(architecture, None)
    assert half.resolution == 112
    assert [stage.graph_step for stage in half.stages] == [8, 2, 1, 1]
    assert scaled(replace(architecture, resolution=160), None).resolution == 96
    assert scaled(TOY.smallest, None) == TOY.smallest


def test_resolution_without_links_is_refused() -> None:
    with pytest.raises(MvigNasError, match=r"`stage4.graph_step` must be below the stage's size, 1 pixels"):
        scores.load(resolution=32)(PRESETS["mobilevig_ti"])


def test_unknown_score_names_the_closest() -> None:
    with pytest.raises(MvigNasError, match=r"no score is called 'naswat'; did you mean 'naswot'\?"):
        scores.load("naswat")


@pytest.mark.parametrize(
    ("option", "value", "least"), [("seed", -1, 0), ("resolution", 16, 32), ("batch_size", 1, 2), ("seed", 0.5, 0)]
)
def test_options_out_of_range(option: str, value: float, least: int) -> None:
    with pytest.raises(MvigNasError, match=f"`{option}` of a score must be an integer of at least {least}, got"):
        scores.load("naswot", **{option: value})  # type: ignore[arg-type]
