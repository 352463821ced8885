"""From a network to a saved `.mlpackage`: an fp16 ML program of its inference form."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mvig_nas
from mvig_nas.architecture import Architecture
from mvig_nas.coreml import digests, tools
from mvig_nas.coreml.details import PREVIEW, PREVIEW_OF_CLASSIFIERS, TRAINED_ON, default_description
from mvig_nas.coreml.export_options import ExportOptions
from mvig_nas.coreml.input_sizes import combined, functions_of
from mvig_nas.coreml.package import (
    INPUT_NAME,
    LABEL_NAME,
    LOGITS_NAME,
    METADATA_PREFIX,
    PIXEL_MAXIMUM,
    PROBABILITIES_NAME,
    SUFFIX,
)
from mvig_nas.errors import MvigNasError
from mvig_nas.network import MobileViG, build, for_inference
from mvig_nas.training.accuracy import recalibrate

_DEFAULTS = ExportOptions()
_OF_FILES = ("FileWriter", "filesystem error")  # in what coremltools raises where a file cannot be written
_STATISTICS_IMAGES = 8  # from coarse to fine


def untrained(architecture: Architecture, num_classes: int = 1000, seed: int = 0) -> MobileViG:
    """A network with random weights drawn from `seed`: enough to measure latency, useless for labels.

    Its batch norms know the statistics of a few random images: without them the features of a deep network of fresh
    weights grow beyond what fp16 holds.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(architecture, num_classes).eval()
        side = architecture.resolution
        images = [
            F.interpolate(torch.randn((1, 3, grid, grid)), size=(side, side), mode="bicubic")
            for grid in range(2, 2 + _STATISTICS_IMAGES)
        ]
    recalibrate(network, [torch.cat(images)], side)
    return network


def export(
    network: MobileViG,
    path: Path,
    options: ExportOptions = _DEFAULTS,
    *,
    weights: str,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    check: Callable[[Path], object] | None = None,
    staging: Path | None = None,
) -> Path:
    """Write the network as a Core ML package: an fp16 ML program of images of the architecture's resolution.

    The package appears under `path` whole or not at all; it is built beside it and renamed.

    Args:
        network: converted as `network.for_inference` makes it; left as it is.
        path: where to write, ending in `.mlpackage`.
        options: what the package takes and gives, and where it runs.
        weights: where the weights come from, for the package's metadata: `untrained, seed 0`, `checkpoint best.pt`.
        metadata: what else the package's metadata should hold, by name.
        overwrite: whether a package already at `path` may be replaced.
        check: called with the finished package before it appears at `path`, such as a `verify`; if it raises, nothing
            is written and a package already there stays.
        staging: an existing folder of the same file system to build it in, hidden and removed; beside `path` if None.

    Raises:
        MvigNasError: `path` cannot be written, is taken, or an option does not suit the network; a weight does not
            fit fp16; coremltools is missing; `check` raised one.
    """
    check_path(path, overwrite)
    _check_network(network, weights)
    labels = None if options.class_labels is None else _checked_labels(options.class_labels, network.num_classes)
    networks = functions_of(network, options.sizes)
    mean, std = options.mean, options.std
    with writing(path, staging or path.parent) as building:
        parts = {name: building / f"{name}{SUFFIX}" for name in networks}
        models = [_converted(each, options, labels, parts[name]) for name, each in networks.items()]
        model = models[0] if len(models) == 1 else combined(parts, building / f"combined{SUFFIX}")
        spec = model.get_spec()
        normalisation = f"mean {tuple(mean)}, std {tuple(std)}" if options.is_image else "none: done by the caller"
        _describe(
            spec.description, network, options, {"weights": weights, "normalisation": normalisation, **(metadata or {})}
        )
        finished = written(spec, Path(model.weights_dir), building / path.name)
        if check is not None:
            _check(check, finished, path)
        published(finished, path, building, overwrite=overwrite)
    return path


def _converted(network: MobileViG, options: ExportOptions, labels: list[str] | None, path: Path) -> Any:
    """The model of one input size, written to `path`."""
    coremltools = tools.load()
    normalisation = (options.mean, options.std) if options.is_image else None
    deployed = Deployed(deployable(network), normalisation, labels is not None)
    shape = (options.batch, 3, network.architecture.resolution, network.architecture.resolution)
    with torch.no_grad():
        program = torch.export.export(deployed.eval(), (torch.zeros(shape),), strict=False).run_decompositions({})
    with tools.quiet():
        return coremltools.convert(
            program, package_dir=str(path), **_converter_options(coremltools, shape, options, labels)
        )


