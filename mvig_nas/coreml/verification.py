"""A saved package against what it should hold and compute: kernels, weights, predictions."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from mvig_nas import kernels
from mvig_nas.architecture import Architecture
from mvig_nas.coreml.input_sizes import at_size, function_of
from mvig_nas.coreml.interpreter import Precision, run
from mvig_nas.coreml.package import (
    FP16,
    MAIN,
    METADATA_PREFIX,
    PIXEL_MAXIMUM,
    PROGRAM_KINDS,
    Operation,
    SavedProgram,
    applied_normalisation,
    check_normalisation,
    stated_normalisation,
)
from mvig_nas.coreml.reference_networks import (
    convolutions,
    exact_reference,
    reference_with_constants_of,
    rounded_reference,
)
from mvig_nas.image_data import Preprocessing
from mvig_nas.network import MobileViG, for_inference

TOLERANCE = 1e-3  # of the largest logit
# In fp64 only the order of summation is left; a block behind a fresh layer scale of 1e-5 still shows.
_WIRING = 1e-9
_NOISE_IMAGES = 4
_BORDER_KINDS = ("cast", "classify")
_INDEX_KINDS = ("reshape", "tile")  # of the indices that knn gathers by


@dataclass(frozen=True, slots=True)
class Comparison:
    """Largest differences between logits over the images, as shares of each image's largest logit."""

    images: int
    difference: float | None  # the program from the network in torch, in fp32 (see `compare`); None without a network
    rounding_fp16: float  # the program with every result rounded to fp16 from the same in fp32


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
    digests: int  # SHA-256 that the metadata state and that agree: of the program and of the weights, if any
    sizes: tuple[int, ...] = ()  # further sides of its images, whose functions were compared likewise


def verify(
    package: Path,
    architecture: Architecture,
    network: MobileViG | None = None,
    preprocessing: Preprocessing | None = None,
) -> Verification:
    """Check a saved package against the architecture, and against the network's weights if one is given.

    Compared, in this order: the fingerprint in the metadata; input and output; the precision of every operation (fp16);
    the operations against `kernels.of(architecture, "exported")` as a multiset of kind, shape, kernel size, stride,
    groups and weight bytes; an image's normalisation with what the metadata state, and that with `preprocessing` if it
    is given; every convolution's weight and bias with the folded network's, rounded to fp16. Then the program is
    executed as `execute` does, on noise, smooth colours, black and white: its logits with the architecture's network of
    the same weights in fp64, which finds wrong wires; with the network's in fp32, to 1e-3 of the largest logit; and in
    fp16, where no value may be infinite or NaN. Core ML itself runs nowhere. Last, program and weights are compared
    with the SHA-256 that the metadata state, if they do.

    Of a package of several input sizes every function is compared so; the figures are those of the main one.

    Raises:
        MvigNasError: the package cannot be read or executed, or something differs; the message names the first
            difference.
    """
    program = SavedProgram(package)
    _check_fingerprint(program, architecture)
    others = [SavedProgram(package, name) for name in program.functions if name != program.function]
    _check_functions(program, others)
    found = _verify_function(program, architecture, network, preprocessing)
    for other in others:
        side = other.side
        same = _verify_function(
            other, replace(architecture, resolution=side), network and at_size(network, side), preprocessing
        )
        wanted, got = ((each.input_kind, each.num_classes) for each in (found, same))
        if wanted != got or program.labels != other.labels:
            raise program.differs(f"the same input, classes and labels in {other.function} as in {MAIN}", f"{got}")
    return replace(found, digests=program.check_digests(), sizes=tuple(other.side for other in others))


def _check_functions(program: SavedProgram, others: Sequence[SavedProgram]) -> None:
    default = program.description.defaultFunctionName
    if default not in ("", MAIN):
        raise program.differs(f"{MAIN} as its default function", default)
    for other in others:
        if other.function != function_of(other.side):
            raise program.differs(f"a function {function_of(other.side)} of {other.side} pixels", other.function)


def _verify_function(
    program: SavedProgram,
    architecture: Architecture,
    network: MobileViG | None,
    preprocessing: Preprocessing | None,
) -> Verification:
    input_kind = _check_input(program, architecture)
    num_classes, has_labels = _check_output(program)
    casts = _check_precision(program)
    compared = _check_operations(program, architecture, input_kind == "image", has_labels, num_classes)
    if input_kind == "image":
        check_normalisation(program, preprocessing)
    count, elements, rounding = (0, 0, 0.0) if network is None else _check_weights(program, network)
    comparison = compare(program, architecture, num_classes, network)
    return Verification(compared, casts, count, elements, rounding, input_kind, num_classes, comparison, 0)


