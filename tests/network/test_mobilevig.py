"""The network against the reference code's numbers, and as a timm model, in the manner of timm's own model tests."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from mvig_nas.architecture import FAMILY_PRESETS, PRESETS, Architecture, Stage
from mvig_nas.errors import MvigNasError
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.network import MobileViG, build, for_inference, load_reference_checkpoint, reference_state_dict
from mvig_nas.network.reference_names import successor_graph_block
from mvig_nas.network.torch_maps import MAPS, linked, linked_as_reference
from tests.strategies import FAMILY, SHARED, SPACES, architectures

SVGA, KNN = OPERATORS["svga"], OPERATORS["knn"]
FIXTURE = Path(__file__).parents[1] / "fixtures" / "mobilevig_reference_k2.safetensors"
TINY = Architecture(
    (
        Stage(8, conv_depth=1, activation="hard_swish"),
        Stage(12, conv_depth=1, graph_depth=1, graph_groups=2, activation="relu"),
        Stage(16, graph_depth=1, graph_operator="knn", activation="silu"),
        Stage(24, conv_depth=1, conv_kernel=5, graph_depth=1, graph_step=1),
    ),
    head_width=32,
    resolution=64,
)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fresh statistics and scales everywhere, so that nothing hides behind ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
        for name, scale in module.named_parameters(recurse=False):
            if name.endswith("layer_scale"):
                scale.data.copy_(torch.randn(scale.shape, generator=generator))
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=generator))
    return network


def images(batch: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def golden_cases() -> list[tuple[Path, int | tuple[int, ...]]]:
    shared = {
        "mobilevig_reference_k2": 2,
        "mobilevig_reference_k3_nodistill": 3,
        "mobilevigv2_reference": (0, 3, 2, 1),
        "greedyvig_reference": (4, 2, 1, 1),
    }
    return [(FIXTURE, 2), *((SHARED / "golden" / f"{name}.safetensors", step) for name, step in shared.items())]


@pytest.mark.parametrize(("path", "step"), golden_cases(), ids=lambda value: getattr(value, "stem", value))
def test_logits_equal_the_reference_code(path: Path, step: int | tuple[int, ...]) -> None:
    if not path.exists():
        pytest.skip("the reference code's files stand beside the checkout, and not here")
    network = load_reference_checkpoint(path, graph_step=step)
    golden = np.load(path.with_suffix(".npz"))
    sizes = [key.removeprefix("input_") for key in golden.files if key.startswith("input_")]
    assert sizes
    for size in sizes:
        with torch.no_grad():
            logits = network(torch.from_numpy(golden[f"input_{size}"]))
        assert np.abs(logits.numpy() - golden[f"logits_{size}"]).max() <= 1e-4


@pytest.mark.parametrize(("folder", "side"), [(FIXTURE.parent, 7), (SHARED / "golden", 14)])
def test_an_lsgc_block_equals_the_reference_code(folder: Path, side: int) -> None:
    path = folder / "logvig_reference.safetensors"
    if not path.exists():
        pytest.skip("the reference code's files stand beside the checkout, and not here")
    stage = Stage(24, graph_depth=1, graph_operator="lsgc", graph_step=2, graph_cpe=True, graph_scale=True)
    block = build(Architecture((Stage(8), Stage(8), stage, Stage(8)), 8), 3).stages[2].blocks[0].eval()
    state = load_file(path)
    theirs = {ours: state[name] for ours, name in successor_graph_block("", "").items()}
    own = block.state_dict()
    block.load_state_dict({name: value.reshape(own[name].shape) for name, value in theirs.items()})
    assert set(state) == set(successor_graph_block("", "").values())
    golden = np.load(path.with_suffix(".npz"))
    with torch.no_grad():
        found = block(torch.from_numpy(golden[f"input_{side}"]))
        mixed = block.graph_conv(torch.from_numpy(golden[f"lsgc_in_{side}"]))
    assert np.abs(found.numpy() - golden[f"output_{side}"]).max() <= 1e-4
    assert np.abs(mixed.numpy() - golden[f"lsgc_out_{side}"]).max() <= 1e-4


@pytest.mark.parametrize("name", [name for name in FAMILY_PRESETS if name not in PRESETS])
def test_checkpoints_of_successors_round_trip(tmp_path: Path, name: str) -> None:
    """As thin as possible, with the published depths and steps."""
    published = FAMILY_PRESETS[name]
    stages = tuple(replace(stage, width=2) for stage in published.stages)
    network = randomised(build(Architecture(stages, 2), 3)).eval()
    state = reference_state_dict(network)
    path = tmp_path / "best.pth.tar"
    torch.save({"state_dict": state}, path)
    again = load_reference_checkpoint(path)
    assert again.architecture == network.architecture
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    scales = {value.ndim for key, value in state.items() if "layer_scale" in key}
    assert scales == ({3} if name.startswith("mobilevigv2") else {1})
    with pytest.raises(MvigNasError, match=r"`graph_step` must be one number or 4, one a stage, got \(8, 4\)"):
        load_reference_checkpoint(path, (8, 4))


def test_a_checkpoint_with_a_second_branch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "logvig.pth"
    torch.save({"high_res_branch.conv.0.weight": torch.zeros(3)}, path)
    with pytest.raises(MvigNasError, match="got LogViG's, whose second branch no architecture has"):
        load_reference_checkpoint(path)


def test_architecture_is_recovered_from_a_checkpoint() -> None:
    network = load_reference_checkpoint(FIXTURE)
    depths = [(stage.width, stage.conv_depth, stage.graph_depth) for stage in network.architecture.stages]
    assert depths == [(8, 1, 0), (12, 2, 0), (16, 1, 0), (24, 0, 2)]
    assert network.architecture.head_width == 32
    assert network.num_classes == 10
    assert network.head_dist is not None


@pytest.mark.parametrize("form", ["bare", "model", "module", "namespace"])
def test_pth_checkpoints_round_trip(tmp_path: Path, form: str) -> None:
    import argparse

    network = randomised(build(PRESETS["mobilevig_ti"], 7)).eval()
    state = reference_state_dict(network)  # type: ignore[arg-type]
    saved = {
        "bare": state,
        "model": {"model": state, "epoch": 3},
        "module": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        "namespace": {"model": state, "args": argparse.Namespace(lr=0.1)},
    }[form]
    path = tmp_path / "best.pth.tar"
    torch.save(saved, path)
    again = load_reference_checkpoint(path)
    assert again.architecture == PRESETS["mobilevig_ti"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_Code(), "needs code to be run"),
        ({"model": {"stem.stem.3.weight": torch.zeros(8, 4, 3, 3)}}, "must hold 'prediction.1.weight'"),
        ({"model": 3}, "must hold a state dict"),
        ([1, 2], "must hold a state dict"),
    ],
)
def test_checkpoint_refuses(tmp_path: Path, content: object, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pth"
    torch.save(content, path)
    with pytest.raises(MvigNasError, match=message):
        load_reference_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


def test_checkpoint_truncated_missing_or_foreign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="there is none at"):
        load_reference_checkpoint(tmp_path / "none.pth")
    for name in ("cut.safetensors", "cut.pth"):
        path = tmp_path / name
        path.write_bytes(FIXTURE.read_bytes()[:5000])
        with pytest.raises(MvigNasError, match="is damaged or needs code"):
            load_reference_checkpoint(path)
    state = reference_state_dict(load_reference_checkpoint(FIXTURE))
    path = tmp_path / "more.pth"
    torch.save(state | {"extra.weight": torch.zeros(1)}, path)
    with pytest.raises(MvigNasError, match=r"has \['extra.weight'\] besides"):
        load_reference_checkpoint(path)
    torch.save(state | {"head.bias": torch.zeros(3)}, path)
    with pytest.raises(MvigNasError, match="must have MobileViG's shapes"):
        load_reference_checkpoint(path)


def test_a_step_without_links_is_refused() -> None:
    with pytest.raises(MvigNasError, match=r"`stage4.graph_step` must be below the stage's size, 7 pixels"):
        load_reference_checkpoint(FIXTURE, graph_step=7)


def test_the_reference_format_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(MvigNasError, match="knows GELU, one group and one operator in all graph blocks only"):
        reference_state_dict(build(TINY, 3))
    late = Architecture((Stage(8, graph_depth=1), Stage(8, conv_depth=1), Stage(8), Stage(8)), resolution=64)
    with pytest.raises(MvigNasError, match="all MBConv stages before all graph stages"):
        reference_state_dict(build(late, 3))


@given(
    st.integers(1, 17),
    st.integers(1, 17),
    st.integers(1, 18),
    st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_svga_equals_the_loop_to_the_bit(height: int, width: int, step: int, seed: int) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(linked(SVGA, x, step), linked_as_reference(SVGA, x, step))
    assert torch.equal(SVGA.links(MAPS, x, step), linked_as_reference(SVGA, x, step))


def test_svga_by_hand() -> None:
    x = torch.tensor([[1.0, 5.0, 2.0, 0.0]]).view(1, 1, 1, 4)
    # At step 2 each pixel is linked to the one two columns on; a row of height 1 has no other link.
    assert linked(SVGA, x, 2).flatten().tolist() == [0.0, 5.0, 1.0, 0.0]
    assert linked(SVGA, x, 1).flatten().tolist() == [1.0, 5.0, 2.0, 0.0]


def test_knn_equals_a_search_over_all_pairs() -> None:
    x = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    nodes = x.flatten(2).numpy()
    unit = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
    expected = np.empty_like(nodes)
    for image in range(2):
        for pixel in range(20):
            distance = ((unit[image] - unit[image][:, pixel : pixel + 1]) ** 2).sum(axis=0)
            nearest = np.argsort(distance)[:9]
            expected[image, :, pixel] = nodes[image][:, nearest].max(axis=1) - nodes[image][:, pixel]
    assert np.allclose(linked(KNN, x, 0).flatten(2).numpy(), expected, atol=1e-6)


def test_knn_links_every_pixel_of_a_small_map() -> None:
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(linked(KNN, x, 0), x.amax(dim=(2, 3), keepdim=True) - x)


def test_each_group_mixes_a_pixel_with_its_links() -> None:
    """The grouped graph convolution equals the dense one with a block-diagonal weight, in both halves."""
    stages = [Stage(8, graph_depth=1, graph_groups=groups, graph_step=2) for groups in (2, 1)]
    grouped, dense = (build(Architecture((stage, Stage(8), Stage(8), Stage(8)), 8, 64), 2) for stage in stages)
    small, large = (network.stages[0].blocks[0].graph_conv for network in (grouped, dense))
    large.conv.weight.data.zero_()
    for group in range(2):
        rows = slice(8 * group, 8 * group + 8)
        for half in range(2):
            columns = slice(8 * half + 4 * group, 8 * half + 4 * group + 4)
            large.conv.weight.data[rows, columns] = small.conv.weight.data[rows, 4 * half : 4 * half + 4]
    large.conv.bias.data.copy_(small.conv.bias.data)
    x = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(small.eval()(x), large.eval()(x), atol=1e-5)


@given(st.one_of(architectures(SPACES["toy"]), architectures(FAMILY)))
@settings(max_examples=15, deadline=None)
def test_folded_computes_the_same(architecture: Architecture) -> None:
    network = randomised(build(architecture, 5)).eval()
    lean = for_inference(network)  # type: ignore[arg-type]
    x = images(2, architecture.resolution)
    with torch.no_grad():
        expected = network(x)
        assert torch.allclose(lean(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lean.modules())
    assert lean.head_dist is None
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", [*PRESETS, "mobilevigv2_ti", "greedyvig_s"])
def test_presets_run_forward_and_backward(name: str) -> None:
    network = timm.create_model(name, num_classes=42)
    network.train()
    logits = network(images(2, 96))
    assert logits.shape == (2, 42)
    logits.mean().backward()
    missing = [parameter for parameter, value in network.named_parameters() if value.grad is None]
    assert not missing
    assert not torch.isnan(logits).any()


def test_an_architecture_with_every_choice_trains() -> None:
    network = build(TINY, 5)
    network(images(2, 64)).mean().backward()
    assert all(value.grad is not None for value in network.parameters())


@pytest.mark.parametrize("name", FAMILY_PRESETS)
def test_parameters_of_the_presets(name: str) -> None:
    expected = {
        "mobilevig_ti": 5_271_074,
        "mobilevig_s": 7_276_538,
        "mobilevig_m": 14_075_786,
        "mobilevig_b": 26_868_506,
        "mobilevigv2_ti": 5_695_824,
        "mobilevigv2_s": 7_767_632,
        "mobilevigv2_m": 15_471_504,
        "mobilevigv2_b": 27_878_864,
        "greedyvig_s": 11_983_376,
        "greedyvig_m": 21_928_112,
        "greedyvig_b": 30_905_296,
    }
    with torch.device("meta"):
        network = timm.create_model(name)
    assert sum(value.numel() for value in network.parameters()) == expected[name]


def test_default_cfg_names_what_is_there() -> None:
    network = timm.create_model("mobilevig_ti").eval()
    cfg = network.default_cfg
    names = set(network.state_dict())
    assert f"{cfg['first_conv']}.weight" in names
    for classifier in cfg["classifier"]:
        assert f"{classifier}.weight" in names
    assert timm.is_model("mobilevig_b")
    assert set(FAMILY_PRESETS) <= set(timm.list_models(["mobilevig*", "greedyvig_*"]))
    network.reset_classifier(0)
    assert not any(f"{classifier}.weight" in network.state_dict() for classifier in cfg["classifier"])
    assert network(images(1, 64)).shape == (1, network.head_hidden_size)
    network.reset_classifier(0, "")
    assert network(images(1, 64)).shape == (1, network.head_hidden_size, 2, 2)
    network.reset_classifier(7, "avg")
    assert network(images(1, 64)).shape == (1, 7)


def test_forward_is_features_then_head() -> None:
    network = timm.create_model("mobilevig_ti", num_classes=10).eval()
    x = images(2, 64)
    with torch.no_grad():
        features = network.forward_features(x)
        assert features.shape == (2, network.num_features, 2, 2)
        assert network.forward_head(features, pre_logits=True).shape == (2, network.head_hidden_size)
        assert torch.equal(network.forward_head(features), network(x))


def test_features_only() -> None:
    network = timm.create_model("mobilevig_ti", features_only=True)
    maps = network(images(1, 128))
    assert [tuple(x.shape[1:]) for x in maps] == [(42, 32, 32), (84, 16, 16), (168, 8, 8), (256, 4, 4)]
    assert network.feature_info.reduction() == [4, 8, 16, 32]
    chosen = timm.create_model("mobilevig_s", features_only=True, out_indices=(1, 3))
    assert [x.shape[1] for x in chosen(images(1, 64))] == [84, 256]


def test_intermediates() -> None:
    network = timm.create_model("mobilevig_ti").eval()
    x = images(1, 64)
    with torch.no_grad():
        last, maps = network.forward_intermediates(x)
        assert torch.equal(last, network.forward_features(x))
        assert [each.shape[1] for each in maps] == [42, 84, 168, 256]
        early = network.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True)
        assert all(torch.equal(one, other) for one, other in zip(early, maps, strict=False))
        network.prune_intermediate_layers([1])
        assert len(network.stages) == 2
        assert torch.equal(network.forward_intermediates(x, intermediates_only=True, indices=[1])[0], maps[1])
    with pytest.raises(ValueError, match="`output_fmt` must be 'NCHW', got 'NLC'"):
        network.forward_intermediates(x, output_fmt="NLC")


def test_gradient_checkpointing_changes_nothing() -> None:
    network = randomised(build(TINY, 3)).eval()
    x = images(1, 64)
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        network(x).sum().backward()
        gradients.append([value.grad.clone() for value in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_distilled_training_returns_both_heads() -> None:
    network = build(TINY, 3)
    network.set_distilled_training(True)
    x = images(2, 64)
    logits, distilled = network.train()(x)
    assert logits.shape == distilled.shape == (2, 3)
    assert isinstance(network.eval()(x), Tensor)
    assert isinstance(network.get_classifier(), tuple)
    assert isinstance(build(TINY, 3, distillation=False).get_classifier(), nn.Conv2d)


def test_drop_path_grows_linearly() -> None:
    network = timm.create_model("mobilevig_ti", drop_path_rate=0.11)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in network.stages for block in stage.blocks]
    assert len(rates) == 12
    assert np.allclose(np.diff(rates), 0.01)
    assert np.isclose(rates[-1], 0.11)


def test_optimiser_groups_as_timm_makes_them() -> None:
    from timm.optim import create_optimizer_v2

    network = timm.create_model("mobilevig_ti", num_classes=10)
    optimiser = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.9)
    scales = {group["lr_scale"] for group in optimiser.param_groups}
    assert len(scales) > 2
    undecayed = {
        id(value) for group in optimiser.param_groups if not group["weight_decay"] for value in group["params"]
    }
    for name, value in network.named_parameters():
        if name.endswith("layer_scale"):
            assert id(value) in undecayed


def test_images_of_other_channels_and_sizes() -> None:
    network = timm.create_model("mobilevig_ti", in_chans=1, num_classes=4).eval()
    for size in ((64, 96), (50, 70)):
        assert network(torch.zeros(1, 1, *size)).shape == (1, 4)


def test_module_types_share_nothing_between_builds() -> None:
    one, other = build(TINY, 3), build(TINY, 3)
    pairs = itertools.product(one.parameters(), other.parameters())
    assert all(mine.data_ptr() != theirs.data_ptr() for mine, theirs in pairs)
    assert isinstance(one, MobileViG)
