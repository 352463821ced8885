"""A package's predictions by our own interpreter, against the torch network's and against labelled images."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.coreml.conversion import INPUT_NAME, LABEL_NAME, PROBABILITIES_NAME
from mvig_nas.coreml.interpreter import Precision, run
from mvig_nas.coreml.package import (
    METADATA_PREFIX,
    PIXEL_MAXIMUM,
    SavedProgram,
    applied_normalisation,
    stated_normalisation,
)
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, LabelledImages, Preprocessing, check_classes
from mvig_nas.network import MobileViG, build, for_inference
from mvig_nas.network.blocks import MaxRelativeConv, activation
from mvig_nas.training.accuracy import Accuracy, Tally

TOLERANCE = 1e-3  # of the largest logit
# In fp64 only the order of summation is left; a block behind a fresh layer scale of 1e-5 still shows.
_WIRING = 1e-9
_NOISE_IMAGES = 4
PREPROCESSING = "preprocessing"  # entry of a package's metadata: how its images were cropped


@dataclass(frozen=True, slots=True)
class Comparison:
    """Largest differences between logits over the images, as shares of each image's largest logit."""

    images: int
    difference: float | None  # the program from the network in torch, in fp32 (see `compare`); None without a network
    rounding_fp16: float  # the program with every result rounded to fp16 from the same in fp32


def compare(
    program: SavedProgram, architecture: Architecture, num_classes: int, network: MobileViG | None
) -> Comparison:
    """Run the program and the network on the same images.

    First the wiring, in fp64: the program against the architecture's network with the program's own weights. Then, in
    fp32, against `network` with its weights rounded to fp16; where KNN then takes another of two all but equally near
    pixels, in fp64, as for the wiring. Last the program against itself in fp16.

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
        given = _given(program, pixels)
        found = _logits(program, given, "float32")
        if reference is not None:
            seen = _as_stated(program, pixels) if _has_pixels(program) else given
            differences[name] = share(found, _predicted(reference, seen))
        roundings.append(share(_logits(program, given, "float16"), found))
    worst = max(differences, key=lambda name: differences[name], default="")
    if reference is not None and differences[worst] > TOLERANCE:
        has_knn = any(stage.graph_operator == "knn" for stage in architecture.stages)
        difference = differences[worst]
        if has_knn:
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
        given = _given(program, _noise(reference.architecture.resolution, seed))
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


def _given(program: SavedProgram, pixels: Tensor) -> Tensor:
    """What the program takes of an image: its pixels, or these normalised."""
    return pixels if _has_pixels(program) else _normalised(pixels)


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


def convolutions(network: MobileViG) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Name, weight and bias of a folded network's convolutions in the order in which they run."""
    split: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, MaxRelativeConv) and module.groups > 1:
            own, links = module.conv.weight.chunk(2, dim=1)
            yield f"{name}.conv (own)", own, None
            yield f"{name}.conv (links)", links, module.conv.bias
            split.add(module.conv)
        elif isinstance(module, nn.Conv2d) and module not in split:
            yield name, module.weight, module.bias


def rounded_reference(network: MobileViG) -> MobileViG:
    """The folded network in fp32, its weights rounded to fp16."""
    reference = for_inference(network).to("cpu", torch.float32)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.half())
    return reference


@torch.no_grad()
def reference_with_constants_of(program: SavedProgram, architecture: Architecture, num_classes: int) -> MobileViG:
    """The architecture's folded network in fp64 with the package's weights, in the order in which both use them.

    What then differs from the program is the program's wiring and options, and no rounding.

    Raises:
        MvigNasError: the package's convolutions are not the network's.
    """
    reference = for_inference(build(architecture, num_classes).eval()).double()
    nodes = [node for node in program.nodes if node.type == "conv"]
    wanted = list(convolutions(reference))
    if len(nodes) != len(wanted):
        raise program.differs(f"{len(wanted)} convolutions, as in the network", f"{len(nodes)}")
    for node, (name, weight, bias) in zip(nodes, wanted, strict=True):
        for part, tensor in (("weight", weight), ("bias", bias)):
            stored = program.argument(node, part)
            if tensor is None or stored is None:
                if stored is not None and stored.any():
                    raise program.differs(f"no {part} at `{name}`", f"one up to {np.abs(stored).max():g}")
                if tensor is not None:
                    tensor.zero_()
                continue
            if stored.shape != tuple(tensor.shape):
                raise program.differs(f"a {part} of shape {tuple(tensor.shape)} at `{name}`", f"{stored.shape}")
            tensor.copy_(torch.tensor(stored))
    _round_hard_swish(program, reference)
    return reference


def exact_reference(program: SavedProgram, reference: MobileViG) -> MobileViG:
    """A `rounded_reference` in fp64, with the program's constant of hard-swish."""
    copied = copy.deepcopy(reference).double()
    _round_hard_swish(program, copied)
    return copied


class _HardSwish(nn.Module):
    """Hard-swish with the package's sixth, which is fp16's for iOS 16 and fp32's from iOS 17 on."""

    def __init__(self, sixth: float) -> None:
        super().__init__()
        self.sixth = sixth

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= -3, x, 0) * (x * self.sixth + 0.5).clamp(0, 1)


def _round_hard_swish(program: SavedProgram, reference: MobileViG) -> None:
    node = next((node for node in program.nodes if node.type == "sigmoid_hard"), None)
    stored = None if node is None else program.argument(node, "alpha")
    if stored is None:
        return
    sixth = float(np.float16(1 / 6)) if stored.dtype == np.float16 else float(np.float32(1 / 6))
    kind = type(activation("hard_swish"))
    for parent in list(reference.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kind):
                setattr(parent, name, _HardSwish(sixth))


def package_accuracy(
    package: Path, images: LabelledImages, *, precision: Precision = "float16", workers: int = 0
) -> Accuracy:
    """Accuracy of a classifier's package, its classes in the images' order, on images cropped as its metadata say.

    Executed by `execute`, one image at a time: a tenth of a second to some seconds each.

    Raises:
        MvigNasError: the package is no classifier, of other classes than the images, or cannot be executed.
    """
    program = SavedProgram(package)
    if not program.labels:
        names = ", ".join(program.output_names)
        raise MvigNasError(
            f"a package to evaluate must be a classifier with `{LABEL_NAME}`, got outputs {names} in "
            f"{program.package}; export the model's folder, or give --labels."
        )
    check_classes(images, program.labels)
    stated = program.metadata.get(METADATA_PREFIX + PREPROCESSING)
    preprocessing = (
        Preprocessing()
        if stated is None
        else values.read(Preprocessing, json.loads(stated), f"the preprocessing in {package}")
    )
    declared = program.description.input[0].type
    takes_pixels = declared.WhichOneof("Type") == "imageType"
    side = int(declared.imageType.height if takes_pixels else declared.multiArrayType.shape[-1])
    if takes_pixels:
        preprocessing = replace(preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    columns = [program.labels.index(name) for name in images.classes]
    tally = Tally(len(columns))
    for batch, targets in EvaluationImages(images, preprocessing, side, 1, workers=workers):
        given = (batch * PIXEL_MAXIMUM).round().clamp(0, PIXEL_MAXIMUM) if takes_pixels else batch.half().float()
        found = run(program, {INPUT_NAME: given}, precision)[PROBABILITIES_NAME]
        assert isinstance(found, torch.Tensor)
        tally.add(found[:, columns], targets)
    return tally.accuracy