class Deployed(nn.Module):
    """The folded network with what a package does before and after it.

    Normalisation is a multiplication and an addition a channel, here and not in Core ML's image type: that has one
    scale for three channels and runs in fp32, and a bias folded into the first convolution errs at its zero padding.
    coremltools makes one batch norm of the two.
    """

    def __init__(
        self, network: MobileViG, normalisation: tuple[Sequence[float], Sequence[float]] | None, has_labels: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.is_normalising = normalisation is not None
        self.has_labels = has_labels
        mean, std = normalisation or ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("scale", 1 / (PIXEL_MAXIMUM * torch.tensor(std)).view(1, 3, 1, 1))
        self.register_buffer("offset", (-torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        if self.is_normalising:
            image = image * cast(Tensor, self.scale) + cast(Tensor, self.offset)
        logits = cast(Tensor, self.network(image))
        return logits.softmax(dim=1) if self.has_labels else logits


def deployable(network: MobileViG) -> MobileViG:
    """The network's inference form, refused where a weight does not fit fp16."""
    inference = for_inference(network).to("cpu", torch.float32)
    for name, parameter in inference.named_parameters():
        if not torch.isfinite(parameter.half()).all():
            raise MvigNasError(
                f"weights must be finite and fit fp16 (65504 at most) once batch norms are folded, got "
                f"{parameter.abs().max().item():g} in `{name}`; train again or recalibrate the batch norms."
            )
    return inference


def _target(coremltools: Any, name: str) -> Any:
    known = [each.name for each in coremltools.target if each.name.startswith("iOS")]
    if name not in known:
        raise MvigNasError(
            f"the oldest iOS must be one that the installed coremltools {coremltools.__version__} knows, {known[-1]} "
            f"at most, got {name}; upgrade coremltools, or name an older one."
        )
    return coremltools.target[name]


def _converter_options(
    coremltools: Any, shape: tuple[int, ...], package: ExportOptions, labels: list[str] | None
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "convert_to": "mlprogram",
        "minimum_deployment_target": _target(coremltools, package.minimum_deployment_target),
        "compute_precision": coremltools.precision.FLOAT16,
        "skip_model_load": True,
    }
    if package.is_image:
        options["inputs"] = [
            coremltools.ImageType(name=INPUT_NAME, shape=shape, color_layout=coremltools.colorlayout.RGB)
        ]
    else:
        options["inputs"] = [coremltools.TensorType(name=INPUT_NAME, shape=shape)]
    if labels is None:
        options["outputs"] = [coremltools.TensorType(name=LOGITS_NAME)]
    else:
        options["classifier_config"] = coremltools.ClassifierConfig(labels, predicted_feature_name=LABEL_NAME)
    return options


def _describe(description: Any, network: MobileViG, options: ExportOptions, entries: Mapping[str, str]) -> None:
    """Write what Xcode shows, and the metadata; `entries` are ours, by names without the prefix."""
    architecture, details, metadata = network.architecture, options.details, description.metadata
    metadata.shortDescription = details.description or default_description(
        architecture, network.num_classes, entries["weights"], entries
    )
    metadata.versionString = details.model_version
    metadata.author = details.author or ""
    metadata.license = details.license or ""
    given = {} if details.trained_on is None else {TRAINED_ON: details.trained_on}
    own = {
        "architecture": architecture.to_json(),
        "fingerprint": architecture.fingerprint,
        "version": mvig_nas.__version__,
        "coremltools_version": str(tools.load().__version__),
    }
    for key, value in (own | dict(entries) | given).items():
        metadata.userDefined[METADATA_PREFIX + key] = value
    if options.is_image and options.class_labels is not None:
        metadata.userDefined[PREVIEW] = PREVIEW_OF_CLASSIFIERS
    by_name = {
        LOGITS_NAME: f"one number a class before softmax, ({options.batch}, classes)",
        LABEL_NAME: "the likeliest class",
        PROBABILITIES_NAME: "probability of each class",
    }
    functions = description.functions if options.sizes else (description,)
    for side, function in zip((architecture.resolution, *options.sizes), functions, strict=True):
        for output in function.output:
            output.shortDescription = by_name.get(output.name, "")
        function.input[0].shortDescription = (
            f"RGB image of {side} x {side} pixels from 0 to 255, each channel normalised inside: "
            f"{entries['normalisation']}"
            if options.is_image
            else f"({options.batch}, 3, {side}, {side}), normalised as in training"
        )


def _check(check: Callable[[Path], object], finished: Path, path: Path) -> None:
    try:
        check(finished)
    except MvigNasError as error:
        kept = "what was there stays" if path.exists() else "nothing is left there"
        message = str(error).replace(str(finished), str(path))
        raise MvigNasError(f"{message} Not written to {path}: {kept}.") from error


@contextmanager
def writing(path: Path, beside: Path) -> Iterator[Path]:
    """A hidden folder in `beside` to build the package `path` in, which is removed.

    Raises:
        MvigNasError: inside, a file could not be written, by us or by coremltools.
    """
    building = None
    try:
        building = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=beside))
        yield building
    except OSError as error:
        raise _cannot_write(path, error) from error
    except RuntimeError as error:
        if not any(name in str(error) for name in _OF_FILES):
            raise
        raise _cannot_write(path, error) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def written(spec: Any, weights: Path, path: Path) -> Path:
    """Save a model with the digests of its program and weights, so that equal models make equal files."""
    stated = {
        digests.PROGRAM: digests.program_sha256(spec.mlProgram),
        digests.WEIGHTS: digests.weights_sha256(digests.read_weights(weights)),
    }
    for name, value in stated.items():
        spec.description.metadata.userDefined[METADATA_PREFIX + name] = value
    with tools.quiet():
        tools.load().utils.save_spec(spec, str(path), weights_dir=str(weights))
    for file in path.glob("Data/*/*.mlmodel"):
        # protobuf orders the entries of a map anew in every process, so that equal packages would differ
        file.write_bytes(spec.SerializeToString(deterministic=True))
    return path


def published(finished: Path, path: Path, staging: Path, *, overwrite: bool = False) -> None:
    """Make a finished package appear at `path`, whole or not at all.

    Raises:
        MvigNasError: `path` is taken, or no name of a package.
    """
    check_path(path, overwrite)
    # coremltools makes files and folders that only their owner can read
    for part in finished.rglob("*"):
        part.chmod(0o755 if part.is_dir() else 0o644)
    if not path.exists():
        finished.rename(path)
        return
    replaced = staging / "replaced"
    path.rename(replaced)
    try:
        finished.rename(path)
    except OSError:
        replaced.rename(path)
        raise


def check_path(path: Path, overwrite: bool) -> None:
    """Refuse a path that no package can be written to.

    Raises:
        MvigNasError: it has another suffix, no folder to stand in, or is taken.
    """
    if path.suffix != SUFFIX:
        raise MvigNasError(f"a Core ML package's name must end in {SUFFIX}, got {path}; add it.")
    if not path.parent.is_dir():
        raise MvigNasError(f"a package needs an existing folder to stand in, got {path.parent}; make it first.")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise MvigNasError(
            f"nothing is overwritten unasked, got an existing {path}; choose another name, or overwrite."
        )
    if path.is_symlink() or not (path / "Manifest.json").is_file():
        raise MvigNasError(f"only a Core ML package may be overwritten, got {path}, which is none; move it away.")


def _check_network(network: MobileViG, weights: str) -> None:
    if not weights.strip():
        raise MvigNasError("`weights` must say where the network's weights come from, got nothing; name the source.")
    if network.num_classes < 1:
        raise MvigNasError(f"an exported network must have classes, got {network.num_classes}; reset its classifier.")
    if network.in_chans != 3:
        raise MvigNasError(f"an exported network must take 3 channels, got {network.in_chans}; build it with 3.")


def _checked_labels(labels: Sequence[str], num_classes: int) -> list[str]:
    if len(labels) != num_classes:
        raise MvigNasError(
            f"there must be a label for each class, got {len(labels)} labels for {num_classes} classes; "
            "give as many labels as the network has classes."
        )
    seen: set[str] = set()
    for label in labels:
        if label in seen:
            raise MvigNasError(f"class labels must differ, got {label!r} twice; rename one.")
        seen.add(label)
    return list(labels)


def _cannot_write(path: Path, error: Exception) -> MvigNasError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition(" [")[0].rstrip(".")
    return MvigNasError(
        f"a package's folder and the temporary folder must be writable and have room, got {path}: {reason}; free space "
        "or choose another folder."
    )
