"""The tracer: known totals, folding, constants, the graph, and nothing allocated."""

import csv
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import NETWORK_INPUT, Kernel, totals, trace
from mvig_nas.latency.published import load_kernels

PUBLISHED = Path(__file__).parents[2] / "predictors" / "published"
QUICK = (
    "resnet18", "mobilenetv2_100", "mobilenetv3_large_100", "mobileone_s0", "repvit_m0_9", "starnet_s1", "fastvit_t8",
    "efficientnet_b0", "mobilevitv2_100", "swiftformer_xs", "mobilenetv4_conv_small",
)  # fmt: skip


class Calls(nn.Module):
    """A module from a function, for one-line networks."""

    def __init__(self, function: object, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)  # type: ignore[operator,no-any-return]


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def kinds(kernels: tuple[Kernel, ...]) -> list[str]:
    return [kernel.kind for kernel in kernels]


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("resnet18", 11_689_512, 1_814_073_344),
        ("mobilenetv2_100", 3_504_872, 300_774_272),
        ("deit_tiny_patch16_224", 5_717_416, 1_253_683_200),
    ],
)
def test_totals_are_the_known_ones(name: str, parameters: int, macs: int) -> None:
    with torch.device("meta"):
        module = timm.create_model(name)
    sums = totals(trace(module, (1, 3, 224, 224)))
    assert (sums.parameters, sums.macs) == (parameters, macs)


def test_batch_norm_and_layer_scale_fold_into_the_convolution() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), Scale(8))
    assert trace(module, (3, 10, 10)) == (
        Kernel(
            kind="conv",
            shape=(1, 8, 5, 5),
            macs=8 * 5 * 5 * 3 * 9,
            bytes_in=2 * 300,
            bytes_out=2 * 200,
            bytes_weights=2 * (8 * 27 + 8),
            parameters=8 * 27 + 8 + 8 + 8,
            kernel_size=(3, 3),
            stride=(2, 2),
            inputs=(NETWORK_INPUT,),
        ),
    )


def test_a_convolution_that_is_read_twice_keeps_its_batch_norm_apart() -> None:
    module = Calls(lambda m, x: (y := m.conv(x)) + m.norm(y), conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3))
    kernels = trace(module, (3, 4, 4))
    assert kinds(kernels) == ["conv", "batch_norm", "add"]
    assert [kernel.inputs for kernel in kernels] == [(NETWORK_INPUT,), (0,), (0, 1)]


def test_a_scale_that_is_not_per_channel_does_not_fold() -> None:
    module = Calls(lambda m, x: m.conv(x) * torch.ones(4, 4), conv=nn.Conv2d(3, 3, 1))
    kernels = trace(module, (3, 4, 4))
    assert kinds(kernels) == ["conv", "mul"]
    assert (kernels[1].bytes_in, kernels[1].bytes_weights) == (2 * 48, 2 * 16)


def test_batch_norm_before_a_linear_layer_stays() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 5), nn.BatchNorm1d(5))
    assert kinds(trace(module, (3, 2, 2))) == ["reshape", "batch_norm", "linear"]


def test_constants_cost_nothing_and_each_parameter_counts_once() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(1, 3, 2, 2))

        def forward(self, x: Tensor) -> Tensor:
            position = nn.functional.interpolate(self.table, size=x.shape[2:], mode="bilinear")
            return (x + position) * position.sigmoid()

    kernels = trace(Embedded(), (3, 8, 8))
    assert kinds(kernels) == ["add", "mul"]
    assert [kernel.parameters for kernel in kernels] == [12, 0]
    assert kernels[0].bytes_in == 2 * 3 * 64


def test_a_weight_made_of_parameters_is_a_weight() -> None:
    """Weight standardisation and averaged classifiers are constants by the time Core ML runs."""
    module = Calls(
        lambda m, x: nn.functional.conv2d(x, (m.a.weight + m.b.weight) / 2), a=nn.Conv2d(3, 4, 1, bias=False),
        b=nn.Conv2d(3, 4, 1, bias=False),
    )  # fmt: skip
    (kernel,) = trace(module, (3, 4, 4))
    assert (kernel.kind, kernel.parameters, kernel.bytes_weights) == ("conv", 24, 2 * 12)


def test_views_that_change_nothing_and_dead_code_vanish() -> None:
    def run(module: nn.Module, x: Tensor) -> Tensor:
        x.exp()
        y = nn.functional.dropout(x.contiguous().reshape(x.shape)[:, :], training=module.training)
        return nn.functional.relu_(y.permute(0, 2, 3, 1).permute(0, 3, 1, 2).flatten(2).view(1, 3, 4, 4).clone())

    assert kinds(trace(Calls(run), (3, 4, 4))) == ["relu"]


