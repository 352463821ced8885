"""Kernel: one operation of a network as Core ML runs it, batch norm and layer scale folded away.

Every size is at batch 1; activations and weights count two bytes an element, as in an fp16 ML program.
MACs are multiply-accumulates of convolutions and matrix products; all other kinds count none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

BYTES_PER_ELEMENT = 2
NETWORK_INPUT = -1


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operation.

    `inputs` holds, per activation operand, the index in the list of the kernel that made it (`NETWORK_INPUT` for the
    image), so that a list of kernels is a graph and memory over time can be read off it. `parameters` counts the
    trainable parameters that end in this kernel before folding (convolution, batch norm, layer scale), so that the sum
    over a network is its parameter count; `bytes_weights` is what remains of them, in fp16, once folded.
    """

    kind: str
    shape: tuple[int, ...]  # of the output, batch first
    macs: int
    bytes_in: int
    bytes_out: int
    bytes_weights: int
    parameters: int = 0
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a network's kernels."""

    parameters: int
    macs: int
    weight_bytes: int
    peak_activation_bytes: int


def totals(kernels: Sequence[Kernel]) -> Totals:
    """Parameters, MACs, fp16 weight bytes and peak activation memory in bytes of a kernel list."""
    return Totals(
        parameters=sum(kernel.parameters for kernel in kernels),
        macs=sum(kernel.macs for kernel in kernels),
        weight_bytes=sum(kernel.bytes_weights for kernel in kernels),
        peak_activation_bytes=peak_activation_bytes(kernels),
    )


def peak_activation_bytes(kernels: Sequence[Kernel]) -> int:
    """Largest sum of live activations while the kernels run in order; a tensor lives from its kernel to its last use.

    The network's input counts until its last use; the last kernel's output is live at the end.
    """
    if not kernels:
        return 0
    last_use: dict[int, int] = {}
    for index, kernel in enumerate(kernels):
        for source in kernel.inputs:
            last_use[source] = index
    input_bytes = next((kernel.bytes_in for kernel in kernels if kernel.inputs == (NETWORK_INPUT,)), 0)
    live = input_bytes
    peak = live
    freed_at: dict[int, list[int]] = {}
    for source, index in last_use.items():
        freed_at.setdefault(index, []).append(source)
    for index, kernel in enumerate(kernels):
        live += kernel.bytes_out
        peak = max(peak, live)
        for source in freed_at.get(index, ()):
            live -= input_bytes if source == NETWORK_INPUT else kernels[source].bytes_out
        if index not in last_use and index != len(kernels) - 1:
            live -= kernel.bytes_out
    return peak


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a tensor of this shape."""
    return prod(shape)
