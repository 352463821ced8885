"""Which part of the supernet's weights a sub-network runs on.

Depth keeps the first blocks, width and expansion the first channels, a smaller depthwise kernel the centre through a
learned matrix (Once-for-All, arXiv 1908.09791), groups the block diagonal. The graph convolution reads x and its links
side by side, so a narrower one takes the first columns of either half. An operator that makes C channels of the 2C
takes the first rows of one that makes 2C. Operators of one stage share their weights.

Notation: C width of the supernet's stage, c of the sub-network's; O and o outputs of its graph convolution; g groups; K
and k depthwise kernel sizes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mvig_nas.architecture import Architecture

_BLOCK = re.compile(r"stages\.(\d)\.blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class SourceTensor:
    """Where a tensor of a sub-network comes from.

    Args:
        name: of the supernet's tensor.
        groups: of a graph convolution's weight; None for all other tensors.
        transforms: of a smaller depthwise kernel, (size, key of the matrix) from larger to smaller.
    """

    name: str
    groups: int | None = None
    transforms: tuple[tuple[int, str], ...] = ()


def source_of(
    name: str,
    shape: Sequence[int],
    architecture: Architecture,
    container: Architecture,
    kernel_sizes: Sequence[Sequence[int]],
) -> SourceTensor:
    """The tensor of the supernet that a tensor of a sub-network is cut from.

    Graph blocks follow all of the supernet's MBConv blocks.

    Args:
        name: of the tensor in the sub-network.
        shape: there.
        architecture: of the sub-network.
        container: the supernet's largest network.
        kernel_sizes: of every stage, ascending.
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return SourceTensor(f"network.{name}")
    number, block, part = int(match[1]), int(match[2]), match[3]
    stage = architecture.stages[number]
    if block >= stage.conv_depth:
        block += container.stages[number].conv_depth - stage.conv_depth
    at, groups = f"{number}_{block}", stage.graph_groups or 1
    if part.startswith("graph_conv.bn.") and groups > 1:
        return SourceTensor(f"group_norms.{at}_{groups}.{part.rpartition('.')[2]}")
    whole = f"network.stages.{number}.blocks.{block}.{part}"
    if part == "graph_conv.conv.weight":
        return SourceTensor(whole, groups)
    if part == "conv_dw.conv.weight":
        smaller = [size for size in reversed(kernel_sizes[number][:-1]) if size >= shape[-1]]
        return SourceTensor(whole, transforms=tuple((size, f"{at}_{size}") for size in smaller))
    return SourceTensor(whole)


@dataclass(frozen=True)
class Window:
    """The entries of a tensor that a sub-network uses.

    Args:
        shape: that the sub-network has them in.
        sizes: (axis, number of first entries) of the axes that are cut.
        groups: of a graph convolution's weight that is cut; None for all other tensors.
    """

    shape: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    groups: int | None = None

    @classmethod
    def of(cls, full: Sequence[int], shape: Sequence[int], groups: int | None = None) -> "Window":
        """The window of a sub-network's `shape` in a tensor of the supernet, of shape `full`."""
        shape, is_cut = tuple(shape), tuple(full) != tuple(shape)
        if groups is not None:
            return cls(shape, groups=groups if is_cut else None)
        return cls(shape, tuple((axis, size) for axis, size in enumerate(shape) if full[axis] != size))

    def __call__(self, weight: Tensor) -> Tensor:
        """View of them; `weight` itself where they are all."""
        if self.groups is not None:
            return self._graph(weight, self.groups)
        for axis, size in self.sizes:
            weight = weight.narrow(axis, 0, size)
        return weight

    def _graph(self, weight: Tensor, groups: int) -> Tensor:
        """Of (O, 2C, 1, 1) the part (g, o / g, 2, c / g): of either half of the columns the block diagonal."""
        outputs, width = self.shape[0], self.shape[1] // 2 * groups
        halves = weight.view(weight.shape[0], 2, -1)[:outputs, :, :width]
        blocks = halves.view(groups, outputs // groups, 2, groups, width // groups)
        return blocks.diagonal(dim1=0, dim2=3).permute(3, 0, 1, 2)


class Copies(torch.autograd.Function):
    """Contiguous copies of windows.

    Autograd's own way, a node for every axis of every tensor, fills a full-sized gradient with zeros for each of them.
    """

    @staticmethod
    def forward(ctx: Any, windows: Sequence[Window], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.windows, ctx.weights = windows, weights
        ctx.set_materialize_grads(False)
        return tuple(
            window(weight).clone(memory_format=torch.contiguous_format).view(window.shape)
            for window, weight in zip(windows, weights, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        full: list[Tensor | None] = []
        for window, weight, grad in zip(ctx.windows, ctx.weights, grads, strict=True):
            if grad is None:
                full.append(None)
                continue
            padded = torch.zeros_like(weight)
            part = window(padded)
            part.copy_(grad.reshape(part.shape))
            full.append(padded)
        return None, *full


def smaller_kernel(weight: Tensor, size: int, transform: Tensor) -> Tensor:
    """(C, 1, K, K) to (C, 1, k, k): the centre, its k * k taps mixed by `transform` (k * k, k * k)."""
    first = (weight.shape[-1] - size) // 2
    centre = weight[:, :, first : first + size, first : first + size]
    return F.linear(centre.reshape(-1, size * size), transform).reshape(-1, 1, size, size)
