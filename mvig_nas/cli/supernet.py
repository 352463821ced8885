"""`mvig-nas supernet`: train one set of weights for a whole space, and check its ranking."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import GroupedCommand, changes_of, is_given
from mvig_nas.cli.options import DURATION, data_option, device_option, json_option, space_option
from mvig_nas.cli.progress import Bar
from mvig_nas.cli.training_options import (
    EXECUTION_OPTIONS,
    TrainingShown,
    execution_of,
    new_run_folder,
    with_options,
)
from mvig_nas.recipes import Recipe

if TYPE_CHECKING:
    from mvig_nas.training import LatencyRange

_RECIPE = "small"


@click.group()
def supernet() -> None:
    """Train one network whose slices are all networks of a space, and check how it ranks them."""


@supernet.command(cls=GroupedCommand)
@data_option()
@space_option()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: a new one]")
@click.option("--resume", is_flag=True, help="Go on with the training in --out; options not given are taken from it.")
@click.option(
    "--recipe",
    default=_RECIPE,
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Training recipe that the options below change.",
)
@changes_of(Recipe, "changes", title="Training recipe", leave_out=("repeats",))
@click.option(
    "--sampling", type=click.Choice(["sandwich", "uniform"]), default="sandwich", show_default=True,
    help="Train the largest, the smallest and random sub-networks in every step, or random ones only.",
)  # fmt: skip
@click.option(
    "--random-networks",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Random sub-networks that are trained in every step.",
)
@click.option(
    "--distillation", type=click.Choice(["kl", "alpha", "none"]), default="kl", show_default=True,
    help="Divergence from the largest sub-network's answers that the others learn by; none for the labels.",
)  # fmt: skip
@click.option("--progressive", is_flag=True, help="Open kernels, then depths, then widths.")
@click.option(
    "--latency-range",
    type=(DURATION, DURATION),
    metavar="LOW HIGH",
    help="Draw random sub-networks whose predicted latency is in this range.",
)
@device_option()
@click.option("--teacher", metavar="NAME", help="Timm model that teaches the largest sub-network.")
@click.option(
    "--teacher-checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Weights of the teacher; timm downloads them if this is not given.",
)
@click.option(
    "--teacher-share",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the teacher in the loss of the largest sub-network.",
)
@with_options(EXECUTION_OPTIONS)
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:
    """Train a supernet on the images in --data.

    Part of the training images is held out, for choosing sub-networks later. On several GPUs:
    torchrun --nproc-per-node 8 -m mvig_nas supernet train ...
    """
    from mvig_nas import recipes
    from mvig_nas.image_data import check_same_classes, hold_out, read_split
    from mvig_nas.search_space import SearchSpace
    from mvig_nas.training import StopTraining, SupernetPlan, read_checkpoint, train_supernet

    folder: Path | None = options["out"]
    saved = None
    if options["resume"]:
        if folder is None:
            raise click.UsageError("--resume needs the run folder: --out results/runs/NAME.")
        saved = read_checkpoint(folder)["identity"]
        _take_from_run(ctx, saved, options)
    if saved and not is_given(ctx, "recipe"):
        recipe = recipes.changed(saved["recipe"], options["changes"])
    else:
        recipe = recipes.load(options["recipe"], options["changes"])
    space = SearchSpace.from_dict(saved["space"]) if saved and not is_given(ctx, "space") else SearchSpace.load(
        options["space"]
    )  # fmt: skip
    train_images = read_split(options["data"], "train")
    # The validation split is for the networks that come of it; that it is missing had better be known before.
    check_same_classes(train_images, read_split(options["data"], "val"))
    if recipe.hold_out:
        train_images, _ = hold_out(train_images, recipe.hold_out)
    folder = folder or new_run_folder(f"supernet-{space.name}", recipe.seed)
    process, execution = execution_of(options)
    labels: dict[str, Any] = {}
    latency_range = _latency_range(options, labels)
    teacher = None
    if options["teacher"]:
        from mvig_nas.training.teacher import load_teacher

        teacher = load_teacher(
            options["teacher"],
            train_images.classes,
            recipe.preprocessing,
            checkpoint=options["teacher_checkpoint"],
            device=process.device,
        )
        labels["teacher"] = teacher.to_dict()
    plan = SupernetPlan(
        options["sampling"],
        options["random_networks"],
        None if options["distillation"] == "none" else options["distillation"],
        progressive=options["progressive"],
        teacher_share=options["teacher_share"],
    )
    try:
        with Bar("supernet", hidden=not process.is_first) as bar:
            outcome = train_supernet(
                space,
                train_images,
                recipe,
                folder,
                plan=plan,
                latency_range=latency_range,
                teacher=teacher,
                labels=labels,
                process=process,
                execution=execution,
                workers=options["workers"],
                in_memory=options["in_memory"],
                resume=options["resume"],
                on_progress=TrainingShown(bar, "supernet"),
            )
    except StopTraining as stop:
        if process.is_first:
            click.echo(f"{stop}\nTo go on: mvig-nas supernet train --resume --out {folder} --data {options['data']}")
        sys.exit(130)
    finally:
        process.leave()
    if process.is_first:
        for rollback in outcome.rollbacks:
            click.echo(f"Step {rollback.step} diverged and was left out; its loss was {rollback.loss:.3g}.")
        click.echo(f"Supernet of {space.name}: {folder / 'supernet.safetensors'} ({outcome.seconds:.0f} s)")
        click.echo(
            f"Next: mvig-nas search --space {options['space']} --latency-budget 1.0ms --score supernet:{folder} "
            f"--data {options['data']}"
        )


@supernet.command()
@click.argument("supernets", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SUPERNET...")
@data_option()
@click.option("-n", "count", type=click.IntRange(4), default=20, show_default=True, help="Architectures to train.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Trainings of each architecture.")
@click.option("--sample-seed", type=click.IntRange(0), default=0, show_default=True, help="Of the architectures.")
@click.option("--epochs", type=click.IntRange(1), help="Of a stand-alone training.  [default: the supernet's]")
@click.option("--proxies/--no-proxies", default=True, show_default=True, help="Compare training-free proxies too.")
@device_option()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="[default: ranking, beside SUPERNET]")
@with_options(EXECUTION_OPTIONS)
@json_option()
def rank(supernets: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Train architectures one by one, and compare how SUPERNET and all proxies rank them.

    Every finished training is kept in --out, so the command can be stopped and given again; two of them at once share
    the work. The recipe and the space are the first supernet's.
    """
    from dataclasses import asdict, replace

    from mvig_nas import values
    from mvig_nas.cli.output import print_json
    from mvig_nas.image_data import check_same_classes, read_split
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.ranking import StandAlonePlan, markdown_table, proxies, stand_alone, stratified, write_ranking
    from mvig_nas.ranking import rank as compare
    from mvig_nas.scores import SupernetScore, training_split
    from mvig_nas.training import StopTraining

    data = options["data"]
    latency = ArchitectureLatency.load(options["device"])
    names = [_name(path, supernets) for path in supernets]
    scored = [
        SupernetScore(path, data, device=options["torch_device"], workers=options["workers"]) for path in supernets
    ]
    first = scored[0].trained
    space = first.supernet.space
    for score in scored:
        score.check_space(space)
    train_images, _ = training_split(first, data)
    val_images = read_split(data, "val")
    check_same_classes(train_images, val_images)
    estimators: dict[str, Any] = dict(zip(names, scored, strict=True))
    if options["proxies"]:
        estimators |= proxies()
    recipe = values.read(Recipe, first.training["recipe"], "the supernet's recipe")
    if options["epochs"] is not None:
        recipe = replace(
            recipe, epochs=options["epochs"], warmup_epochs=min(recipe.warmup_epochs, options["epochs"] - 1)
        )
    architectures = stratified(space, latency, options["count"], options["sample_seed"])
    root = supernets[0] if supernets[0].is_dir() else supernets[0].parent
    folder: Path = options["out"] or root / "ranking"
    folder.mkdir(parents=True, exist_ok=True)
    process, execution = execution_of(options)
    plan = StandAlonePlan(
        train_images, val_images, recipe, range(options["seeds"]), execution, options["workers"], options["in_memory"]
    )
    total = len(architectures) * options["seeds"]
    try:
        with Bar("stand-alone", hidden=as_json) as bar:
            show = TrainingShown(bar, "stand-alone")
            results = stand_alone(
                architectures,
                plan,
                folder / "alone",
                process=process,
                on_progress=lambda index, progress: show(progress, f"{index + 1} of {total}"),
            )
            rows = compare(
                results, estimators, latency, folder, on_estimate=lambda name, done: bar.name(f"{name} {done}", "")
            )
    except (StopTraining, KeyboardInterrupt):
        click.echo(f"stopped; what is trained is in {folder}. To go on, give the same command again.", err=True)
        sys.exit(130)
    found = write_ranking(rows, architectures, folder, names[0])
    if as_json:
        print_json({"folder": str(folder), "agreement": {name: asdict(value) for name, value in found.items()}})
        return
    click.echo(f"{len(rows)} architectures of {space.name}, trained by themselves {options['seeds']} time(s):\n")
    click.echo(markdown_table(found))
    left_out = [name for name in estimators if name not in found]
    if left_out:
        click.echo(f"Left out, as they have no value for some architecture: {', '.join(left_out)}.")
    click.echo(f"\nTables and plots: {folder}")


def _name(path: Path, among: tuple[Path, ...]) -> str:
    if len(among) == 1:
        return "supernet"
    return f"supernet {(path if path.is_dir() else path.parent).name}"


def _take_from_run(ctx: click.Context, saved: dict[str, Any], options: dict[str, Any]) -> None:
    """Options that were not given take the run's values."""
    plan, labels = saved["plan"], saved["labels"]
    values = {
        "sampling": plan["sampling"],
        "random_networks": plan["random_networks"],
        "distillation": plan["distillation"] or "none",
        "progressive": plan["progressive"],
        "teacher_share": plan["teacher_share"],
        "latency_range": labels.get("latency_range_ms"),
        "device": labels.get("device", options["device"]),
        "teacher": labels.get("teacher", {}).get("name"),
    }
    for name, value in values.items():
        if not is_given(ctx, name):
            options[name] = value


def _latency_range(options: dict[str, Any], labels: dict[str, Any]) -> "LatencyRange | None":
    if not options["latency_range"]:
        return None
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.training import LatencyRange

    low_ms, high_ms = options["latency_range"]
    labels |= {"latency_range_ms": [low_ms, high_ms], "device": options["device"]}
    return LatencyRange(ArchitectureLatency.load(options["device"]), low_ms, high_ms)
