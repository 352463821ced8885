"""The supernet against plain networks, with a second, naive description of which weights a sub-network uses."""

import copy
import json
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.network import MobileViG, build
from mvig_nas.network.blocks import GraphBlock, MBConv
from mvig_nas.search_space import SearchSpace
from mvig_nas.supernet import FILE, Supernet, check_covers, load_supernet, save_supernet
from tests.strategies import FAMILY, SPACES, architectures

TOY, MICRO = SPACES["toy"], SPACES["micro"]
CLASSES = 7
State = dict[str, Tensor]


def with_choices(space: SearchSpace, **choices: tuple[Any, ...]) -> SearchSpace:
    """The space with other choices in every stage."""
    named = {f"stage{index}.{key}": values for index in range(1, 5) for key, values in choices.items()}
    return SearchSpace("changed", {**space.choices, **named})


THREE_KERNELS = with_choices(TOY, conv_kernel=(3, 5, 7))


def made(space: SearchSpace, seed: int = 0, **options: Any) -> Supernet:
    """A supernet with random statistics, scales and matrices, so that nothing hides behind ones and zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = Supernet(space, CLASSES, **options)
        for name, tensor in supernet.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                tensor.random_(100)
            elif name.startswith("kernel_transforms"):
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
            elif tensor.ndim == 1 or name.endswith("layer_scale"):
                tensor.normal_(0.0, 0.7)
    return supernet


@cache
def shared(name: str) -> Supernet:
    """One for all examples of a test that leaves it as it is, but for running statistics."""
    return made({"three kernels": THREE_KERNELS, "family": FAMILY, **SPACES}[name])


def batch(architecture: Architecture, size: int = 2) -> Tensor:
    side = architecture.resolution
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(side))


def described(supernet: Supernet, architecture: Architecture, name: str) -> tuple[str, list[int], int | None]:
    """The supernet's name of a sub-network's tensor; kernel sizes on its way, if it is a kernel; groups, if it has."""
    if ".blocks." not in name:
        return f"network.{name}", [], None
    _, index, _, block, part = name.split(".", 4)
    own, full = architecture.stages[int(index)], supernet.space.largest.stages[int(index)]
    at = int(block) if int(block) < own.conv_depth else int(block) - own.conv_depth + full.conv_depth
    if part.startswith("graph_conv.bn") and own.graph_groups != 1:
        return f"group_norms.{index}_{at}_{own.graph_groups}.{part.split('.')[-1]}", [], None
    sizes: list[int] = []
    if part == "conv_dw.conv.weight":
        choices = supernet.space.choices[f"stage{int(index) + 1}.conv_kernel"]
        sizes = sorted((int(size) for size in choices if int(size) >= (own.conv_kernel or 0)), reverse=True)[1:]
    groups = own.graph_groups if part == "graph_conv.conv.weight" else None
    return f"network.stages.{index}.blocks.{at}.{part}", sizes, groups


def naive_graph_weight(full: Tensor, outputs: int, width: int, groups: int) -> Tensor:
    """A group's outputs see its share of x, and in the second half of the columns its share of the links."""
    half, share = full.shape[1] // 2, width // groups
    rows = []
    for output in range(outputs):
        group = output // (outputs // groups)
        columns = range(group * share, (group + 1) * share)
        rows.append(full[output, [*columns, *(half + column for column in columns)]])
    return torch.stack(rows)


def naive(supernet: Supernet, state: State, architecture: Architecture, *, mixed: bool = True) -> dict[str, Tensor]:
    """A sub-network's tensors out of the supernet's; kernels only cropped, by one size, unless `mixed`."""
    shapes = build(architecture, CLASSES, distillation=supernet.distillation).state_dict()
    found = {}
    for name, wanted in shapes.items():
        source, sizes, groups = described(supernet, architecture, name)
        full = state[source]
        if groups is not None:
            found[name] = naive_graph_weight(full, wanted.shape[0], wanted.shape[1] * groups // 2, groups)
            continue
        part = full[: wanted.shape[0]] if sizes else full[tuple(slice(size) for size in wanted.shape)]
        for size in sizes if mixed else sizes[:1]:
            edge = (part.shape[-1] - size) // 2
            part = part[:, :, edge : edge + size, edge : edge + size]
            if mixed:
                matrix = state[f"kernel_transforms.{source.split('.')[2]}_{source.split('.')[4]}_{size}"]
                flat = part.flatten(1) @ matrix.T
                part = flat.view(part.shape)
        found[name] = part
    return found


def used(supernet: Supernet, architecture: Architecture) -> dict[str, Tensor]:
    """Masks of the supernet's entries that a sub-network reads."""
    state = supernet.state_dict()
    masks = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in state.items()}
    numbers = {name: torch.arange(tensor.numel()).view(tensor.shape) for name, tensor in state.items()}
    for name, taken in naive(supernet, numbers, architecture, mixed=False).items():
        source, sizes, _ = described(supernet, architecture, name)
        masks[source].view(-1)[taken.flatten()] = True
        for size in sizes:
            masks[f"kernel_transforms.{source.split('.')[2]}_{source.split('.')[4]}_{size}"][:] = True
    return masks


