"""First weights from another network: cut as the supernet cuts them, whatever the two have in common."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mvig_nas.architecture import Architecture
from mvig_nas.network import MobileViG, build
from mvig_nas.supernet import FirstWeights, Supernet
from tests.tiny_training import SPACE


def randomised(network: MobileViG, seed: int = 1) -> MobileViG:
    """With every tensor random, norms and layer scales included."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return network.eval()


def with_stage(architecture: Architecture, number: int, **changes: object) -> Architecture:
    stages = list(architecture.stages)
    stages[number] = replace(stages[number], **changes)  # type: ignore[arg-type]
    return replace(architecture, stages=tuple(stages))  # type: ignore[arg-type]


def given(network: MobileViG) -> FirstWeights:
    return FirstWeights(network.state_dict(), network.architecture)


def test_the_slices_are_the_supernets() -> None:
    supernet = Supernet(SPACE, 3)
    randomised(supernet.network)
    source = FirstWeights(supernet.network.state_dict(), supernet.container)
    generator = random.Random(5)
    grouped = 0
    for _ in range(30):
        architecture = SPACE.sample(generator)
        network = randomised(build(architecture, 3, distillation=False), 2)
        found = source.give_to(network)
        groups = [stage.graph_groups or 1 for stage in architecture.stages]
        grouped += max(groups) > 1
        own = network.state_dict()
        for name, tensor in supernet.extract(architecture).state_dict().items():
            # of groups the supernet has norms of their own, which no single network has
            if "graph_conv.bn" not in name or max(groups) == 1:
                assert torch.equal(own[name], tensor), name
        assert found.share == 1 or max(groups) > 1
    assert grouped


def test_what_the_other_lacks_stays_fresh_and_is_named() -> None:
    small = SPACE.smallest
    source = randomised(build(small, 3, distillation=False))
    deeper = with_stage(small, 0, conv_depth=small.stages[0].conv_depth + 1)
    network = build(deeper, 3, distillation=False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = given(source).give_to(network)
    fresh = {name for name in before if name.startswith("stages.0.blocks.1.")}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name in fresh else source.state_dict()[name]), name
    of_block = sum(tensor.numel() for name, tensor in network.named_parameters() if name in fresh)
    total = sum(tensor.numel() for tensor in network.parameters())
    assert (found.taken, found.total, found.fresh) == (total - of_block, total, ("block 2 of stage 1",))
    assert str(found) == (
        f"{found.share:.1%} of the {total:,} parameters begin with other weights; nothing was there for block 2 of "
        "stage 1"
    )


def test_a_wider_network_keeps_the_first_channels() -> None:
    small = with_stage(SPACE.smallest, 1, graph_depth=1, graph_step=1, graph_operator="svga", graph_groups=1,
        ffn_expansion=2)  # fmt: skip
    source = randomised(build(small, 3, distillation=False))
    wide = with_stage(small, 1, width=small.stages[1].width + 4)
    network = build(wide, 3, distillation=False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    given(source).give_to(network)
    name = "stages.1.blocks.0.graph_conv.conv.weight"
    narrow, merged = source.state_dict()[name], network.state_dict()[name]
    c, w = small.stages[1].width, wide.stages[1].width
    for half in range(2):
        mine, theirs = merged[:, half * w : (half + 1) * w], narrow[:, half * c : (half + 1) * c]
        assert torch.equal(mine[: 2 * c, :c], theirs)
        assert torch.equal(mine[: 2 * c, c:], before[name][: 2 * c, half * w + c : (half + 1) * w])
    assert torch.equal(merged[2 * c :], before[name][2 * c :])


def test_groups_come_back_from_a_dense_convolution() -> None:
    dense = with_stage(SPACE.smallest, 1, graph_depth=1, graph_step=1, graph_operator="svga", graph_groups=1,
        ffn_expansion=2)  # fmt: skip
    grouped = with_stage(dense, 1, graph_groups=2)
    source = randomised(build(grouped, 3, distillation=False))
    middle = build(dense, 3, distillation=False)
    given(source).give_to(middle)
    network = build(grouped, 3, distillation=False)
    given(middle).give_to(network)
    name = "stages.1.blocks.0.graph_conv.conv.weight"
    assert torch.equal(network.state_dict()[name], source.state_dict()[name])


def test_a_larger_depthwise_kernel_computes_the_same() -> None:
    small = with_stage(SPACE.smallest, 0, conv_kernel=3)
    source = randomised(build(small, 3, distillation=False))
    network = build(with_stage(small, 0, conv_kernel=5), 3, distillation=False).eval()
    given(source).give_to(network)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(network(images), source(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_two", [False, True])
def test_classifiers_of_networks_with_one_and_with_two(has_two: bool) -> None:
    source = randomised(build(SPACE.smallest, 3, distillation=not has_two))
    network = build(SPACE.smallest, 3, distillation=has_two).eval()
    given(source).give_to(network)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    answer, theirs = network(images), source(images)
    assert isinstance(answer, Tensor)
    assert isinstance(theirs, Tensor)
    assert torch.allclose(answer, theirs, rtol=1e-5, atol=1e-5)


def test_classifiers_of_other_classes_are_left_alone() -> None:
    network = build(SPACE.smallest, 4, distillation=False)
    before = network.state_dict()["head.weight"].clone()
    found = given(randomised(build(SPACE.smallest, 3, distillation=False))).give_to(network)
    assert torch.equal(network.state_dict()["head.weight"], before)
    assert found.fresh == ("the classifiers",)
