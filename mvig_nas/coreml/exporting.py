"""What an export is asked for, and does: the package of one network, and what its metadata say."""

import json
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from mvig_nas.architecture import Architecture
from mvig_nas.coreml.compression import Compressed, Compression, compress
from mvig_nas.coreml.details import accuracy_entries, latency_entries
from mvig_nas.coreml.export_options import ExportOptions, read_labels
from mvig_nas.coreml.package import PREPROCESSING, SUFFIX
from mvig_nas.errors import MvigNasError
from mvig_nas.values import about, check, plain

if TYPE_CHECKING:
    from mvig_nas.coreml.other_formats import OtherExport
    from mvig_nas.coreml.verification import Verification
    from mvig_nas.image_data import LabelledImages
    from mvig_nas.network import MobileViG

UNTRAINED = "untrained"  # begins what the metadata say of random weights
CLASSES = "classes"  # entry of the metadata: names of a trained model's classes, where the package has no labels
_CHECKPOINTS = (".pth", ".pt", ".tar", ".safetensors")


@dataclass(frozen=True)
class ExportRequest:
    """What `export_target`, and `mvig-nas export`, are asked for.

    Raises:
        MvigNasError: a value is out of range.
    """

    labels: Annotated[
        Path | None, about("Text file with one class a line; it makes the package a classifier.", metavar="FILE")
    ] = None
    num_classes: (
        Annotated[
            int,
            about("Classes of an untrained network. By default as many as there are labels, else 1000.", ge=1),
        ]
        | None
    ) = None
    graph_step: (
        Annotated[
            int,
            about(
                "Graph step K of all stages of an authors' checkpoint, in pixels of the feature map. By default it is "
                "that of the published networks, stage by stage.",
                ge=1,
            ),
        ]
        | None
    ) = None
    seed: Annotated[
        int, about("Seed of an untrained network's random weights; the same seed gives the same ones.", ge=0)
    ] = 0
    overwrite: Annotated[bool, about("Replace a package that is there already.", flags=("--overwrite",))] = False
    is_verified: Annotated[
        bool,
        about("Check a package, and execute it in torch, before it appears.", flags=("--verify/--no-verify",)),
    ] = True
    format: Annotated[
        Literal["coreml", "onnx", "coreai"],
        about(
            "What is written: a Core ML package, an ONNX model in fp32, or a Core AI asset in fp16 for iOS 27; "
            "the last two need mvig-nas[onnx] or mvig-nas[coreai], and give logits."
        ),
    ] = "coreml"
    package: ExportOptions = field(default_factory=ExportOptions)
    compression: Compression = field(default_factory=Compression)
    data: Annotated[
        Path | None,
        about(
            "Folder with val/CLASS/*.jpg, to measure a compressed package's top-1 on, before and after compression. By "
            "default it is not measured.",
            metavar="FOLDER",
        ),
    ] = None
    images: (
        Annotated[
            int,
            about("Number of images to measure on, each class in proportion. By default it is all of them.", ge=1),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self)
        if self.data is not None and not self.compression.name:
            raise MvigNasError(
                f"--data must come with --palettize or --quantize-weights, whose top-1 is measured on the images, got "
                f"{self.data} alone; to measure a package as it is, run `mvig-nas evaluate PACKAGE --data {self.data}`."
            )
        if self.compression.name and self.format != "coreml":
            raise MvigNasError(
                f"weights must be compressed in a Core ML package, got --format {self.format} and weights "
                f"{self.compression.name}; leave one of the two out."
            )
        if self.package.sizes and (self.compression.name or self.format != "coreml"):
            raise MvigNasError(
                f"several input sizes must be of a Core ML package with weights in fp16, got --format {self.format} "
                f"and weights {self.compression.name or 'in fp16'}; export one package a size."
            )
        if self.images is not None and self.data is None:
            raise MvigNasError(f"--images must come with --data, got {self.images} alone; add the folder of images.")

    @property
    def class_labels(self) -> tuple[str, ...] | None:
        """The labels in the file, if one is given; see `read_labels`."""
        return None if self.labels is None else read_labels(self.labels)


@dataclass(frozen=True)
class Exported:
    """A package that was written: its network, where the weights come from, and what was verified, if anything.

    `compressed` says what a compression did; it is None where weights stayed in fp16. `other` says what was compared of
    a model of another format; it is None of a Core ML package.
    """

    package: Path
    network: "MobileViG"
    weights: str
    verification: "Verification | None"
    compressed: Compressed | None = None
    other: "OtherExport | None" = None

    @property
    def is_random(self) -> bool:
        """Whether the weights are random, so that the package is good for timing only."""
        return self.weights.startswith(UNTRAINED)


def export_target(target: str, package: Path | None = None, request: ExportRequest = ExportRequest()) -> Exported:
    """Write the package of an architecture, a model folder or a reference checkpoint.

    Args:
        target: the name of a preset or a JSON file with an architecture, which gets random weights; the folder that
            `retrain` leaves, whose classes become labels; or a checkpoint of the MobileViG authors'.
        package: where to write; in the current folder, the target's name with the format's suffix, if None.
        request: how.

    Raises:
        MvigNasError: the target cannot be read, or see `export`.
    """
    from mvig_nas.coreml.conversion import check_path, export, untrained
    from mvig_nas.coreml.verification import verify
    from mvig_nas.network import load_reference_checkpoint

    path, options = Path(target), request.package
    metadata: dict[str, str] = {}
    labels = request.class_labels
    if path.is_dir():
        from mvig_nas.training.model_folder import read_model

        trained = read_model(path)
        network, weights = trained.network, f"model {path.name}"
        if options.batch == 1:
            labels = labels or trained.classes
        preprocessing = trained.preprocessing
        options = replace(options, mean=preprocessing.mean, std=preprocessing.std)
        metadata = {PREPROCESSING: json.dumps(plain(preprocessing))}
        metadata |= accuracy_entries(trained.about, preprocessing.crop_fraction)
        if options.batch > 1:  # without labels, the order of the logits is told here
            metadata[CLASSES] = json.dumps(trained.classes)
    elif path.suffix in _CHECKPOINTS:
        network, weights = load_reference_checkpoint(path, request.graph_step), f"checkpoint {path.name}"
    else:
        classes = request.num_classes or len(labels or ()) or 1000
        network = untrained(Architecture.load(target), classes, request.seed)
        weights = f"{UNTRAINED}, seed {request.seed}"
    if options.batch == 1:  # what is predicted is one image
        metadata |= latency_entries(network.architecture, options.details.device, options.sizes)
    name = path.stem.removesuffix(".pth")
    if request.format != "coreml":
        from mvig_nas.coreml.other_formats import SUFFIXES, entries_of, export_other

        other = export_other(
            network,
            package or Path(f"{name}{SUFFIXES[request.format]}"),
            request.format,
            options,
            metadata=entries_of(network, weights, metadata, labels),
            overwrite=request.overwrite,
            is_verified=request.is_verified,
        )
        return Exported(other.path, network, weights, None, other=other)
    verified: list[Verification] = []
    path = package or Path(f"{name}{SUFFIX}")

    def export_to(where: Path, overwrite: bool) -> None:
        export(
            network,
            where,
            replace(options, class_labels=labels),
            weights=weights,
            metadata=metadata,
            overwrite=overwrite,
            check=(lambda each: verified.append(verify(each, network.architecture, network)))
            if request.is_verified
            else None,
        )

    if not request.compression.name:
        export_to(path, request.overwrite)
        return Exported(path, network, weights, verified[0] if verified else None)
    check_path(path, request.overwrite)
    images = None if request.data is None else _images(request.data, request.images)
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        whole = building / path.name
        export_to(whole, False)
        done = compress(
            whole,
            path,
            request.compression,
            network,
            images,
            overwrite=request.overwrite,
            is_verified=request.is_verified,
        )
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Exported(path, network, weights, done.verification, done)


def _images(data: Path, count: int | None) -> "LabelledImages":
    from mvig_nas.image_data import read_split, subset

    images = read_split(data, "val")
    return images if count is None else subset(images, count)