def _check_fingerprint(program: SavedProgram, architecture: Architecture) -> None:
    found = program.metadata.get(METADATA_PREFIX + "fingerprint")
    if found != architecture.fingerprint:
        raise program.differs(f"architecture {architecture.fingerprint}", f"{found}")


def _check_input(program: SavedProgram, architecture: Architecture) -> str:
    side = architecture.resolution
    kind = program.features.input[0].type
    if kind.WhichOneof("Type") == "imageType":
        image = kind.imageType
        found = (image.width, image.height, image.ColorSpace.Name(image.colorSpace))
        if found != (side, side, "RGB"):
            raise program.differs(f"an image input {(side, side, 'RGB')}", f"{found}")
        return "image"
    array = kind.multiArrayType
    shape, precision = tuple(array.shape), array.ArrayDataType.Name(array.dataType)
    wanted = (max(shape[:1], default=1), 3, side, side)
    if (shape, precision) != (wanted, "FLOAT16"):
        raise program.differs(f"an fp16 input {wanted}", f"{precision} {shape}")
    if shape[0] != program.batch:
        raise program.differs(f"a program of {shape[0]} images at once, as its description says", f"{program.batch}")
    return "tensor"


def _check_output(program: SavedProgram) -> tuple[int, bool]:
    """Number of classes, and whether they have labels."""
    labels = len(program.labels)
    if not labels:
        array = program.features.output[0].type.multiArrayType
        shape, precision = tuple(array.shape), array.ArrayDataType.Name(array.dataType)
        if len(shape) != 2 or shape[0] != program.batch or precision != "FLOAT16":
            raise program.differs(f"an fp16 output ({program.batch}, classes)", f"{precision} {shape}")
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
        (
            PROGRAM_KINDS.get(each.kind, each.kind),
            (program.batch, *each.shape[1:]),
            each.kernel_size,
            each.stride,
            each.groups,
            each.bytes_weights,
        )
        for each in listed
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
            if stored is None or stored.shape != exact.shape or not _is_stored(program, node, part, stored, exact):
                raise program.differs(f"the network's {part} in fp16 at `{name}`", _difference(stored, exact))
            elements += stored.size
            rounding = max(rounding, float(np.abs(stored.astype(np.float32) - exact).max()))
    return len(nodes), elements, rounding


def _is_stored(
    program: SavedProgram, node: Any, part: str, stored: NDArray[np.float16], exact: NDArray[np.float32]
) -> bool:
    name = node.inputs[part].arguments[0].name
    return program.compressed(name).is_of(exact) if program.is_compressed_at(name) else _is_rounded(stored, exact)


def _is_rounded(stored: NDArray[np.float16], exact: NDArray[np.float32]) -> bool:
    """Whether `stored` is `exact` rounded to fp16, give or take fp16's least number, 6e-8.

    coremltools takes that freedom: it keeps small arrays from becoming 0, and stores arrays so near each other once.
    """
    rounded = exact.astype(np.float16).astype(np.float64)
    if not np.isfinite(stored).all():
        return False
    return bool((np.abs(stored.astype(np.float64) - rounded) <= float(np.finfo(np.float16).smallest_subnormal)).all())


def _difference(stored: NDArray[Any] | None, exact: NDArray[Any]) -> str:
    if stored is None:
        return "none"
    if stored.shape != exact.shape:
        return f"one of shape {stored.shape}, not {exact.shape}"
    with np.errstate(invalid="ignore"):  # damaged weights may be infinite, or no numbers
        return f"one up to {np.abs(stored.astype(np.float32) - exact).max():g} away"


def compare(
    program: SavedProgram, architecture: Architecture, num_classes: int, network: MobileViG | None
) -> Comparison:
    """Run the program and the network on the same images.

    First the wiring, in fp64: the program against the architecture's network with the program's own weights. Then, in
    fp32, against `network` with its weights rounded to fp16; where an operator then takes other links for a last digit
    (KNN, of two all but equally near pixels, or DAGC, at its threshold), in fp64, as for the wiring. Last the program
    against itself in fp16.

    Raises:
        MvigNasError: the program cannot be executed, its logits differ, or a value is beyond fp16's range.
    """
    wiring = _least_difference(program, reference_with_constants_of(program, architecture, num_classes), _WIRING)
    if wiring > _WIRING:
        raise program.differs(
            "a program wired as the architecture's network",
            f"logits that differ by {wiring:.2g} of the largest in fp64",
        )
    reference = None if network is None else rounded_reference(network)
    differences, roundings = {}, []
    for name, pixels in example_images(architecture.resolution).items():
        given = given_to(program, pixels)
        found = _logits(program, given, "float32")
        if reference is not None:
            seen = _as_stated(program, pixels) if _has_pixels(program) else given
            differences[name] = share(found, _predicted(reference, seen))
        roundings.append(share(_logits(program, given, "float16"), found))
    worst = max(differences, key=lambda name: differences[name], default="")
    # a compressed package differs from its network by design: how much is told, and its wiring was compared above
    if reference is not None and differences[worst] > TOLERANCE and not program.is_compressed:
        difference = differences[worst]
        if not all(stage.operator.is_continuous for stage in architecture.stages if stage.graph_depth):
            difference = max(
                _input_difference(program, architecture.resolution),
                _least_difference(program, exact_reference(program, reference), TOLERANCE),
            )
        if difference > TOLERANCE:
            raise program.differs(
                f"a program whose logits in fp32 are the network's to {TOLERANCE:g} of the largest",
                f"{differences[worst]:.2g} on {worst}",
            )
        return Comparison(len(roundings), difference, max(roundings))
    return Comparison(len(roundings), differences.get(worst), max(roundings))


