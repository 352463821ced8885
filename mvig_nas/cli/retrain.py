"""`mvig-nas retrain`: a found architecture trained for good."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.evaluate import accuracy_rows, measured
from mvig_nas.cli.generated import GroupedCommand, changes_of
from mvig_nas.cli.options import data_option, json_option
from mvig_nas.cli.progress import Bar
from mvig_nas.cli.training_options import (
    EXECUTION_OPTIONS,
    TrainingShown,
    execution_of,
    new_run_folder,
    with_options,
)
from mvig_nas.recipes import Distillation, Recipe

if TYPE_CHECKING:
    from mvig_nas.architecture import Architecture
    from mvig_nas.image_data import LabelledImages
    from mvig_nas.training import Plan, Trained
    from mvig_nas.training.accuracy import Accuracy
    from mvig_nas.training.teacher import Teacher

_PLAN = "mobilevig-300ep"
_ASKED = "retrain.json"
_LAST = "last"  # weights of the last step, where the model's are an average


@click.command(cls=GroupedCommand)
@click.argument("target", metavar="ARCH|MODEL", required=False)
@data_option()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: a new one]")
@click.option("--resume", is_flag=True, help="Go on with the training in --out, as it was asked for.")
@click.option("--plan", "plan_name", default=_PLAN, show_default=True, metavar="NAME|FILE.toml",
    help="Training plan that the options below change; `short` is for some ten thousand images.")  # fmt: skip
@changes_of(Recipe, "changes", title="Training recipe")
@click.option(
    "--resolution",
    type=click.IntRange(32),
    help="Side of the training images in pixels, in place of the architecture's.",
)
@click.option("--teacher", metavar="NAME|none", help="Timm model that the network learns from.  [default: the plan's]")
@click.option("--teacher-checkpoint", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Weights of the teacher; timm downloads them if this is not given.")  # fmt: skip
@click.option(
    "--teacher-resolution",
    type=click.IntRange(32),
    help="Side in pixels at which the teacher sees the images.  [default: the teacher's own]",
)
@click.option("--teacher-cache", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Folder where the teacher's answers are kept for other trainings of the same recipe.")  # fmt: skip
@changes_of(Distillation, "distillation", title="Learning from the teacher")
@click.option(
    "--from-supernet",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Supernet whose weights the network begins with.",
)
@with_options(EXECUTION_OPTIONS)
@click.option("--validate-every", type=click.IntRange(0), default=1, show_default=True, metavar="EPOCHS",
    help="Epochs between validations; 0 validates at the end only.")  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Let torch compile the network first.")
@json_option()
@click.pass_context
def retrain(ctx: click.Context, /, **options: Any) -> None:
    """Train ARCH (a preset, or JSON such as a run's winner.json) by itself, with a teacher, on the images in --data.

    A MODEL, a folder that this command left, is trained on, with new classifiers where the classes are others. The
    run's `model` then holds config.json and model.safetensors, which timm, `mvig-nas evaluate` and `mvig-nas export`
    read; `best` the same, after the epoch with the highest top-1. On several GPUs:
    torchrun --nproc-per-node 8 -m mvig_nas retrain ...
    """
    from mvig_nas.architecture import Architecture
    from mvig_nas.training import Plan, StopTraining, Validation, train_alone

    folder: Path | None = options["out"]
    if options["resume"]:
        asked = _read_asked(ctx, folder)
    else:
        asked = _asked(ctx, options)
        folder = folder or new_run_folder(asked["name"], asked["plan"]["seed"])
    assert folder is not None
    architecture = Architecture.from_dict(asked["architecture"])
    plan = Plan.from_dict(asked["plan"])
    train_images, held_out, val_images = _images(options["data"], plan.recipe.hold_out)
    start = _start(asked["start"], architecture, train_images.classes)
    process, execution = execution_of(options)
    teacher = _teacher(plan, asked, train_images.classes, process.device)
    if process.is_first and not options["resume"]:
        _write_asked(folder, asked)
    about = {
        "plan": plan.to_dict(),
        "teacher": None if teacher is None else teacher.to_dict(),
        "start": asked["start"],
        "images": train_images.digest,
    }
    began = time.monotonic()
    try:
        validation = Validation(
            held_out, plan.recipe.preprocessing, folder, about, process=process, workers=options["workers"]
        )
        with Bar("training", hidden=options["as_json"] or not process.is_first) as bar:
            trained = train_alone(
                architecture,
                train_images,
                plan.recipe,
                folder,
                teacher=teacher,
                distillation=plan.distillation,
                teacher_cache=None if asked["teacher_cache"] is None else Path(asked["teacher_cache"]),
                start=start,
                labels=asked["start"],
                process=process,
                execution=execution,
                workers=options["workers"],
                in_memory=options["in_memory"],
                resume=options["resume"] and (folder / "state.pt").is_file(),
                validate=validation,
                on_progress=TrainingShown(bar, "training"),
            )
    except StopTraining as stop:
        if process.is_first:
            click.echo(f"{stop}\nTo go on: mvig-nas retrain --resume --out {folder} --data {options['data']}", err=True)
        sys.exit(130)
    finally:
        process.leave()
    if process.is_first:
        found = validation.found
        if held_out is not val_images:
            found = measured(
                trained.network, val_images, plan.recipe.preprocessing, architecture.resolution, options["workers"]
            )
        _write(folder, trained, found, train_images.classes, plan, about)
        _print(found, folder, options, seconds=time.monotonic() - began)


def _asked(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """What a new training is to be, as plain values."""
    from dataclasses import replace

    from mvig_nas.architecture import Architecture
    from mvig_nas.recipes import load_plan
    from mvig_nas.training.model_folder import read_model

    if options["target"] is None:
        raise click.UsageError("name an architecture, or --resume a training.", ctx)
    target, supernet = Path(options["target"]), options["from_supernet"]
    start = {} if supernet is None else {"supernet": str(supernet.resolve())}
    if target.is_dir():
        if supernet is not None:
            raise click.UsageError("--from-supernet is for an architecture, a model has weights.", ctx)
        architecture = read_model(target).network.architecture
        start = {"model": str(target.resolve())}
    else:
        architecture = Architecture.load(options["target"])
    if options["resolution"] is not None:
        architecture = replace(architecture, resolution=options["resolution"])
    taught = dict(options["distillation"])
    if options["teacher"] is not None:
        taught["teacher"] = options["teacher"]
    plan = load_plan(options["plan_name"], options["changes"], taught)
    checkpoint = options["teacher_checkpoint"]
    return {
        "name": target.stem,
        "architecture": architecture.to_dict(),
        "plan": plan.to_dict(),
        "teacher_checkpoint": None if checkpoint is None else str(checkpoint),
        "teacher_resolution": options["teacher_resolution"],
        "teacher_cache": None if options["teacher_cache"] is None else str(options["teacher_cache"].resolve()),
        "start": start,
    }


def _read_asked(ctx: click.Context, folder: Path | None) -> dict[str, Any]:
    import json

    from mvig_nas.errors import MvigNasError

    if folder is None:
        raise click.UsageError("--resume needs the run folder: --out results/runs/NAME.", ctx)
    try:
        values: dict[str, Any] = json.loads((folder / _ASKED).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MvigNasError(f"a training to resume must hold {_ASKED}, got {error} in {folder}; start anew.") from error
    return values


def _write_asked(folder: Path, asked: dict[str, Any]) -> None:
    import json

    from mvig_nas.errors import MvigNasError
    from mvig_nas.files import make_folder, save

    if (folder / _ASKED).exists():
        raise MvigNasError(f"{folder} holds a training already; go on with it (--resume), or take another folder.")
    make_folder(folder)
    save(folder / _ASKED, json.dumps(asked, indent=1) + "\n")


def _teacher(plan: "Plan", asked: dict[str, Any], classes: tuple[str, ...], device: Any) -> "Teacher | None":
    from mvig_nas.training.teacher import load_teacher

    if plan.teacher is None:
        return None
    checkpoint = asked["teacher_checkpoint"]
    return load_teacher(
        plan.teacher,
        classes,
        plan.recipe.preprocessing,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        resolution=asked["teacher_resolution"],
        device=device,
    )


def _start(asked: dict[str, str], architecture: "Architecture", classes: tuple[str, ...]) -> Any:
    """Weights of a model, without its classifiers where the classes are others, or of a supernet's sub-network."""
    from mvig_nas.errors import MvigNasError
    from mvig_nas.supernet import load_supernet
    from mvig_nas.training.model_folder import read_model

    if "model" in asked:
        model = read_model(Path(asked["model"]))
        weights = model.network.state_dict()
        if model.classes != classes:
            weights = {name: each for name, each in weights.items() if not name.startswith(("head.", "head_dist."))}
        return weights
    if "supernet" not in asked:
        return None
    trained = load_supernet(Path(asked["supernet"]))
    if trained.classes != classes:
        raise MvigNasError(
            f"a supernet to start from must know the images' classes, got {len(trained.classes)} others in "
            f"{asked['supernet']}; train one on these images, or start afresh."
        )
    return trained.supernet.extract(architecture).state_dict()


def _images(data: Path, held_out: float) -> "tuple[LabelledImages, LabelledImages, LabelledImages]":
    """To train on, to choose by, and the validation images."""
    from mvig_nas.image_data import check_same_classes, hold_out, read_split

    train_images, val_images = read_split(data, "train"), read_split(data, "val")
    check_same_classes(train_images, val_images)
    return (*hold_out(train_images, held_out), val_images) if held_out else (train_images, val_images, val_images)


def _write(
    folder: Path,
    trained: "Trained",
    found: "dict[str, Accuracy]",
    classes: tuple[str, ...],
    plan: "Plan",
    about: dict[str, Any],
) -> None:
    from mvig_nas.training.accuracy import shares
    from mvig_nas.training.model_folder import SUBFOLDER, TrainedModel, write_model

    images = plan.recipe.preprocessing
    write_model(folder / SUBFOLDER, TrainedModel(trained.network, classes, images, about | {"accuracy": shares(found)}))
    if trained.last is not trained.network:
        write_model(folder / _LAST, TrainedModel(trained.last, classes, images, about))


def _print(found: "dict[str, Accuracy]", folder: Path, options: dict[str, Any], *, seconds: float) -> None:
    from mvig_nas.cli.output import print_json, print_table
    from mvig_nas.training.accuracy import shares
    from mvig_nas.training.model_folder import SUBFOLDER

    folder = folder / SUBFOLDER
    if options["as_json"]:
        print_json({"model": str(folder), "accuracy": shares(found), "seconds": seconds})
        return
    print_table(f"Trained in {seconds:.0f} s; on the validation images", ["", "top-1", "top-5"], accuracy_rows(found))
    click.echo(f"Next: mvig-nas evaluate {folder} --data {options['data']}")
    click.echo(f"      mvig-nas export {folder} --out model.mlpackage")