def loss_of(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)) % CLASSES)


def sampled(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count))]


class TestOutputs:
    """`supernet(x, a)` is `extract(a)(x)`."""

    @staticmethod
    def check(name: str, architecture: Architecture, size: int = 2) -> None:
        supernet, images = shared(name), batch(architecture, size)
        with torch.no_grad():
            alone = supernet.eval().extract(architecture)
            assert not alone.training
            assert torch.equal(supernet(images, architecture), alone(images))
            assert torch.equal(supernet.train()(images, architecture), alone.train()(images))
            after = supernet.weights(architecture)
        assert all(torch.equal(after[key], tensor) for key, tensor in alone.state_dict().items())

    @given(architectures(TOY))
    @settings(max_examples=110, deadline=None)
    def test_toy(self, architecture: Architecture) -> None:
        self.check("toy", architecture)

    @given(architectures(MICRO))
    @settings(max_examples=70, deadline=None)
    def test_micro(self, architecture: Architecture) -> None:
        self.check("micro", architecture)

    @given(architectures(THREE_KERNELS))
    @settings(max_examples=20, deadline=None)
    def test_three_kernels(self, architecture: Architecture) -> None:
        self.check("three kernels", architecture)

    @given(architectures(FAMILY))
    @settings(max_examples=60, deadline=None)
    def test_every_operator(self, architecture: Architecture) -> None:
        self.check("family", architecture)

    @pytest.mark.parametrize("seed", range(2))
    def test_mobilevig_ti(self, seed: int) -> None:
        self.check("mobilevig-ti", SPACES["mobilevig-ti"].sample(random.Random(seed)))

    def test_the_largest_is_the_whole_network(self) -> None:
        supernet = shared("toy").eval()
        largest = TOY.largest
        dense = replace(largest, stages=tuple(replace(stage, graph_groups=1) for stage in largest.stages))  # type: ignore[arg-type]
        images = batch(dense)
        assert torch.equal(supernet(images, dense), supernet.network(images))

    def test_of_double_precision(self) -> None:
        supernet = made(TOY)
        images, architecture = batch(TOY.smallest), TOY.smallest
        supernet.eval()(images, architecture)
        supernet.double()
        outputs = supernet(images.double(), architecture)
        assert outputs.dtype == torch.float64
        assert torch.equal(outputs, supernet.extract(architecture)(images.double()))


