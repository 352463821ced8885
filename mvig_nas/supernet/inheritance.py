"""First weights of a network from those of another one: what both have in common, cut as the supernet cuts it.

Depth keeps the first blocks of either kind, width and expansion the first channels, a smaller depthwise kernel the
centre; of a graph convolution either half of the columns is cut by itself, and of a dense one groups take the block
diagonal. What the other network lacks stays as it is, but for the rim of a larger depthwise kernel, which is zero, so
that the block computes what it did.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvig_nas.architecture import Architecture
from mvig_nas.network import MobileViG
from mvig_nas.network.mobilevig import TEACHER_HEAD

CLASSIFIERS = ("head.", "head_dist.", TEACHER_HEAD)
_BLOCK = re.compile(r"stages\.(\d)\.blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Inheritance:
    """What a network took from another one.

    Attributes:
        taken: parameters, counted one by one, that have the other network's values.
        total: parameters of the network, without a classifier that training alone uses.
        fresh: names of the parts that took nothing: `classifiers`, `stage 3 block 2`, as they stand in the network.
    """

    taken: int
    total: int
    fresh: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the parameters that were taken, from 0 to 1."""
        return self.taken / self.total

    def __str__(self) -> str:
        more = f" and {len(self.fresh) - 4} more" if len(self.fresh) > 4 else ""
        fresh = f"; nothing was there for {', '.join(self.fresh[:4])}{more}" if self.fresh else ""
        return f"{self.share:.1%} of the {self.total:,} parameters begin with other weights{fresh}"


@dataclass(frozen=True, eq=False)
class FirstWeights:
    """Weights of a network, from which another one begins.

    Attributes:
        weights: by MobileViG's names; classifiers have the images' classes, or are missing.
        architecture: of the network that they are of.
        name: plain values that say where they come from.
    """

    weights: Mapping[str, Tensor]
    architecture: Architecture
    name: Mapping[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def give_to(self, network: MobileViG) -> Inheritance:
        """Copy what both networks have in common into `network`.

        A second classifier that is missing here is a copy of the first; of two, a network with one classifier takes the
        mean, which is what the two answer together.
        """
        taken = total = 0
        parameters = dict(network.named_parameters())
        parts: dict[str, bool] = {}
        for name, tensor in network.state_dict().items():
            if name.startswith(TEACHER_HEAD):
                continue
            given = self._given(name, network)
            mask = torch.zeros_like(tensor, dtype=torch.bool)
            if given is not None:
                mask = self._merged(name, tensor, given, network.architecture)
            if name in parameters:
                taken, total = taken + int(mask.sum()), total + mask.numel()
                part = _part(name)
                parts[part] = parts.get(part, False) or bool(mask.any())
        return Inheritance(taken, total, tuple(part for part, took in parts.items() if not took))

    def _given(self, name: str, network: MobileViG) -> Tensor | None:
        """The tensor here that one of `network` is cut from."""
        if name.startswith(CLASSIFIERS):
            leaf = name.rpartition(".")[2]
            first, second = self.weights.get(f"head.{leaf}"), self.weights.get(f"head_dist.{leaf}")
            if first is None or second is None or first.shape[0] != network.num_classes:
                return first if first is not None and first.shape[0] == network.num_classes else None
            if network.head_dist is None:
                return (first + second) / 2
            return second if name.startswith("head_dist.") else first
        match = _BLOCK.fullmatch(name)
        if match is None:
            return self.weights.get(name)
        number, block, part = int(match[1]), int(match[2]), match[3]
        stage, own = network.architecture.stages[number], self.architecture.stages[number]
        if block >= stage.conv_depth:
            block += own.conv_depth - stage.conv_depth
        elif block >= own.conv_depth:
            return None
        if part.startswith("graph_conv.bn.") and stage.graph_groups != own.graph_groups:
            return None
        return self.weights.get(f"stages.{number}.blocks.{block}.{part}")

    def _merged(self, name: str, tensor: Tensor, given: Tensor, architecture: Architecture) -> Tensor:
        """Write `given` into `tensor` where both have entries; which ones, in the tensor's shape."""
        given = given.to(tensor)
        match = _BLOCK.fullmatch(name)
        if match is not None and match[3] == "graph_conv.conv.weight":
            number = int(match[1])
            groups = (stages[number].graph_groups or 1 for stages in (architecture.stages, self.architecture.stages))
            return _merge_graph(tensor, given, *groups)
        mask = torch.zeros_like(tensor, dtype=torch.bool)
        is_depthwise = match is not None and match[3] == "conv_dw.conv.weight"
        if is_depthwise:
            mine, theirs = tensor.shape[-1], given.shape[-1]
            both = min(mine, theirs)
            channels = min(tensor.shape[0], given.shape[0])
            tensor[:channels] = 0
            to, of = ((side - both) // 2 for side in (mine, theirs))
            at: tuple[slice, ...] = (slice(channels), slice(None), slice(to, to + both), slice(to, to + both))
            tensor[at] = given[:channels, :, of : of + both, of : of + both]
        else:
            at = tuple(slice(min(sides)) for sides in zip(tensor.shape, given.shape, strict=True))
            tensor[at] = given[at]
        mask[at] = True
        return mask


def _merge_graph(tensor: Tensor, given: Tensor, groups: int, given_groups: int) -> Tensor:
    """Of graph convolutions' weights (O, 2C / groups, 1, 1), which see either half of their inputs by itself."""
    dense, known = _dense(given, given_groups)
    outputs, inputs = tensor.shape[0], tensor.shape[1] // 2
    row = torch.arange(outputs).view(-1, 1, 1)
    half = torch.arange(2).view(1, -1, 1)
    column = torch.arange(inputs).view(1, 1, -1) + row // (outputs // groups) * inputs
    is_there = (row < dense.shape[0]) & (column < dense.shape[2]) & (half < 2)
    at = (row.clamp(max=dense.shape[0] - 1), half, column.clamp(max=dense.shape[2] - 1))
    mask = is_there & known[at]
    view = tensor.view(outputs, 2, inputs)
    view[mask] = dense[at][mask]
    return mask.reshape(tensor.shape)


def _dense(weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(O, 2C / groups, 1, 1) as (O, 2, C), and where it is known."""
    outputs, inputs = weight.shape[0], weight.shape[1] // 2
    dense = weight.new_zeros(outputs, 2, inputs * groups)
    known = torch.zeros_like(dense, dtype=torch.bool)
    rows = outputs // groups
    for group in range(groups):
        at = (slice(group * rows, (group + 1) * rows), slice(None), slice(group * inputs, (group + 1) * inputs))
        dense[at] = weight[at[0]].view(rows, 2, inputs)
        known[at] = True
    return dense, known


def _part(name: str) -> str:
    """The part of a network that a tensor belongs to, in words."""
    if name.startswith(CLASSIFIERS):
        return "the classifiers"
    match = _BLOCK.fullmatch(name)
    if match is not None:
        return f"block {int(match[2]) + 1} of stage {int(match[1]) + 1}"
    stage = re.match(r"stages\.(\d)\.", name)
    return f"the start of stage {int(stage[1]) + 1}" if stage else name.partition(".")[0]
