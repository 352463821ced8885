"""Graph operators on tensors: the operations of `graph_operators.Maps` in torch."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mvig_nas.graph_operators import GraphOperator

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": torch.abs,
    "add": torch.add,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "real_div": torch.div,
    "reduce_max": torch.amax,
    "reduce_mean": torch.mean,
    "reduce_sum": torch.sum,
    "relu": torch.relu,
    "rsqrt": torch.rsqrt,
    "sign": torch.sign,
    "sqrt": torch.sqrt,
    "sub": torch.sub,
}


class TorchMaps:
    """What `graph_operators.Maps` asks for."""

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(int(size) for size in x.shape)

    def unary(self, kind: str, x: Tensor) -> Tensor:
        return cast(Tensor, _FUNCTIONS[kind](x))

    def binary(self, kind: str, one: Tensor, other: Tensor) -> Tensor:
        return cast(Tensor, _FUNCTIONS[kind](one, other))

    def with_constant(self, kind: str, x: Tensor, constant: float) -> Tensor:
        if kind == "mul":
            return x * constant
        return torch.maximum(x, torch.full((), constant, dtype=x.dtype, device=x.device))

    def reduce(self, kind: str, x: Tensor, dims: Sequence[int], keep_dims: bool = True) -> Tensor:
        return cast(Tensor, _FUNCTIONS[kind](x, dim=tuple(dims), keepdim=keep_dims))

    def slice(self, x: Tensor, dim: int, start: int, stop: int) -> Tensor:
        return x[:, :, start:stop] if dim == 2 else x[:, :, :, start:stop]

    def concat(self, parts: Sequence[Tensor], dim: int) -> Tensor:
        return torch.cat(tuple(parts), dim=dim)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.reshape(shape)

    def inner_products(self, x: Tensor) -> Tensor:
        return torch.matmul(x.transpose(1, 2), x)

    def largest(self, x: Tensor, count: int) -> Tensor:
        return x.topk(count, dim=x.ndim - 1).indices

    def gather(self, x: Tensor, indices: Tensor) -> Tensor:
        return torch.gather(x, 2, indices.expand(x.shape[0], x.shape[1], indices.shape[2]))

    def without_gradient(self, x: Tensor) -> Tensor:
        return x.detach()


def linked(operator: GraphOperator, x: Tensor, step: int) -> Tensor:
    """What each pixel of a map (B, C, H, W) learns of its links.

    An operator's shortcut is taken where the result is wanted at once; converters and tracers, which work on fake
    tensors, find the operations that a phone runs.
    """
    is_traced = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if type(x) is Tensor and not is_traced:
        found = operator.shortcut(x, step)
        if found is not None:
            return found
    return operator.links(MAPS, x, step)


def linked_as_reference(operator: GraphOperator, x: Tensor, step: int) -> Tensor:
    """`linked` in the operations of the authors' code, link by link."""
    return operator.reference(MAPS, x, step)


MAPS = TorchMaps()
