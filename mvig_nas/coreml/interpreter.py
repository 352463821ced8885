"""A saved program run operation by operation in torch, on the CPU: an interpreter of our own, not Core ML.

First what each kind of operation in MobileViG packages computes; arguments are named as in MIL, Core ML's language of
programs. Floating-point values come in the precision of the computation, integers as int64, other constants as Python
values. An argument that a function does not take is one that no MobileViG package has, and all of them raise
`ValueError` for an option that no MobileViG package has.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvig_nas.coreml.package import FP16, MAIN, PIXEL_MAXIMUM, SavedProgram
from mvig_nas.errors import MvigNasError, closest

Precision = Literal["float16", "float32", "float64"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_FLOATING = (FP16, "fp32")
_INTEGER_LIMITS = {name: (np.iinfo(name).min, np.iinfo(name).max) for name in ("int16", "int32", "uint16")}


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


def clip(x: Tensor, *, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    return x.clamp(float(alpha), float(beta))


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
    "clip": clip,
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
    "sign": lambda x: x.sign(),
    "silu": silu,
    "slice_by_index": slice_by_index,
    "softmax": softmax,
    "sqrt": lambda x: x.sqrt(),
    "sub": lambda x, y: x - y,
    "thresholded_relu": thresholded_relu,
    "tile": tile,
    "topk": topk,
}


def _only(**options: tuple[object, object]) -> None:
    for name, (found, known) in options.items():
        if found != known:
            raise ValueError(f"{name} {found!r}")


_SIGNATURES = {kind: inspect.signature(function) for kind, function in KINDS.items()}


def execute(
    package: Path, inputs: Mapping[str, Tensor], *, precision: Precision = "float32", function: str = MAIN
) -> dict[str, Tensor | str]:
    """Outputs of a saved package, computed from its files by running each operation of its program in torch.

    Values go where the program's names say. Weights are those of the package, hence fp16. This checks a package; it
    says nothing of Core ML's own kernels, their order of summation, or their speed.

    Args:
        package: a package that `export` wrote.
        inputs: the input's name (`image`) to (1, 3, R, R): an image's values are 0 to 255, a tensor's are normalised.
        precision: `float32` and `float64` compute everything so and round nothing. `float16` rounds every result to
            fp16 and computes inside an operation in fp32; how Core ML and the Neural Engine accumulate is not known.
        function: of a package of several input sizes, the one to run, such as `size192`.

    Returns:
        `logits` (1, classes); or of a classifier `classLabel`, a string, and `classLabel_probs` (1, classes) in the
        order of its labels.

    Raises:
        MvigNasError: the package cannot be read; an input is missing, unknown, of another shape or out of range; an
            operation is of an unknown kind, takes a value that none before it made, makes another shape than declared,
            or makes an infinity or NaN. The message names operation and value.
    """
    if precision not in PRECISIONS:
        raise MvigNasError(f"precision must be one of {PRECISIONS}, got {precision!r}; take one of them.")
    return run(SavedProgram(package, function), inputs, precision)


@torch.no_grad()
def run(
    program: SavedProgram, inputs: Mapping[str, Tensor], precision: Precision, keep: tuple[str, ...] = ()
) -> dict[str, Tensor | str]:
    """`execute` of a program read before; values named in `keep` are returned, too."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    values: dict[str, Any] = {}
    for name, value in _checked_inputs(program, inputs):
        values[name] = value.to("cpu", dtype)
    wanted = (*program.output_names, *keep)
    uses_left = Counter(wanted)
    uses_left.update(name for node in program.nodes for name in _names(node))
    for node in program.nodes:
        if node.type not in KINDS:
            raise _fault(program, node, f"no operation of MobileViG packages, {closest(node.type, KINDS)}")
        arguments = {name: _argument(program, node, name, values, dtype) for name in node.inputs}
        for output, result in zip(node.outputs, _results(program, node, arguments), strict=True):
            values[output.name] = _checked_result(program, node, output, result, precision)
        # else a program's every map stays in memory
        for name in _names(node):
            uses_left[name] -= 1
            if not uses_left[name]:
                values.pop(name, None)
    missing = next((name for name in wanted if name not in values), None)
    if missing is not None:
        raise _not_executable(program, f"output `{missing}`: no operation makes it")
    return {name: values[name] for name in wanted}


