"""`mvig-nas evaluate`: how good a trained model or its package is."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.options import data_option, device_option, json_option

if TYPE_CHECKING:
    from mvig_nas.architecture import Architecture
    from mvig_nas.training.accuracy import Accuracy

_NAMES = {"mean": "as it answers", "labels": "classifier of the labels", "teacher": "classifier of the teacher"}


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="FOLDER|PACKAGE")
@data_option(help="Folder with val/CLASS/*.jpg.")
@click.option(
    "--images",
    "count",
    type=click.IntRange(1),
    help="Number of images to classify, each class in proportion.  [default: all]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Floating-point type of the computation.",
)
@click.option(
    "--torch-device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Device to compute on, as torch names it; auto takes a GPU where there is one.",
)
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes that read images.")
@device_option()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write classes.csv and confusion.png into.",
)
@json_option()
def evaluate(model: Path, as_json: bool, **options: Any) -> None:
    """Top-1 and top-5 of a trained model on the validation images, with its predicted latency.

    FOLDER is one that `retrain` left. A PACKAGE is a classifier's .mlpackage: its program is executed here, operation
    by operation, not by Core ML, so expect a second an image.
    """
    from mvig_nas.cli.output import print_json, print_table
    from mvig_nas.image_data import read_split, subset
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.latency.card import plain
    from mvig_nas.training.accuracy import shares

    images = read_split(options["data"], "val")
    if options["count"] is not None:
        images = subset(images, options["count"])
    architecture, classes, found = (_of_package if model.suffix == ".mlpackage" else _of_folder)(model, images, options)
    latency = ArchitectureLatency.load(options["device"])
    low, high = latency.interval_ms([architecture], 0.8)
    latency_ms = float(latency.predict_ms([architecture])[0])
    if options["out"] is not None:
        _write_evaluation(options["out"], found["mean"], classes)
    if as_json:
        print_json(
            {
                "accuracy": shares(found),
                "by_class": dict(zip(classes, plain(found["mean"].by_class.tolist()), strict=True)),
                "images": len(images),
                "device": options["device"],
                "predicted_latency_ms": latency_ms,
                "interval_ms": [float(low[0]), float(high[0])],
            }
        )
        return
    print_table(f"{len(images)} images, {options['precision']}", ["", "top-1", "top-5"], accuracy_rows(found))
    by_class = zip(found["mean"].by_class.tolist(), classes, strict=True)
    worst = sorted((share, name) for share, name in by_class if math.isfinite(share))[:3]
    click.echo("Hardest classes: " + ", ".join(f"{name} {share:.1%}" for share, name in worst) + ".")
    click.echo(
        f"Predicted {latency_ms:.3f} ms on {options['device']} at {architecture.resolution} px, 80 % interval "
        f"{low[0]:.2f}-{high[0]:.2f} ms."
    )


_Evaluated = tuple["Architecture", tuple[str, ...], "dict[str, Accuracy]"]


def _of_folder(model: Path, images: Any, options: dict[str, Any]) -> _Evaluated:
    from mvig_nas.image_data import check_classes
    from mvig_nas.training import PRECISIONS, Process
    from mvig_nas.training.model_folder import read_model

    trained = read_model(model)
    check_classes(images, trained.classes)
    architecture = trained.network.architecture
    network = trained.network.to(Process.start(options["torch_device"]).device)
    found = measured(
        network, images, trained.preprocessing, architecture.resolution, options["workers"],
        PRECISIONS[options["precision"]],
    )  # fmt: skip
    return architecture, trained.classes, found


def _of_package(package: Path, images: Any, options: dict[str, Any]) -> _Evaluated:
    from mvig_nas import coreml
    from mvig_nas.architecture import Architecture
    from mvig_nas.errors import MvigNasError
    from mvig_nas.measure import package_target

    if options["precision"] == "bfloat16":
        raise MvigNasError("a package is executed in float16 or float32, got bfloat16; take one of them.")
    network = package_target(package).network
    if not isinstance(network, Architecture):
        raise MvigNasError(f"a package to evaluate must name its architecture, got none in {package}; export it again.")
    found = coreml.package_accuracy(package, images, precision=options["precision"], workers=options["workers"])
    return network, images.classes, {"mean": found}


def measured(network: Any, images: Any, preprocessing: Any, resolution: int, workers: int, dtype: Any = None) -> Any:
    """Accuracies of a network on labelled images, as in `evaluation.accuracies`."""
    import torch

    from mvig_nas.image_data import EvaluationImages
    from mvig_nas.training.accuracy import accuracies

    batches = EvaluationImages(images, preprocessing, resolution, workers=workers)
    return accuracies(network, batches, resolution, dtype or torch.float32)


def accuracy_rows(found: "dict[str, Accuracy]") -> list[list[str]]:
    """Rows of a table: which classifier, top-1, top-5."""
    return [[_NAMES[name], f"{each.top1:.2%}", f"{each.top5:.2%}"] for name, each in found.items()]


def _write_evaluation(out: Path, accuracy: "Accuracy", classes: tuple[str, ...]) -> None:
    from mvig_nas.files import make_folder, save
    from mvig_nas.report.figures import confusion_png

    make_folder(out)
    counts = accuracy.confusion.sum(axis=1).tolist()
    rows = zip(classes, counts, accuracy.by_class.tolist(), strict=True)
    lines = ["class,images,top1", *(f"{name},{count},{share:.4f}" for name, count, share in rows)]
    save(out / "classes.csv", "\n".join(lines) + "\n")
    save(out / "confusion.png", confusion_png(accuracy.confusion, classes))
