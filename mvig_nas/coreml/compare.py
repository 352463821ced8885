"""A package's predictions, as our own interpreter computes them, against those of the torch network."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from mvig_nas.architecture import Architecture
from mvig_nas.coreml import normalisation, numeric_reference
from mvig_nas.coreml.interpreter import Precision, run
from mvig_nas.coreml.package import PIXEL_MAXIMUM, SavedProgram
from mvig_nas.network import MobileViG

TOLERANCE = 1e-3  # of the largest logit
# In fp64 only the order of summation is left; a block behind a fresh layer scale of 1e-5 still shows.
_WIRING = 1e-9
_NOISE_IMAGES = 4


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
    wiring = _least_difference(
        program, numeric_reference.with_constants_of(program, architecture, num_classes), _WIRING
    )
    if wiring > _WIRING:
        raise program.differs(
            "a program wired as the architecture's network",
            f"logits that differ by {wiring:.2g} of the largest in fp64",
        )
    reference = None if network is None else numeric_reference.rounded(network)
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
                _least_difference(program, numeric_reference.exact(program, reference), TOLERANCE),
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
    mean, std = (torch.tensor(each) for each in normalisation.stated(program))
    scale, offset = 1 / (PIXEL_MAXIMUM * std), -mean / std
    return pixels * scale.half().float().view(1, 3, 1, 1) + offset.half().float().view(1, 3, 1, 1)


def _applied(program: SavedProgram, given: Tensor) -> Tensor:
    """The given values in fp64 as the program's own batch norm, if it has one, hands them on."""
    if not _has_pixels(program):
        return given.double()
    scale, offset = (torch.tensor(each).view(1, 3, 1, 1) for each in normalisation.applied(program))
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