def example_images(side: int) -> dict[str, Tensor]:
    """Images by name, each (1, 3, side, side) of whole numbers from 0 to 255; the same ones always."""
    shape = (1, 3, side, side)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, 7, 7), generator=generator) * PIXEL_MAXIMUM
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return {
        "noise": _noise(side, 0),
        "smooth colours": smooth.clamp(0, PIXEL_MAXIMUM).round(),
        "black": torch.zeros(shape),
        "white": torch.full(shape, PIXEL_MAXIMUM),
    }


def share(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest value wanted."""
    difference = float((found.double() - wanted.double()).abs().max())
    return difference / float(wanted.abs().max()) if difference else 0.0


def _least_difference(program: SavedProgram, reference: MobileViG, enough: float) -> float:
    """Of logits in fp64 over up to four noise images, until one agrees well enough.

    A wrong wire or weight shows in every image. A right program may still differ in one: which of two all but equally
    near pixels KNN takes depends on the last digit of a constant (rsqrt's epsilon).
    """
    least = float("inf")
    for seed in range(1, _NOISE_IMAGES + 1):
        given = given_to(program, _noise(reference.architecture.resolution, seed))
        found, wanted = _logits(program, given, "float64"), _predicted(reference, _applied(program, given))
        least = min(least, share(found, wanted))
        if least <= enough:
            break
    return least


def _input_difference(program: SavedProgram, side: int) -> float:
    """Of what the program's normalisation makes of an image from what its metadata say."""
    if not _has_pixels(program):
        return 0.0
    pixels = _noise(side, 0)
    return share(_applied(program, pixels), _as_stated(program, pixels))


def _has_pixels(program: SavedProgram) -> bool:
    return any(node.type == "batch_norm" for node in program.nodes)


def given_to(program: SavedProgram, pixels: Tensor) -> Tensor:
    """What the program takes of an image: its pixels, or these normalised; where it takes several, shifted ones too."""
    if _has_pixels(program):
        return pixels
    return _normalised(torch.cat([pixels.roll(shift, dims=-1) for shift in range(program.batch)]))


def _noise(side: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, int(PIXEL_MAXIMUM) + 1, (1, 3, side, side), generator=generator).float()


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return ((pixels / PIXEL_MAXIMUM - mean) / std).half().float()


def _as_stated(program: SavedProgram, pixels: Tensor) -> Tensor:
    """Pixels normalised by the metadata's mean and std, as a scale and an offset that are rounded to fp16."""
    mean, std = (torch.tensor(each) for each in stated_normalisation(program))
    scale, offset = 1 / (PIXEL_MAXIMUM * std), -mean / std
    return pixels * scale.half().float().view(1, 3, 1, 1) + offset.half().float().view(1, 3, 1, 1)


def _applied(program: SavedProgram, given: Tensor) -> Tensor:
    """The given values in fp64 as the program's own batch norm, if it has one, hands them on."""
    if not _has_pixels(program):
        return given.double()
    scale, offset = (torch.tensor(each).view(1, 3, 1, 1) for each in applied_normalisation(program))
    return given.double() * scale + offset


def _logits(program: SavedProgram, given: Tensor, precision: Precision) -> Tensor:
    softmax = next((node for node in program.nodes if node.type == "softmax"), None)
    name = program.output_names[0] if softmax is None else softmax.inputs["x"].arguments[0].name
    logits = run(program, {program.inputs[0].name: given}, precision, keep=(name,))[name]
    if not isinstance(logits, Tensor):
        raise program.differs("logits as its output", f"the label `{logits}`")
    return logits


@torch.no_grad()
def _predicted(network: MobileViG, image: Tensor) -> Tensor:
    return cast(Tensor, network(image))
