"""A recorded network as a graph of operations, folded as Core ML folds it and turned into kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from mvig_nas.kernels.kernel import BYTES_PER_ELEMENT, NETWORK_INPUT, Kernel

Shape = tuple[int, ...]


@dataclass(eq=False)
class Constant:
    """A tensor known before the image is: no kernel, but its parameters belong to the kernel that reads it."""

    shape: Shape
    parameters: frozenset[int] = frozenset()


@dataclass(eq=False)
class Node:
    """One operation before folding."""

    index: int
    kind: str
    shape: Shape
    operands: "list[Node | Constant]" = field(default_factory=list)
    macs: int = 0
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    order: tuple[int, ...] = ()  # of a transpose
    weight_elements: int = 0
    has_bias: bool = False
    parameters: frozenset[int] = frozenset()
    reads_all: bool = True  # False: slices read only what they keep

    @property
    def activations(self) -> "list[Node]":
        return [operand for operand in self.operands if isinstance(operand, Node)]

    @property
    def constants(self) -> list[Constant]:
        return [operand for operand in self.operands if isinstance(operand, Constant)]


Value = Node | Constant

_RESHAPES = frozenset({"reshape", "expand_dims", "squeeze"})


def emit(results: Sequence[Node], source: Node, sizes: dict[int, int]) -> tuple[Kernel, ...]:
    order = _reachable(results)
    order, results = _fold(order, results)
    order = _merge_views(order, results)
    index_of = {id(source): NETWORK_INPUT} | {id(node): index for index, node in enumerate(order)}
    uncounted = dict(sizes)
    return tuple(_kernel(node, index_of, uncounted) for node in order)


def _reachable(results: Sequence[Node]) -> list[Node]:
    """The nodes that the results need, each after its operands, in the order they ran."""
    ordered: list[Node] = []
    seen: set[int] = set()
    stack = [(result, False) for result in reversed(results)]
    while stack:
        node, operands_done = stack.pop()
        if operands_done:
            ordered.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((operand, False) for operand in node.activations if id(operand) not in seen)
    return sorted((node for node in ordered if node.kind != "input"), key=lambda node: node.index)


def _fold(order: Sequence[Node], results: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Batch norm and per-channel constants go into the convolution or linear layer that alone feeds them."""
    uses = _uses(order, results)
    replaced: dict[int, Node] = {}
    kept: list[Node] = []
    for node in order:
        _redirect(node, replaced)
        activations = node.activations
        into = activations[0] if len(activations) == 1 else None
        if into is not None and uses.get(id(into)) == 1 and _folds(node, into):
            into.parameters |= node.parameters
            into.has_bias |= node.kind in ("batch_norm", "add", "sub")
            replaced[id(node)] = into
            uses[id(into)] = uses.get(id(node), 0)
        else:
            kept.append(node)
    return kept, [replaced.get(id(result), result) for result in results]


def _folds(node: Node, into: Node) -> bool:
    if into.kind not in ("conv", "conv_transpose", "linear") or node.shape != into.shape:
        return False
    channel_axis = len(into.shape) - 1 if into.kind == "linear" else 1
    if node.kind == "batch_norm":
        return channel_axis == 1
    if node.kind not in (("add", "sub") if into.kind == "linear" else ("add", "sub", "mul", "real_div")):
        return False
    if node.kind == "real_div" and not isinstance(node.operands[0], Node):
        return False
    return all(_is_per_channel(constant.shape, node.shape, channel_axis) for constant in node.constants)


def _is_per_channel(constant: Shape, shape: Shape, channel_axis: int) -> bool:
    padded = (1,) * (len(shape) - len(constant)) + constant
    return all(size == 1 for axis, size in enumerate(padded) if axis != channel_axis)


def _merge_views(order: Sequence[Node], results: Sequence[Node]) -> list[Node]:
    """A reshape of a reshape, or a transpose of a transpose, is one; what it undoes vanishes."""
    uses = _uses(order, results)
    replaced: dict[int, Node] = {}
    dropped: set[int] = set()
    for node in order:
        _redirect(node, replaced)
        before = node.operands[0] if node.operands else None
        if not isinstance(before, Node) or not _same_view(node, before):
            continue
        if uses.get(id(before)) == 1:
            dropped.add(id(before))
            node.operands = before.operands
            if node.kind == "transpose":
                node.order = tuple(before.order[axis] for axis in node.order)
            else:
                node.kind = "reshape"
            origin = node.operands[0]
            is_undone = node.order == tuple(sorted(node.order)) if node.kind == "transpose" else True
            if isinstance(origin, Node) and is_undone and origin.shape == node.shape:
                replaced[id(node)] = origin
                dropped.add(id(node))
                uses[id(origin)] = uses.get(id(origin), 1) - 1 + uses.get(id(node), 0)
    return [node for node in order if id(node) not in dropped]


def _same_view(node: Node, before: Node) -> bool:
    return (node.kind in _RESHAPES and before.kind in _RESHAPES) or node.kind == before.kind == "transpose"


def _uses(order: Sequence[Node], results: Sequence[Node]) -> dict[int, int]:
    uses: dict[int, int] = {}
    for operand in (*results, *(operand for node in order for operand in node.activations)):
        uses[id(operand)] = uses.get(id(operand), 0) + 1
    return uses


def _redirect(node: Node, replaced: dict[int, Node]) -> None:
    node.operands = [replaced.get(id(operand), operand) for operand in node.operands]


def _kernel(node: Node, index_of: dict[int, int], uncounted: dict[int, int]) -> Kernel:
    bytes_out = BYTES_PER_ELEMENT * prod(node.shape)
    bytes_in = BYTES_PER_ELEMENT * sum(prod(operand.shape) for operand in node.activations)
    new = [parameter for parameter in node.parameters if parameter in uncounted]
    parameters = sum(uncounted.pop(parameter) for parameter in new)
    bias = node.shape[-1 if node.kind == "linear" else 1] if node.has_bias else 0
    return Kernel(
        kind=node.kind,
        shape=node.shape,
        macs=node.macs,
        bytes_in=bytes_in if node.reads_all else bytes_out,
        bytes_out=bytes_out,
        bytes_weights=BYTES_PER_ELEMENT * (node.weight_elements + bias),
        parameters=parameters,
        kernel_size=node.kernel_size,
        stride=node.stride,
        groups=node.groups,
        inputs=tuple(index_of[id(operand)] for operand in node.activations),
    )
