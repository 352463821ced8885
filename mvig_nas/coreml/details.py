"""What a package says of itself: author, licence, version of the model, what it was trained on and how good it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from mvig_nas.architecture import Architecture
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.values import about, check

# Entries of a package's metadata, without their prefix.
TOP1, TOP1_MEASURED = "top1", "top1_measured"
PREDICTED_MS, PREDICTED_INTERVAL, PREDICTED_DEVICE = "predicted_ms", "predicted_interval_ms", "predicted_device"
TRAINED_ON = "trained_on"
# Xcode's tab Preview tries images on a package that says so.
PREVIEW, PREVIEW_OF_CLASSIFIERS = "com.apple.coreml.model.preview.type", "imageClassifier"
COVERAGE = 0.8


@dataclass(frozen=True)
class PackageDetails:
    """What Xcode shows of a package, and what its metadata say; the rest is found out from the model.

    Raises:
        MvigNasError: an entry is of the wrong type.
    """

    TITLE: ClassVar = "Description"

    author: Annotated[str | None, about("Author that the package names. By default it names none.", metavar="TEXT")] = (
        None
    )
    license: Annotated[
        str | None, about("Licence that the package is given under. By default it states none.", metavar="TEXT")
    ] = None
    model_version: Annotated[
        str, about("Version of the model that the package states. It is not the version of mvig-nas.", metavar="TEXT")
    ] = "1.0"
    description: Annotated[
        str | None,
        about(
            "Short description that Xcode shows. By default it says architecture, size, classes, weights and top-1.",
            metavar="TEXT",
        ),
    ] = None
    trained_on: Annotated[
        str | None,
        about(
            "Name of the training data that the package states. By default it is that of the folder of images, where "
            "the model knows it.",
            metavar="TEXT",
        ),
    ] = None
    device: Annotated[
        str,
        about(
            "Phone whose predicted latency the package states: a name that `mvig-nas devices` lists, or a folder with "
            "a fitted predictor.",
            metavar="NAME|FOLDER",
        ),
    ] = DEFAULT_DEVICE

    def __post_init__(self) -> None:
        check(self)


def latency_entries(architecture: Architecture, device: str, sizes: Sequence[int] = ()) -> dict[str, str]:
    """Metadata of the predicted latency, in milliseconds at batch 1, and at further `sizes` in pixels.

    Raises:
        MvigNasError: the device has no predictor.
    """
    from mvig_nas.latency import ArchitectureLatency

    latency = ArchitectureLatency.load(device)
    low, high = latency.interval_ms([architecture], COVERAGE)
    others = latency.predict_ms([replace(architecture, resolution=side) for side in sizes]) if sizes else ()
    return {f"{PREDICTED_MS}_{side}": f"{ms:.3f}" for side, ms in zip(sizes, others, strict=True)} | {
        PREDICTED_MS: f"{float(latency.predict_ms([architecture])[0]):.3f}",
        PREDICTED_INTERVAL: f"{float(low[0]):.3f} to {float(high[0]):.3f}, {COVERAGE:.0%} interval",
        PREDICTED_DEVICE: f"{device}, predicted and not measured",
    }


def accuracy_entries(of_model: Mapping[str, Any], crop_fraction: float) -> dict[str, str]:
    """Metadata of a trained model's top-1 and of its training data.

    Args:
        of_model: what the model's folder says about its training; older ones do not name the images.
        crop_fraction: share of an image's side that the central crop kept.
    """
    data = of_model.get("data") or {}
    entries = {TRAINED_ON: str(data["name"])} if "name" in data else {}
    top1 = ((of_model.get("accuracy") or {}).get("mean") or {}).get("top1")
    if top1 is not None:
        images = f"{data['val_images']} images in {data['name']}/val" if data else "the validation images"
        entries[TOP1] = f"{top1:.4f}"
        entries[TOP1_MEASURED] = (
            f"on {images}, central crop of {crop_fraction:g}, by the trained network in torch before its conversion"
        )
    return entries


def default_description(architecture: Architecture, num_classes: int, weights: str, entries: Mapping[str, str]) -> str:
    """The short description of a package whose user gave none."""
    side = architecture.resolution
    text = (
        f"MobileViG-like image classifier {architecture.fingerprint}, {side} x {side} pixels, {num_classes} classes. "
        f"Weights: {weights}."
    )
    if TOP1 in entries:
        text += f" Top-1 {float(entries[TOP1]):.1%} {entries[TOP1_MEASURED]}."
    if PREDICTED_MS in entries:
        text += f" Predicted {entries[PREDICTED_MS]} ms on {entries[PREDICTED_DEVICE].partition(',')[0]}."
    return text
