"""`mvig-nas supernet`: train one set of weights for a whole space, and check its ranking."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import click

from mvig_nas import recipes, run_folder, values
from mvig_nas.cli.generated import GroupedCommand, changes_of, is_given, options_of
from mvig_nas.cli.options import data_option, json_option, space_option
from mvig_nas.cli.training_options import (
    EXECUTION,
    NO_OPTIONS,
    OF_SINGLE_NETWORKS,
    execution_of,
    is_first,
    needed,
    run_options,
    saved_request,
    shown,
)
from mvig_nas.recipes import Execution, Recipe, Sources, SupernetPlan
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.values import about

if TYPE_CHECKING:
    from mvig_nas.training import SupernetRequest

_OF_RETRAINING = ("repeats", "teacher_resolution", "teacher_cache", "from_supernet", "from_model")


@click.group()
def supernet() -> None:
    """Train one network whose slices are all networks of a space, and check how it ranks them."""


@supernet.command(cls=GroupedCommand)
@space_option()
@run_options()
@click.option("--recipe", "recipe_name", default="small", show_default=True, metavar="NAME|FILE.toml",
    help="Training recipe that the options below change.")  # fmt: skip
@changes_of(
    {"recipe": Recipe, "plan": SupernetPlan(), "sources": Sources, "execution": EXECUTION},
    leave_out=(*_OF_RETRAINING, *OF_SINGLE_NETWORKS, *NO_OPTIONS),
)
def train(out: Path | None, resume: bool, **asked: Any) -> None:
    """Train a supernet on the images in --data.

    Part of the training images is held out, for choosing sub-networks later. On several GPUs:
    torchrun --nproc-per-node 8 -m mvig_nas supernet train ...
    """
    from mvig_nas.training import SupernetRequest, run_supernet_training

    saved = saved_request(out, "supernet train", SupernetRequest) if resume else None
    request = _request(saved, resume, **asked)
    folder = out or run_folder.new_folder(f"supernet-{request.space.name}", request.recipe.seed)
    with shown("supernet", f"mvig-nas supernet train --resume --out {folder}") as show:
        outcome = run_supernet_training(request, folder, on_progress=show)
    if is_first():
        for rollback in outcome.rollbacks:
            click.echo(f"Step {rollback.step} diverged and was left out; its loss was {rollback.loss:.3g}.")
        click.echo(f"Supernet of {request.space.name}: {folder / 'supernet.safetensors'} ({outcome.seconds:.0f} s)")
        space = request.space.name if resume else asked["space"]
        click.echo(
            f"Next: mvig-nas search --space {space} --latency-budget 1.0ms --score supernet:{folder} "
            f"--data {request.data}"
        )


def _request(
    saved: "SupernetRequest | None",
    resume: bool,
    *,
    data: Path | None,
    space: str,
    recipe_name: str,
    changes: dict[str, Any],
) -> "SupernetRequest":
    """What is asked for: as the resumed run was, with what is given changed."""
    from mvig_nas.search_space import SearchSpace
    from mvig_nas.training import SupernetRequest

    ctx = click.get_current_context()
    of_recipe = changes.get("recipe", {})
    if saved and not is_given(ctx, "recipe_name"):
        recipe = recipes.changed(values.plain(saved.recipe), of_recipe)
    else:
        recipe = recipes.load(recipe_name, of_recipe)
    return SupernetRequest(
        saved.space if saved and not is_given(ctx, "space") else SearchSpace.load(space),
        needed(data, saved.data if saved else None, "--data", resume),
        recipe,
        values.changed(saved.plan if saved else SupernetPlan(), changes.get("plan", {})),
        values.changed(saved.sources if saved else Sources(), changes.get("sources", {})),
        execution_of(saved.execution if saved else None, changes, resume),
    )


@dataclass(frozen=True)
class RankOptions:
    """Which architectures `supernet rank` trains, and what it compares."""

    TITLE: ClassVar[str] = "Ranking"

    count: Annotated[int, about("Architectures to train.", ge=4, flags=("-n",))] = 20
    seeds: Annotated[int, about("Trainings of each architecture, each with another seed.", ge=1)] = 1
    sample_seed: Annotated[int, about("Seed that the architectures are drawn by.", ge=0)] = 0
    epochs: (
        Annotated[int, about("Epochs of a training; as many as the supernet's if this is not given.", ge=1)] | None
    ) = None
    proxies: Annotated[bool, about("Compare training-free proxies too.", flags=("--proxies/--no-proxies",))] = True
    device: Annotated[
        str,
        about(
            "Phone to predict latency for (see `mvig-nas devices`), or a folder with a fitted predictor.",
            metavar="NAME|FOLDER",
        ),
    ] = DEFAULT_DEVICE
    out: (
        Annotated[Path, about("Folder of trainings and results; `ranking` beside SUPERNET if this is not given.")]
        | None
    ) = None


@supernet.command(cls=GroupedCommand)
@click.argument("supernets", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SUPERNET...")
@data_option()
@options_of(RankOptions, "asked")
@options_of(EXECUTION, leave_out=(*OF_SINGLE_NETWORKS, *NO_OPTIONS))
@json_option()
def rank(supernets: tuple[Path, ...], data: Path, as_json: bool, asked: RankOptions, execution: Execution) -> None:
    """Train architectures one by one, and compare how SUPERNET and all proxies rank them.

    Every finished training is kept in --out, so the command can be stopped and given again; two of them at once share
    the work. The recipe and the space are the first supernet's.
    """
    from mvig_nas.cli.output import print_json
    from mvig_nas.image_data import check_same_classes, read_split
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.ranking import StandAlonePlan, markdown_table, proxies, stand_alone, stratified, write_ranking
    from mvig_nas.ranking import rank as compare
    from mvig_nas.scores import SupernetScore, training_split

    latency = ArchitectureLatency.load(asked.device)
    names = [_name(path, supernets) for path in supernets]
    scored = [SupernetScore(path, data, device=execution.torch_device, workers=execution.workers) for path in supernets]
    first = scored[0].trained
    space = first.supernet.space
    for score in scored:
        score.check_space(space)
    train_images, _ = training_split(first, data)
    val_images = read_split(data, "val")
    check_same_classes(train_images, val_images)
    estimators: dict[str, Any] = dict(zip(names, scored, strict=True))
    if asked.proxies:
        estimators |= proxies()
    recipe = values.read(Recipe, first.training["recipe"], "the supernet's recipe")
    if asked.epochs is not None:
        recipe = replace(recipe, epochs=asked.epochs, warmup_epochs=min(recipe.warmup_epochs, asked.epochs - 1))
    architectures = stratified(space, latency, asked.count, asked.sample_seed)
    root = supernets[0] if supernets[0].is_dir() else supernets[0].parent
    folder = asked.out or root / "ranking"
    folder.mkdir(parents=True, exist_ok=True)
    plan = StandAlonePlan(train_images, val_images, recipe, range(asked.seeds), execution)
    total = len(architectures) * asked.seeds
    go_on = f"give the same command again; what is trained is in {folder}."
    with shown("stand-alone", go_on, hidden=as_json, also_between=True) as show:
        results = stand_alone(
            architectures,
            plan,
            folder / "alone",
            on_progress=lambda index, progress: show(progress, f"{index + 1} of {total}"),
        )
        rows = compare(
            results, estimators, latency, folder, on_estimate=lambda name, done: show.bar.name(f"{name} {done}", "")
        )
    found = write_ranking(rows, architectures, folder, names[0])
    if as_json:
        print_json({"folder": str(folder), "agreement": {name: asdict(value) for name, value in found.items()}})
        return
    click.echo(f"{len(rows)} architectures of {space.name}, trained by themselves {asked.seeds} time(s):\n")
    click.echo(markdown_table(found))
    left_out = [name for name in estimators if name not in found]
    if left_out:
        click.echo(f"Left out, as they have no value for some architecture: {', '.join(left_out)}.")
    click.echo(f"\nTables and plots: {folder}")


def _name(path: Path, among: tuple[Path, ...]) -> str:
    if len(among) == 1:
        return "supernet"
    return f"supernet {(path if path.is_dir() else path.parent).name}"
