"""Sorting hidden channels by importance, so that the first ones, which narrower sub-networks keep, matter most.

Importance is the L1 norm of the weights that read a channel (Once-for-All, arXiv 1908.09791). The largest network
computes the same before and after. Channels of the residual stream, which whole stages share, stay where they are.
"""

from typing import cast

import torch
from torch import Tensor, nn

from mvig_nas.network.blocks import ConvNorm, GraphBlock, MBConv


@torch.no_grad()
def sort_block(block: MBConv | GraphBlock, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Sort the hidden channels of an MBConv or of a graph block's feed-forward network, and an optimiser's moments."""
    if isinstance(block, MBConv):
        writers, reader = [block.conv_pw, block.conv_dw], block.conv_pwl
    else:
        writers, reader = [block.ffn_fc1], block.ffn_fc2
    importance = reader.conv.weight.abs().sum(dim=(0, 2, 3))
    order = importance.argsort(descending=True, stable=True)
    for tensor in (tensor for writer in writers for tensor in _by_output(writer)):
        _permute(tensor, 0, order, optimizer)
    _permute(reader.conv.weight, 1, order, optimizer)


def _by_output(part: ConvNorm) -> list[Tensor]:
    norm = cast(nn.BatchNorm2d, part.bn)
    return [
        tensor
        for tensor in (part.conv.weight, part.conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        if tensor is not None
    ]


def _permute(tensor: Tensor, axis: int, order: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    states = [] if optimizer is None else list(optimizer.state.get(tensor, {}).values())
    for part in (tensor, *(state for state in states if isinstance(state, Tensor) and state.shape == tensor.shape)):
        part.copy_(part.index_select(axis, order))
