"""A saved package against what it should hold: the architecture's kernels and the network's weights."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvig_nas import kernels
from mvig_nas.architecture import Architecture
from mvig_nas.coreml.compare import Comparison, compare, convolutions
from mvig_nas.coreml.package import FP16, METADATA_PREFIX, Operation, SavedProgram, check_normalisation
from mvig_nas.network import MobileViG, for_inference

_BORDER_KINDS = ("cast", "classify")
_INDEX_KINDS = ("reshape", "tile")  # of the indices that knn gathers by


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and found equal."""

    operations: int  # with the kernel list
    casts: int  # at the border to fp32, and of indices; not in the kernel list
    convolutions: int  # whose weights were compared, 0 without a network
    weight_elements: int
    max_rounding: float  # largest difference between a weight in the package and the network's in fp32
    input_kind: str
    num_classes: int
    comparison: Comparison  # of its predictions


def verify(package: Path, architecture: Architecture, network: MobileViG | None = None) -> Verification:
    """Check a saved package against the architecture, and against the network's weights if one is given.

    Compared, in this order: the fingerprint in the metadata; input and output; the precision of every operation (fp16);
    the operations against `kernels.of(architecture, "exported")` as a multiset of kind, shape, kernel size, stride,
    groups and weight bytes; an image's normalisation; every convolution's weight and bias with the folded network's,
    rounded to fp16. Then the program is executed as `execute` does, on noise, smooth colours, black and white: its
    logits with the architecture's network of the same weights in fp64, which finds wrong wires; with the network's in
    fp32, to 1e-3 of the largest logit; and in fp16, where no value may be infinite or NaN. Core ML itself runs nowhere.

    Raises:
        MvigNasError: the package cannot be read or executed, or something differs; the message names the first
            difference.
    """
    program = SavedProgram(package)
    _check_fingerprint(program, architecture)
    input_kind = _check_input(program, architecture)
    num_classes, has_labels = _check_output(program)
    casts = _check_precision(program)
    compared = _check_operations(program, architecture, input_kind == "image", has_labels, num_classes)
    if input_kind == "image":
        check_normalisation(program)
    count, elements, rounding = (0, 0, 0.0) if network is None else _check_weights(program, network)
    comparison = compare(program, architecture, num_classes, network)
    return Verification(compared, casts, count, elements, rounding, input_kind, num_classes, comparison)


def _check_fingerprint(program: SavedProgram, architecture: Architecture) -> None:
    found = program.metadata.get(METADATA_PREFIX + "fingerprint")
    if found != architecture.fingerprint:
        raise program.differs(f"architecture {architecture.fingerprint}", f"{found}")


def _check_input(program: SavedProgram, architecture: Architecture) -> str:
    side = architecture.resolution
    kind = program.description.input[0].type
    if kind.WhichOneof("Type") == "imageType":
        image = kind.imageType
        found = (image.width, image.height, image.ColorSpace.Name(image.colorSpace))
        if found != (side, side, "RGB"):
            raise program.differs(f"an image input {(side, side, 'RGB')}", f"{found}")
        return "image"
    array = kind.multiArrayType
    shape, precision = tuple(array.shape), array.ArrayDataType.Name(array.dataType)
    if (shape, precision) != ((1, 3, side, side), "FLOAT16"):
        raise program.differs(f"an fp16 input {(1, 3, side, side)}", f"{precision} {shape}")
    return "tensor"


def _check_output(program: SavedProgram) -> tuple[int, bool]:
    """Number of classes, and whether they have labels."""
    labels = len(program.labels)
    if not labels:
        array = program.description.output[0].type.multiArrayType
        shape, precision = tuple(array.shape), array.ArrayDataType.Name(array.dataType)
        if len(shape) != 2 or shape[0] != 1 or precision != "FLOAT16":
            raise program.differs("an fp16 output (1, classes)", f"{precision} {shape}")
        return shape[1], False
    probabilities = next((each.shape for each in program.operations if each.kind == "softmax"), ())
    if probabilities != (1, labels):
        raise program.differs(f"probabilities (1, {labels}) for {labels} labels", f"{probabilities}")
    return labels, True