class TestSlices:
    """Weights and gradients against the naive description."""

    @pytest.mark.parametrize("name", ["toy", "micro", "three kernels", "family"])
    def test_weights_are_those_described(self, name: str) -> None:
        supernet = shared(name)
        for architecture in sampled(supernet.space, 10):
            expected = naive(supernet, supernet.state_dict(), architecture)
            found = supernet.extract(architecture).state_dict()
            assert list(found) == list(expected)
            for key, tensor in expected.items():
                torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", ["toy", "micro", "three kernels", "family"])
    def test_gradients_land_in_the_slice_alone(self, name: str) -> None:
        supernet = copy.deepcopy(shared(name)).train()
        for architecture in sampled(supernet.space, 8):
            images, masks = batch(architecture, 8), used(supernet, architecture)
            supernet.zero_grad()
            alone = supernet.extract(architecture)
            loss_of(supernet(images, architecture)).backward()
            for key, parameter in supernet.named_parameters():
                if not masks[key].any():
                    assert parameter.grad is None, key
                    continue
                assert parameter.grad is not None, key
                assert parameter.grad.any(), key
                assert not parameter.grad[~masks[key]].any(), key
            loss_of(alone(images)).backward()
            grads = {key: parameter.grad for key, parameter in supernet.named_parameters()}
            zeros = {key: torch.zeros_like(tensor) for key, tensor in supernet.state_dict().items()}
            taken = naive(supernet, zeros | {k: g for k, g in grads.items() if g is not None}, architecture)
            for key, parameter in alone.named_parameters():
                if not described(supernet, architecture, key)[1]:
                    assert torch.equal(taken[key], parameter.grad), key

    def test_gradients_of_sub_networks_add_up(self) -> None:
        supernet = copy.deepcopy(shared("toy")).eval()
        sums: State = {}
        for architecture in sampled(TOY, 2):
            supernet.zero_grad()
            loss_of(supernet(batch(architecture), architecture)).backward()
            for key, parameter in supernet.named_parameters():
                if parameter.grad is not None:
                    sums[key] = sums.get(key, torch.zeros(())) + parameter.grad
        supernet.zero_grad()
        for architecture in sampled(TOY, 2):
            loss_of(supernet(batch(architecture), architecture)).backward()
        for key, parameter in supernet.named_parameters():
            assert (parameter.grad is None) == (key not in sums)
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, sums[key])

    @pytest.mark.parametrize("name", ["toy", "three kernels", "family"])
    def test_nothing_outside_the_slice_is_read(self, name: str) -> None:
        supernet = shared(name)
        for architecture in sampled(supernet.space, 8):
            poisoned = copy.deepcopy(supernet)
            masks = used(supernet, architecture)
            for key, tensor in poisoned.state_dict().items():
                if tensor.is_floating_point():
                    tensor[~masks[key]] = torch.nan
            images = batch(architecture)
            for training in (False, True):
                supernet.train(training)
                poisoned.train(training)
                outputs = poisoned(images, architecture)
                assert torch.equal(outputs, supernet(images, architecture))
            loss_of(outputs).backward()
            for parameter in poisoned.parameters():
                assert parameter.grad is None or parameter.grad.isfinite().all()
            for key, tensor in poisoned.state_dict().items():
                if tensor.is_floating_point():
                    assert torch.equal(tensor.isnan(), ~masks[key]), key

    def test_grouped_graph_convolution_is_one_for_each_group(self) -> None:
        supernet = shared("toy").eval()
        values = TOY.encode(TOY.smallest) | {"stage3.graph_depth": 1, "stage3.graph_groups": 2, "stage3.width": 16}
        architecture = TOY.decode(values)
        block = supernet.extract(architecture).stages[2].blocks[-1].graph_conv
        full = supernet.network.stages[2].blocks[-1].graph_conv.conv
        x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
        links = block.links(x)
        parts = []
        for own, outputs in ((slice(0, 8), slice(0, 16)), (slice(8, 16), slice(16, 32))):
            for_x = full.weight[outputs, own, 0, 0]
            for_links = full.weight[outputs, 24 + own.start : 24 + own.stop, 0, 0]
            mixed = torch.einsum("oc,bchw->bohw", for_x, x[:, own])
            mixed += torch.einsum("oc,bchw->bohw", for_links, links[:, own])
            parts.append(mixed + full.bias[outputs].view(-1, 1, 1))
        norm = supernet.group_norms[f"2_{TOY.largest.stages[2].conv_depth}_2"]
        mixed = torch.cat(parts, dim=1)
        expected = F.batch_norm(mixed, norm.running_mean[:32], norm.running_var[:32], norm.weight[:32], norm.bias[:32])
        torch.testing.assert_close(block(x), block.act(expected), rtol=1e-4, atol=1e-5)

    def test_smaller_kernels_begin_as_the_centre(self) -> None:
        supernet = Supernet(THREE_KERNELS, CLASSES)
        for size, edge in ((7, 0), (5, 1), (3, 2)):
            values = THREE_KERNELS.encode(THREE_KERNELS.smallest) | {"stage1.conv_kernel": size}
            kernel = supernet.extract(THREE_KERNELS.decode(values)).stages[0].blocks[0].conv_dw.conv.weight
            whole = supernet.network.stages[0].blocks[0].conv_dw.conv.weight
            assert torch.equal(kernel, whole[: len(kernel), :, edge : 7 - edge, edge : 7 - edge])

    def test_smaller_kernels_pass_every_matrix(self) -> None:
        supernet = made(THREE_KERNELS)
        values = THREE_KERNELS.encode(THREE_KERNELS.smallest) | {"stage1.conv_kernel": 3}
        whole = supernet.network.stages[0].blocks[0].conv_dw.conv.weight[:16, 0]
        to_5, to_3 = (supernet.kernel_transforms[f"0_0_{size}"] for size in (5, 3))
        middle = torch.einsum("ij,cj->ci", to_5, whole[:, 1:6, 1:6].reshape(16, 25)).view(16, 5, 5)
        expected = torch.einsum("ij,cj->ci", to_3, middle[:, 1:4, 1:4].reshape(16, 9)).view(16, 1, 3, 3)
        kernel = supernet.extract(THREE_KERNELS.decode(values)).stages[0].blocks[0].conv_dw.conv.weight
        torch.testing.assert_close(kernel, expected)