def test_moves_take_only_what_they_keep() -> None:
    def run(_: nn.Module, x: Tensor) -> Tensor:
        rolled = torch.cat([x[..., -1:], x[..., :-1]], dim=3)
        left, right = rolled.chunk(2, dim=2)
        return left.roll(1, 3) + right

    kernels = trace(Calls(run), (4, 6, 6))
    assert kinds(kernels) == ["slice_by_index"] * 2 + ["concat"] + ["slice_by_index"] * 2 + ["gather", "add"]
    assert kernels[0].bytes_in == kernels[0].bytes_out == 2 * 4 * 6
    assert kernels[2].inputs == (0, 1)


def test_attention_is_taken_apart_as_coremltools_does() -> None:
    def run(_: nn.Module, x: Tensor) -> Tensor:
        heads = x.flatten(2).reshape(1, 2, 4, 9)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads)

    kernels = trace(Calls(run), (8, 3, 3))
    assert kinds(kernels) == ["reshape", "mul", "matmul", "softmax", "matmul"]
    assert kernels[2].shape == (1, 2, 4, 4)
    assert kernels[2].macs == kernels[4].macs == 2 * 4 * 4 * 9


def test_the_transpose_of_a_matrix_product_is_free() -> None:
    kernels = trace(Calls(lambda _, x: x @ x.transpose(-2, -1)), (2, 4, 6))
    assert kinds(kernels) == ["matmul"]
    assert kernels[0].inputs == (NETWORK_INPUT, NETWORK_INPUT)


def test_an_unknown_operation_is_named_and_counted() -> None:
    (kernel,) = trace(Calls(lambda _, x: x.cumsum(2)), (1, 4, 4))
    assert (kernel.kind, kernel.bytes_in, kernel.bytes_out) == ("aten.cumsum", 32, 32)


def test_nothing_is_allocated() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Flatten(), nn.Linear(3, 10**9, bias=False), nn.Linear(10**9, 10**6, bias=False))
    assert totals(trace(module, (3, 1, 1))).macs == 3 * 10**9 + 10**15


def test_the_module_is_left_alone() -> None:
    module = timm.create_model("mobileone_s0").train()
    before = {name: (id(tensor), tensor._version) for name, tensor in module.state_dict(keep_vars=True).items()}
    fused = sum(kernel.parameters for kernel in trace(module, (3, 64, 64)))
    assert before == {name: (id(tensor), tensor._version) for name, tensor in module.state_dict(keep_vars=True).items()}
    assert module.training
    assert fused < sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["fastvit_t8", "fastvit_sa12", "mobileone_s0", "repghostnet_050", "repvit_m0_9"])
@pytest.mark.parametrize("features_only", [True, False])
def test_a_network_that_was_fused_before_is_taken_as_it_is(name: str, features_only: bool) -> None:
    module = timm.create_model(name, features_only=features_only).eval()
    fused = reparameterize_model(module)
    assert trace(fused, (3, 256, 256)) == trace(module, (3, 256, 256))


@pytest.mark.parametrize(
    "network",
    [
        Calls(lambda self, x: self.conv(x) + torch.ones(1, 4, 6, 6), conv=nn.Conv2d(3, 4, 3)),
        "deit_tiny_patch16_224",  # timm's own check
        "efficientformer_l1",  # a table of attention biases
    ],
    ids=["sum", "deit", "efficientformer"],
)
def test_a_network_that_fixes_its_resolution_says_so_in_one_line(network: nn.Module | str) -> None:
    with torch.device("meta"):
        module = timm.create_model(network) if isinstance(network, str) else network
    with pytest.raises(MvigNasError, match=r"the network must run at 512 x 512 px, got: .+; give the size") as caught:
        trace(module, (3, 512, 512))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8), (1, 3, 0, 8)])
def test_a_shape_that_is_not_one_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MvigNasError, match=r"input_shape must be \(1, 3, H, W\) with batch 1, got"):
        trace(nn.Identity(), shape)


def timm_networks() -> dict[str, tuple[str, int]]:
    """Shipped kernel list -> (timm name, resolution) for whole classifiers."""
    with (PUBLISHED / "measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["network"]: (row["timm_name"], int(row["resolution"]))
        for row in rows
        if row["timm_name"] and not row["network"].endswith("-features")
    }


@pytest.mark.parametrize("name", QUICK)
def test_shipped_kernels_are_what_the_tracer_says(name: str) -> None:
    check_shipped(next(network for network, (timm_name, _) in timm_networks().items() if timm_name == name))


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(timm_networks()))
def test_every_shipped_timm_network_traces(network: str) -> None:
    check_shipped(network)


@cache
def shipped_kernels() -> dict[str, tuple[Kernel, ...]]:
    return load_kernels(PUBLISHED / "kernels.npz")


def check_shipped(network: str) -> None:
    name, resolution = timm_networks()[network]
    with torch.device("meta"):
        module = timm.create_model(name)
        if getattr(getattr(module, "patch_embed", None), "img_size", None) not in (None, (resolution, resolution)):
            module = timm.create_model(name, img_size=resolution)
    kernels = trace(module, (1, 3, resolution, resolution))
    assert Counter(kinds(kernels)) == Counter(kinds(shipped_kernels()[network]))
    assert kernels == shipped_kernels()[network]