def _check_precision(program: SavedProgram) -> int:
    for operation in program.operations:
        is_index = operation.kind in _INDEX_KINDS and re.fullmatch(r"u?int\d+", operation.precision)
        if operation.precision != FP16 and not is_index and operation.kind not in _BORDER_KINDS:
            raise program.differs(
                "every operation in fp16", f"{operation.kind} {operation.shape} in {operation.precision}"
            )
    return sum(operation.kind == "cast" for operation in program.operations)


_Key = tuple[str, tuple[int, ...], tuple[int, int], tuple[int, int], int, int]


def _check_operations(
    program: SavedProgram, architecture: Architecture, is_image: bool, has_labels: bool, num_classes: int
) -> int:
    listed = kernels.of(architecture, "exported", num_classes)
    expected: list[_Key] = [
        (each.kind, each.shape, each.kernel_size, each.stride, each.groups, each.bytes_weights) for each in listed
    ]
    side = architecture.resolution
    if is_image:
        expected.append(_key(Operation("batch_norm", (1, 3, side, side), FP16)))
    if has_labels:
        expected.append(_key(Operation("softmax", (1, num_classes), FP16)))
    found = [_key(each) for each in program.operations if each.kind not in _BORDER_KINDS]
    in_list, in_program = Counter(expected), Counter(found)
    for key in (*found, *expected):
        if in_list[key] != in_program[key]:
            kind, shape, kernel_size, stride, groups, weight_bytes = key
            raise program.differs(
                f"{in_list[key]} x {kind} {shape} (kernel {kernel_size}, stride {stride}, groups {groups}, "
                f"{weight_bytes} bytes of weights), as in the architecture's kernel list",
                f"{in_program[key]}",
            )
    return len(found)


def _key(operation: Operation) -> _Key:
    return (
        operation.kind,
        operation.shape,
        operation.kernel_size,
        operation.stride,
        operation.groups,
        operation.bytes_weights,
    )


def _check_weights(program: SavedProgram, network: MobileViG) -> tuple[int, int, float]:
    nodes = [node for node in program.nodes if node.type == "conv"]
    wanted = list(convolutions(for_inference(network)))
    if len(nodes) != len(wanted):
        raise program.differs(f"{len(wanted)} convolutions, as in the network", f"{len(nodes)}")
    elements, rounding = 0, 0.0
    for node, (name, weight, bias) in zip(nodes, wanted, strict=True):
        for part, tensor in (("weight", weight), ("bias", bias)):
            stored = program.argument(node, part)
            if stored is None and (tensor is None or not tensor.any()):
                continue
            exact = np.zeros_like(stored, np.float32) if tensor is None else tensor.detach().cpu().float().numpy()
            if stored is None or stored.shape != exact.shape or not _is_rounded(stored, exact):
                raise program.differs(f"the network's {part} in fp16 at `{name}`", _difference(stored, exact))
            elements += stored.size
            rounding = max(rounding, float(np.abs(stored.astype(np.float32) - exact).max()))
    return len(nodes), elements, rounding


def _is_rounded(stored: NDArray[np.float16], exact: NDArray[np.float32]) -> bool:
    """Whether `stored` is `exact` rounded to fp16, give or take fp16's least number, 6e-8.

    coremltools takes that freedom: it keeps small arrays from becoming 0, and stores arrays so near each other once.
    """
    rounded = exact.astype(np.float16).astype(np.float64)
    return bool((np.abs(stored.astype(np.float64) - rounded) <= float(np.finfo(np.float16).smallest_subnormal)).all())


def _difference(stored: NDArray[Any] | None, exact: NDArray[Any]) -> str:
    if stored is None:
        return "none"
    if stored.shape != exact.shape:
        return f"one of shape {stored.shape}, not {exact.shape}"
    return f"one up to {np.abs(stored.astype(np.float32) - exact).max():g} away"