class TestSorting:
    def test_the_largest_network_computes_the_same(self) -> None:
        supernet = made(TOY).eval()
        images = batch(TOY.largest)
        with torch.no_grad():
            before = supernet.network(images)
            small = supernet(images, TOY.smallest)
            supernet.sort_channels()
            torch.testing.assert_close(supernet.network(images), before, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(supernet(images, TOY.smallest), small, rtol=1e-2, atol=1e-2)

    def test_importance_falls(self) -> None:
        supernet = made(TOY)
        supernet.sort_channels()
        readers = [
            module.conv_pwl if isinstance(module, MBConv) else module.ffn_fc2
            for module in supernet.network.modules()
            if isinstance(module, (MBConv, GraphBlock))
        ]
        assert len(readers) == 7 + 5
        for reader in readers:
            importance = reader.conv.weight.abs().sum(dim=(0, 2, 3))
            assert (importance.diff() <= 0).all()

    def test_moments_follow_their_weights(self) -> None:
        def trained(*, sort: bool, with_moments: bool) -> Tensor:
            supernet = made(TOY).train()
            optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.02, eps=1e-3)
            images = batch(TOY.largest, 8)
            for step in range(4):
                if step == 2 and sort:
                    supernet.sort_channels(optimizer if with_moments else None)
                optimizer.zero_grad()
                loss_of(supernet.network(images)).backward()
                optimizer.step()
            return supernet.network(images).detach()

        expected = trained(sort=False, with_moments=False)
        torch.testing.assert_close(trained(sort=True, with_moments=True), expected, rtol=1e-2, atol=1e-2)
        assert not torch.allclose(trained(sort=True, with_moments=False), expected, rtol=5e-2, atol=5e-2)


