"""What each kind of operation in MobileViG packages computes, in torch; arguments are named as in MIL.

Floating-point values come in the precision of the computation, integers as int64, other constants as Python values. An
argument that a function does not take is one that no MobileViG package has.

Raises, all of them: `ValueError` for an option that no MobileViG package has.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm(
    x: Tensor, *, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float | Tensor = 1e-5
) -> Tensor:
    scale = gamma / torch.sqrt(variance + epsilon)
    return (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + beta.view(-1, 1, 1)


def cast(x: Tensor, dtype: str) -> Tensor:
    # rounding, and whether an integer fits, follow from the type that the program declares of the result
    if dtype.startswith("fp") != x.is_floating_point():
        raise ValueError(f"a cast between integers and floating point, to {dtype}")
    return x


def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    _only(interleave=(interleave, False))
    return torch.cat(list(values), dim=axis)


def conv(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    if pad_type not in ("valid", "custom"):
        raise ValueError(f"pad_type {pad_type!r}")
    top, bottom, left, right = pad if pad_type == "custom" else (0, 0, 0, 0)
    padded = x if top == bottom and left == right else F.pad(x, (left, right, top, bottom))
    padding = (top, left) if padded is x else (0, 0)
    return F.conv2d(padded, weight, bias, list(strides), padding, list(dilations), groups)


def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:  # noqa: ARG001
    return torch.gather(x, axis, indices)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    _only(mode=(mode, "EXACT"))
    return F.gelu(x)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return torch.matmul(x.transpose(-1, -2) if transpose_x else x, y.transpose(-1, -2) if transpose_y else y)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


def reduce_max(x: Tensor, axes: Sequence[int], keep_dims: bool = False) -> Tensor:
    return x.amax(list(axes), keepdim=keep_dims)


def reduce_mean(x: Tensor, axes: Sequence[int], keep_dims: bool = False) -> Tensor:
    return x.mean(list(axes), keepdim=keep_dims)


def reduce_sum(x: Tensor, axes: Sequence[int], keep_dims: bool = False) -> Tensor:
    return x.sum(list(axes), keepdim=keep_dims)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.reshape(*shape)


def rsqrt(x: Tensor, epsilon: float | Tensor = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


def sigmoid_hard(x: Tensor, alpha: float | Tensor = 0.2, beta: float | Tensor = 0.5) -> Tensor:
    return (x * alpha + beta).clamp(0, 1)


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def slice_by_index(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
) -> Tensor:
    starts = [None if masked else at for at, masked in zip(begin, begin_mask or [False] * x.ndim, strict=True)]
    stops = [None if masked else at for at, masked in zip(end, end_mask or [False] * x.ndim, strict=True)]
    return x[tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))]


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def thresholded_relu(x: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
    return torch.where(x >= alpha, x, 0)


def tile(x: Tensor, reps: Sequence[int]) -> Tensor:
    return x.repeat(*reps)


def topk(
    x: Tensor,
    *,
    k: int,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",  # noqa: ARG001 - declared of the result, too
) -> tuple[Tensor, Tensor]:
    _only(sort=(sort, True), return_indices=(return_indices, True))
    values, indices = torch.topk(x, k, axis, largest=not ascending)
    return values, indices


def classify(probabilities: Tensor, classes: Sequence[str]) -> tuple[str, Tensor]:
    if probabilities.numel() != len(classes):
        raise ValueError(f"{len(classes)} labels for {probabilities.numel()} probabilities")
    return classes[int(probabilities.argmax())], probabilities


KINDS: Mapping[str, Callable[..., Any]] = {
    "abs": lambda x: x.abs(),
    "add": lambda x, y: x + y,
    "batch_norm": batch_norm,
    "cast": cast,
    "classify": classify,
    "concat": concat,
    "conv": conv,
    "gather_along_axis": gather_along_axis,
    "gelu": gelu,
    "matmul": matmul,
    "maximum": maximum,
    "minimum": minimum,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "reduce_max": reduce_max,
    "reduce_mean": reduce_mean,
    "reduce_sum": reduce_sum,
    "relu": lambda x: x.relu(),
    "reshape": reshape,
    "rsqrt": rsqrt,
    "sigmoid_hard": sigmoid_hard,
    "silu": silu,
    "slice_by_index": slice_by_index,
    "softmax": softmax,
    "sub": lambda x, y: x - y,
    "thresholded_relu": thresholded_relu,
    "tile": tile,
    "topk": topk,
}


def _only(**options: tuple[object, object]) -> None:
    for name, (found, known) in options.items():
        if found != known:
            raise ValueError(f"{name} {found!r}")
