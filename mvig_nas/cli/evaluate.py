"""`mvig-nas evaluate`: how good a trained model or its package is."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import GroupedCommand, options_of
from mvig_nas.cli.options import data_option, device_option, json_option
from mvig_nas.cli.training_options import EXECUTION, NO_OPTIONS, OF_SINGLE_NETWORKS
from mvig_nas.recipes import Execution

if TYPE_CHECKING:
    from mvig_nas.architecture import Architecture
    from mvig_nas.image_data import LabelledImages
    from mvig_nas.latency import LatencyPredictor
    from mvig_nas.training.accuracy import Accuracy

_NAMES = {"mean": "as it answers", "labels": "classifier of the labels", "teacher": "classifier of the teacher"}

_OF_TRAINING = ("in_memory", "channels_last", "checkpoint_minutes", *OF_SINGLE_NETWORKS, *NO_OPTIONS)


@click.command(cls=GroupedCommand)
@click.argument("models", type=click.Path(path_type=Path), metavar="FOLDER|PACKAGE...", nargs=-1, required=True)
@data_option(help="Folder with val/CLASS/*.jpg.")
@click.option(
    "--images",
    "count",
    type=click.IntRange(1),
    help="Number of images to classify, each class in proportion.  [default: all]",
)
@options_of(EXECUTION, leave_out=_OF_TRAINING)
@device_option()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write classes.csv and confusion.png into, of a single model.",
)
@json_option()
def evaluate(
    models: tuple[Path, ...],
    data: Path,
    count: int | None,
    device: str,
    out: Path | None,
    as_json: bool,
    execution: Execution,
) -> None:
    """Top-1 and top-5 of a trained model on the validation images, with its predicted latency.

    FOLDER is one that `retrain` left. A PACKAGE is a classifier's .mlpackage: its program is executed here, operation
    by operation, not by Core ML, so expect a second an image. Several are compared on the same images in one table.
    """
    from mvig_nas.cli.output import print_json, print_table, say, with_error
    from mvig_nas.image_data import bad_images, read_split, skipped_line, subset, without, write_skipped
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.training.accuracy import shares
    from mvig_nas.values import without_nan

    images = read_split(data, "val")
    if count is not None:
        images = subset(images, count)
    bad = bad_images([images]) if execution.skip_bad_images else ()
    images = without(images, {each.image for each in bad})
    if bad and not as_json:
        say(skipped_line(bad))
    predictor = ArchitectureLatency.load(device).predictor
    if len(models) > 1:
        if out is not None:
            raise click.UsageError("--out is of a single model; leave it out, or evaluate one.")
        _print_comparison(models, images, execution, predictor, as_json)
        return
    architecture, classes, found = _evaluated(models[0], images, execution)
    latency = ArchitectureLatency(predictor, num_classes=len(classes))
    low, high = latency.interval_ms([architecture], 0.8)
    latency_ms = float(latency.predict_ms([architecture])[0])
    if out is not None:
        _write_evaluation(out, found["mean"], classes)
        if execution.skip_bad_images:
            write_skipped(bad, out)
    if as_json:
        print_json(
            {
                "accuracy": shares(found),
                "by_class": dict(zip(classes, without_nan(found["mean"].by_class.tolist()), strict=True)),
                "images": len(images),
                "skipped": [each.image for each in bad],
                "device": device,
                "predicted_latency_ms": latency_ms,
                "interval_ms": [float(low[0]), float(high[0])],
            }
        )
        return
    print_table(f"{len(images)} images, {execution.precision}", ["", "top-1", "top-5"], accuracy_rows(found))
    by_class = zip(found["mean"].by_class.tolist(), classes, strict=True)
    worst = sorted((share, name) for share, name in by_class if math.isfinite(share))[:3]
    say(f"Top-1 {with_error(found['mean'].top1, len(images))} (standard error).")
    say("Hardest classes: " + ", ".join(f"{name} {share:.1%}" for share, name in worst) + ".")
    say(
        f"Predicted {latency_ms:.3f} ms on {device} at {architecture.resolution} px, 80 % interval "
        f"{low[0]:.2f}-{high[0]:.2f} ms, with {len(classes)} classes."
    )


_Evaluated = tuple["Architecture", tuple[str, ...], "dict[str, Accuracy]"]


def _evaluated(model: Path, images: "LabelledImages", execution: Execution) -> _Evaluated:
    of_model = _of_package if model.suffix == ".mlpackage" else _of_folder
    return of_model(model, images, execution)


def _print_comparison(
    models: tuple[Path, ...],
    images: "LabelledImages",
    execution: Execution,
    predictor: "LatencyPredictor",
    as_json: bool,
) -> None:
    from mvig_nas.cli.output import print_json, print_table, size, with_error
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.standard_error import standard_error

    compared: list[dict[str, Any]] = []
    for model in models:
        architecture, classes, found = _evaluated(model, images, execution)
        latency = ArchitectureLatency(predictor, num_classes=len(classes))
        best = found["mean"]
        compared.append(
            {
                "model": str(model),
                "top1": best.top1,
                "top1_standard_error": standard_error(best.top1, len(images)),
                "top5": best.top5,
                "file_bytes": sum(file.stat().st_size for file in model.rglob("*") if file.is_file()),
                "predicted_latency_ms": float(latency.predict_ms([architecture])[0]),
            }
        )
    device = predictor.device
    if as_json:
        print_json({"images": len(images), "device": device, "models": compared})
        return
    rows = [
        [
            each["model"],
            with_error(each["top1"], len(images)),
            f"{each['top5']:.2%}",
            size(each["file_bytes"]),
            f"{each['predicted_latency_ms']:.3f}",
        ]
        for each in compared
    ]
    print_table(
        f"{len(images)} images, {execution.precision}",
        ["", "top-1", "top-5", "files", f"ms on {device}, predicted"],
        rows,
    )


def _of_folder(model: Path, images: "LabelledImages", execution: Execution) -> _Evaluated:
    from mvig_nas.image_data import check_classes
    from mvig_nas.training import PRECISIONS, Process
    from mvig_nas.training.accuracy import accuracies_on
    from mvig_nas.training.model_folder import read_model

    trained = read_model(model)
    check_classes(images, trained.classes)
    network = trained.network.to(Process.start(execution.torch_device).device)
    found = accuracies_on(
        network, images, trained.preprocessing, workers=execution.workers, dtype=PRECISIONS[execution.precision]
    )
    return network.architecture, trained.classes, found


def _of_package(package: Path, images: "LabelledImages", execution: Execution) -> _Evaluated:
    from mvig_nas import coreml
    from mvig_nas.architecture import Architecture
    from mvig_nas.errors import MvigNasError
    from mvig_nas.measure import package_target

    if execution.precision == "bfloat16":
        raise MvigNasError("a package is executed in float16 or float32, got bfloat16; take one of them.")
    network = package_target(package).network
    if not isinstance(network, Architecture):
        raise MvigNasError(f"a package to evaluate must name its architecture, got none in {package}; export it again.")
    found = coreml.package_accuracy(package, images, precision=execution.precision, workers=execution.workers)
    return network, images.classes, {"mean": found}


def accuracy_rows(found: "Mapping[str, Accuracy]") -> list[list[str]]:
    """Rows of a table: which classifier, top-1, top-5."""
    return [[_NAMES[name], f"{each.top1:.2%}", f"{each.top5:.2%}"] for name, each in found.items()]


def _write_evaluation(out: Path, accuracy: "Accuracy", classes: tuple[str, ...]) -> None:
    from mvig_nas.files import csv_text, make_folder, save
    from mvig_nas.report.figures import confusion_png

    make_folder(out)
    counts = accuracy.confusion.sum(axis=1).tolist()
    rows = zip(classes, counts, accuracy.by_class.tolist(), strict=True)
    cells = [(name, count, f"{share:.4f}") for name, count, share in rows]
    save(out / "classes.csv", csv_text([("class", "images", "top1"), *cells]))
    save(out / "confusion.png", confusion_png(accuracy.confusion, classes))
