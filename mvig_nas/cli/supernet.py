"""`mvig-nas supernet`: train one set of weights for a whole space, and check its ranking."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas import recipes, run_folder, values
from mvig_nas.cli.generated import GroupedCommand, changes_of, is_given, options_of
from mvig_nas.cli.names import Name
from mvig_nas.cli.options import json_option, space_option
from mvig_nas.cli.training_options import (
    EXECUTION,
    NO_OPTIONS,
    OF_SINGLE_NETWORKS,
    execution_of,
    is_first,
    needed,
    processes,
    run_options,
    saved_request,
    shown,
)
from mvig_nas.ranking import RankRequest
from mvig_nas.recipes import Execution, Recipe, Sources, SupernetPlan

if TYPE_CHECKING:
    from mvig_nas.training import SupernetRequest

_OF_RETRAINING = ("repeats", "teacher_resolution", "teacher_cache", "unlabelled", "from_supernet", "from_model")


@click.group()
def supernet() -> None:
    """Train one network whose slices are all networks of a space, and check how it ranks them."""


@supernet.command(cls=GroupedCommand)
@space_option()
@run_options()
@click.option("--recipe", "recipe_name", default="small", show_default=True, metavar="NAME|FILE.toml",
    type=Name("plan"), help=Name("plan").help("Training recipe that the options below change."))  # fmt: skip
@changes_of(
    {"recipe": Recipe, "plan": SupernetPlan(), "sources": Sources, "execution": EXECUTION},
    leave_out=(*_OF_RETRAINING, *OF_SINGLE_NETWORKS, *NO_OPTIONS),
)
def train(out: Path | None, resume: bool, **asked: Any) -> None:
    """Train a supernet on the images in --data.

    Part of the training images is held out, for choosing sub-networks later. On several GPUs:
    torchrun --nproc-per-node 8 -m mvig_nas supernet train ...
    """
    from mvig_nas.cli.output import say_skipped
    from mvig_nas.training import SupernetRequest, run_supernet_training

    saved = saved_request(out, "supernet train", SupernetRequest) if resume else None
    request = _request(saved, resume, **asked)
    folder = out or run_folder.new_folder(f"supernet-{request.space.name}", request.recipe.seed)
    with shown("supernet", f"mvig-nas supernet train --resume --out {folder}") as show:
        outcome = run_supernet_training(request, folder, on_progress=show)
    if is_first():
        for rollback in outcome.rollbacks:
            click.echo(f"Step {rollback.step} diverged and was left out; its loss was {rollback.loss:.3g}.")
        say_skipped(folder)
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
        recipe = recipes.for_processes(recipes.load(recipe_name, of_recipe), processes())
    return SupernetRequest(
        saved.space if saved and not is_given(ctx, "space") else SearchSpace.load(space),
        needed(data, saved.data if saved else None, "--data", resume),
        recipe,
        values.changed(saved.plan if saved else SupernetPlan(), changes.get("plan", {})),
        values.changed(saved.sources if saved else Sources(), changes.get("sources", {})),
        execution_of(saved.execution if saved else None, changes, resume),
    )


@supernet.command(cls=GroupedCommand)
@click.argument("supernets", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SUPERNET...")
@options_of(RankRequest, "request", leave_out=("supernets",))
@options_of(EXECUTION, leave_out=(*OF_SINGLE_NETWORKS, *NO_OPTIONS))
@json_option()
def rank(supernets: tuple[Path, ...], request: RankRequest, as_json: bool, execution: Execution) -> None:
    """Train architectures one by one, and compare how SUPERNET and all proxies rank them.

    Every finished training is kept in --out, so the command can be stopped and given again; two of them at once share
    the work. The recipe and the space are the first supernet's.
    """
    from mvig_nas.cli.output import print_json, print_markdown, say_skipped
    from mvig_nas.ranking import markdown_table, rank_networks

    request = replace(request, supernets=supernets)
    go_on = f"give the same command again; what is trained is in {request.folder}."
    with shown("stand-alone", go_on, hidden=as_json) as show:
        ranking = rank_networks(
            request,
            execution,
            on_progress=lambda which, progress: show(progress, which),
            on_estimate=lambda name, done: show.bar.name(f"{name} {done}", ""),
        )
    if as_json:
        agreements = {name: asdict(value) for name, value in ranking.agreements.items()}
        ceiling = None if ranking.ceiling is None else asdict(ranking.ceiling)
        print_json({"folder": str(request.folder), "agreement": agreements, "seed_ceiling": ceiling})
        return
    say_skipped(request.folder)
    count = len(ranking.rows)
    click.echo(f"{count} architectures of {ranking.space}, each trained by itself {request.seeds} time(s):\n")
    print_markdown(markdown_table(ranking.agreements))
    if ranking.ceiling is not None:
        tau = ranking.ceiling
        click.echo(
            f"Two trainings of each network rank them with a tau of {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]; "
            "no estimate can be expected to do better."
        )
    if ranking.left_out:
        click.echo(f"Left out, as they have no value for some architecture: {', '.join(ranking.left_out)}.")
    click.echo(f"\nTables and plots: {request.folder}")
    if ranking.calibrated is not None and ranking.calibrated.left_out is not None:
        error = ranking.calibrated.left_out
        click.echo(
            f"Calibrated score: predicts top-1 of networks left out to {100 * error.mean_error:.1f} points on average, "
            f"with Kendall's tau {error.tau:.2f}."
        )
        click.echo(
            f"Next: mvig-nas search --space {ranking.space} --score calibrated:{request.folder} --data {request.data}"
        )