class TestModule:
    @pytest.mark.parametrize(
        ("key", "changed"),
        [
            ("stage2.width", {"width": 14}),
            ("stage2.conv_depth", {"conv_depth": 3}),
            ("stage2.activation", {"activation": "silu"}),
        ],
    )
    def test_an_architecture_of_another_space_is_refused_by_name(self, key: str, changed: dict[str, Any]) -> None:
        stages = list(TOY.largest.stages)
        stages[1] = replace(stages[1], **changed)
        stranger = replace(TOY.largest, stages=tuple(stages))
        supernet = shared("toy")
        for use in (lambda: supernet(batch(stranger), stranger), lambda: supernet.extract(stranger)):
            with pytest.raises(MvigNasError, match=f"`{key}` must be one of"):
                use()

    def test_copies_share_nothing(self) -> None:
        supernet, architecture = made(TOY).eval(), TOY.smallest
        images = batch(architecture)
        before = supernet(images, architecture)
        copied = copy.deepcopy(supernet)
        assert not copied.training
        assert torch.equal(copied(images, architecture), before)
        with torch.no_grad():
            for tensor in copied.state_dict().values():
                tensor.zero_()
        assert torch.equal(supernet(images, architecture), before)
        assert not copied(images, architecture).any()

    def test_extracted_networks_share_nothing(self) -> None:
        supernet, architecture = made(TOY).eval(), TOY.largest
        before = supernet(batch(architecture), architecture)
        network = supernet.extract(architecture)
        assert isinstance(network, MobileViG)
        assert all(parameter.requires_grad for parameter in network.parameters())
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.zero_()
        assert torch.equal(supernet(batch(architecture), architecture), before)

    def test_running_draws_no_random_numbers(self) -> None:
        supernet = made(TOY).eval()
        state = torch.random.get_rng_state()
        supernet(batch(TOY.smallest), TOY.smallest)
        supernet.extract(TOY.smallest)
        copy.deepcopy(supernet)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_many_architectures_run_in_turn(self) -> None:
        supernet = copy.deepcopy(shared("toy")).eval()
        several = list(dict.fromkeys(sampled(TOY, 70)))
        with torch.no_grad():
            first = supernet(batch(several[0], 1), several[0])
            for architecture in several:
                supernet.weights(architecture)
            assert torch.equal(supernet(batch(several[0], 1), several[0]), first)

    def test_names_of_weights_stay(self) -> None:
        names = list(made(MICRO).state_dict())
        assert len(names) == len(set(names)) == 433
        assert {
            "network.stem.conv1.conv.weight",
            "network.stages.0.blocks.0.layer_scale",
            "network.stages.2.blocks.3.conv_dw.conv.weight",
            "network.stages.2.blocks.5.graph_conv.conv.weight",
            "network.stages.3.blocks.2.ffn_fc2.bn.running_var",
            "network.head.bias",
            "kernel_transforms.2_3_3",
            "group_norms.2_5_4.running_mean",
        } <= set(names)

    def test_no_weight_decay_names_parameters(self) -> None:
        supernet = made(TOY)
        spared = supernet.no_weight_decay()
        assert spared <= dict(supernet.named_parameters()).keys()
        assert {name.split(".")[0] for name in spared} == {"network", "kernel_transforms"}

    def test_layer_scale_starts_where_it_is_told(self) -> None:
        supernet = Supernet(TOY, CLASSES, layer_scale_init=0.25)
        for network in (supernet.network, supernet.extract(TOY.smallest)):
            scales = [tensor for name, tensor in network.named_parameters() if name.endswith("layer_scale")]
            assert scales
            assert all((scale == 0.25).all() for scale in scales)

    def test_a_space_without_dense_graph_convolutions(self) -> None:
        space = with_choices(TOY, graph_groups=(2, 4))
        supernet = made(space)
        for architecture in sampled(space, 5):
            images = batch(architecture)
            assert torch.equal(supernet(images, architecture), supernet.extract(architecture)(images))

    def test_two_classifiers(self) -> None:
        supernet = made(TOY, distillation=True)
        assert "network.head_dist.weight" in supernet.state_dict()
        for architecture in sampled(TOY, 3):
            images = batch(architecture)
            outputs = supernet(images, architecture)
            assert torch.equal(outputs, supernet.extract(architecture)(images))
            supernet.zero_grad()
            loss_of(outputs).backward()
            assert supernet.get_parameter("network.head_dist.weight").grad is not None


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFiles:
    NAMES = tuple("abcdefg")

    @pytest.mark.parametrize("distillation", [False, True])
    def test_round_trip(self, tmp_path: Path, distillation: bool) -> None:
        supernet = made(TOY, distillation=distillation).train()
        training = {"epochs": 3, "rule": "sandwich"}
        save_supernet(tmp_path / FILE, supernet, self.NAMES, training)
        state = torch.random.get_rng_state()
        for path in (tmp_path, tmp_path / FILE):
            loaded = load_supernet(path)
            assert (loaded.classes, loaded.training) == (self.NAMES, training)
            assert loaded.supernet.space == TOY
            assert not loaded.supernet.training
            found, expected = loaded.supernet.state_dict(), supernet.state_dict()
            assert list(found) == list(expected)
            assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
        assert torch.equal(torch.random.get_rng_state(), state)
        images = batch(TOY.smallest)
        assert torch.equal(loaded.supernet(images, TOY.smallest), supernet.eval()(images, TOY.smallest))

    def test_the_digest_is_of_the_weights(self, tmp_path: Path) -> None:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            save_supernet(tmp_path / name, made(TOY, seed), self.NAMES, {})
        digests = [load_supernet(tmp_path / name).digest for name in "abc"]
        assert digests[0] == digests[1] != digests[2]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none.safetensors"):
            with pytest.raises(MvigNasError, match=r"there is none at .*safetensors; train one: mvig-nas supernet"):
                load_supernet(path)

    def test_a_training_that_has_not_ended(self, tmp_path: Path) -> None:
        (tmp_path / "state.pt").write_bytes(b"")
        with pytest.raises(MvigNasError, match="its training has not ended, go on with --resume"):
            load_supernet(tmp_path)

    def test_a_truncated_file(self, tmp_path: Path) -> None:
        path = tmp_path / FILE
        save_supernet(path, made(TOY), self.NAMES, {})
        content = path.read_bytes()
        for size in (0, 1, 8, 1000, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            with pytest.raises(
                MvigNasError, match=r"must be a supernet as `supernet train` writes it, but: ."
            ) as raised:
                load_supernet(path)
            assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"mvig_nas": "[1]"}])
    def test_other_weights(self, tmp_path: Path, metadata: dict[str, str] | None) -> None:
        save_file({"weight": torch.zeros(3)}, tmp_path / FILE, metadata)
        with pytest.raises(MvigNasError, match=r"must be a supernet .* holds other weights"):
            load_supernet(tmp_path)

    def test_weights_of_another_shape(self, tmp_path: Path) -> None:
        self.rewrite(tmp_path / FILE, space=MICRO.to_dict())
        with pytest.raises(MvigNasError, match=r"must be a supernet .* but: Error.* in loading state_dict") as raised:
            load_supernet(tmp_path)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 500

    def test_a_newer_schema(self, tmp_path: Path) -> None:
        self.rewrite(tmp_path / FILE, schema=2)
        with pytest.raises(MvigNasError, match=r"schema must be 1, got 2 .*; upgrade"):
            load_supernet(tmp_path)

    def rewrite(self, path: Path, **changed: Any) -> None:
        """A good file with other entries in its metadata."""
        save_supernet(path, made(TOY), self.NAMES, {})
        about = {"schema": 1, "space": TOY.to_dict(), "classes": self.NAMES, "distillation": False, "training": {}}
        save_file(load_file(path), path, {"mvig_nas": json.dumps(about | changed)})

    def test_a_failed_save_leaves_the_file_before(self, tmp_path: Path) -> None:
        path = tmp_path / FILE
        save_supernet(path, made(TOY), self.NAMES, {})
        before = path.read_bytes()
        with largest_file(len(before) // 2), pytest.raises(MvigNasError, match="must be writable"):
            save_supernet(path, made(TOY, seed=1), self.NAMES, {})
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MvigNasError, match="must be writable"):
            save_supernet(tmp_path / "none" / FILE, made(TOY), self.NAMES, {})

    def test_a_switch_that_a_space_has_not_is_off(self) -> None:
        on, off = with_choices(TOY, graph_scale=(True,)), TOY
        both = with_choices(TOY, graph_scale=(False, True))
        for held, wanted, is_covered in ((both, on, True), (both, off, True), (off, on, False), (on, off, False)):
            supernet = Supernet(held, CLASSES)
            if is_covered:
                check_covers(supernet, wanted, Path("x"))
            else:
                with pytest.raises(MvigNasError, match=r"which has no `stage1\.graph_scale` of"):
                    check_covers(supernet, wanted, Path("x"))

    def test_a_space_must_be_covered(self) -> None:
        supernet, path = shared("toy"), Path("x")
        check_covers(supernet, TOY, path)
        check_covers(supernet, with_choices(TOY, conv_kernel=(3,)), path)
        with pytest.raises(MvigNasError, match=r"the one in x was trained for 'toy', which has no `resolution` of 48"):
            check_covers(supernet, MICRO, path)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_recalibration_touches_statistics_of_the_slice_alone(seed: int) -> None:
    supernet = copy.deepcopy(shared("toy")).train()
    architecture = TOY.sample(random.Random(seed))
    before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    masks = used(supernet, architecture)
    with torch.no_grad():
        supernet(batch(architecture), architecture)
    for key, tensor in supernet.state_dict().items():
        changed = tensor != before[key]
        is_statistic = key.rpartition(".")[2] in {"running_mean", "running_var", "num_batches_tracked"}
        assert not changed[~masks[key]].any(), key
        # an update may round to the old value, which one channel in some thousands does
        kept = int((~changed[masks[key]]).sum())
        assert kept <= 1 if is_statistic else not changed.any(), key


def test_batch_norms_are_all_there_is_to_recalibrate() -> None:
    buffers = {name.rpartition(".")[2] for name, _ in made(TOY).named_buffers()}
    assert buffers == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(isinstance(module, nn.BatchNorm2d) for module in made(TOY).group_norms.values())