def _checked_inputs(program: SavedProgram, inputs: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    declared = {each.name: program.tensor_type(each.type) for each in program.inputs}
    images = {each.name for each in program.features.input if each.type.WhichOneof("Type") == "imageType"}
    if inputs.keys() != declared.keys():
        raise MvigNasError(
            f"inputs of {program.package} must be {sorted(declared)}, got {sorted(inputs)}; give each of them once."
        )
    for name, value in inputs.items():
        shape = tuple(value.shape)
        wanted = declared[name]
        if wanted is None or shape != wanted[0]:
            raise MvigNasError(
                f"input `{name}` of {program.package} must have shape {wanted and wanted[0]}, got {shape}; resize it."
            )
        low, high = (float(value.min()), float(value.max())) if value.numel() else (0.0, 0.0)
        if name in images and not 0 <= low <= high <= PIXEL_MAXIMUM:
            raise MvigNasError(
                f"pixels of `{name}` must be 0 to {PIXEL_MAXIMUM:g}, got {low:g} to {high:g}; the package normalises "
                "them itself."
            )
        if not bool(torch.isfinite(value).all()):
            raise MvigNasError(f"input `{name}` must be finite, got {low:g} to {high:g}; mend the tensor.")
        # as Core ML hands them to the program, whose input is fp16
        yield name, value.half() if wanted[1] == FP16 else value


def _names(node: Any) -> Iterator[str]:
    for argument in node.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                yield binding.name


def _argument(program: SavedProgram, node: Any, name: str, values: Mapping[str, Any], dtype: torch.dtype) -> Any:
    found: list[Any] = []
    for binding in node.inputs[name].arguments:
        if binding.WhichOneof("binding") != "name":
            labels = binding.value.immediateValue.list.values
            found.append([label.immediateValue.tensor.strings.values[0] for label in labels])
        elif binding.name in values:
            found.append(values[binding.name])
        elif (constant := program.constant(binding.name)) is not None:
            is_floating = np.issubdtype(constant.dtype, np.floating)
            found.append(torch.tensor(constant, dtype=dtype) if is_floating else constant.tolist())
        else:
            raise _fault(program, node, f"`{name}` is `{binding.name}`, which no operation before it makes")
    return found if name == "values" else found[0]


def _results(program: SavedProgram, node: Any, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    try:
        bound = _SIGNATURES[node.type].bind(**arguments)
    except TypeError as error:
        raise _fault(program, node, str(error)) from error
    try:
        results = KINDS[node.type](*bound.args, **bound.kwargs)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _fault(program, node, str(error).strip().splitlines()[0].rstrip(".")) from error
    results = results if isinstance(results, tuple) else (results,)
    if len(results) != len(node.outputs):
        raise _fault(program, node, f"{len(node.outputs)} outputs, not {len(results)}")
    return results


def _checked_result(program: SavedProgram, node: Any, output: Any, result: Any, precision: Precision) -> Any:
    declared = program.tensor_type(output.type)
    if declared is None:
        return result
    shape, declared_precision = declared
    if tuple(result.shape) != shape:
        raise _fault(program, node, f"computed shape {tuple(result.shape)}, declared {shape}", output.name)
    if result.is_floating_point() != (declared_precision in _FLOATING):
        raise _fault(program, node, f"computed {result.dtype}, declared {declared_precision}", output.name)
    if not result.is_floating_point():
        low, high = _INTEGER_LIMITS.get(declared_precision, (0, 0))
        if int(result.min()) < low or int(result.max()) > high:
            raise _fault(program, node, f"integers up to {int(result.max())} in {declared_precision}", output.name)
        return result
    if precision == "float16" and declared_precision == FP16:
        result = result.half().float()
    if not bool(torch.isfinite(result).all()):
        raise MvigNasError(
            f"every value must be finite in {precision} (fp16 holds 65504 at most), got "
            f"{'NaN' if bool(result.isnan().any()) else 'infinity'} from {node.type} `{output.name}` of "
            f"{program.package}; train again with smaller weights, or check the input."
        )
    return result


def _fault(program: SavedProgram, node: Any, reason: str, value: str = "") -> MvigNasError:
    return _not_executable(program, f"{node.type} `{value or node.outputs[0].name}`: {reason}")


def _not_executable(program: SavedProgram, reason: str) -> MvigNasError:
    return MvigNasError(
        f"a program must be one that `export` writes, got in {program.package} {reason}; export it again."
    )
