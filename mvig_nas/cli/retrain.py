"""`mvig-nas retrain`: a found architecture trained for good."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas import recipes, run_folder, values
from mvig_nas.cli.generated import GroupedCommand, changes_of, is_given
from mvig_nas.cli.names import Name
from mvig_nas.cli.options import json_option
from mvig_nas.cli.training_options import (
    EXECUTION,
    NO_OPTIONS,
    execution_of,
    is_first,
    needed,
    processes,
    run_options,
    saved_request,
    shown,
)
from mvig_nas.recipes import Plan, Sources

if TYPE_CHECKING:
    from mvig_nas.training import Retrained, RetrainRequest


@click.command(cls=GroupedCommand)
@click.argument("target", metavar="ARCH|MODEL", required=False)
@run_options()
@click.option("--plan", "plan_name", default="mobilevig-300ep", show_default=True, metavar="NAME|FILE.toml",
    type=Name("plan"), help=Name("plan").help("Training plan that the options below change."))  # fmt: skip
@click.option(
    "--resolution",
    type=click.IntRange(32),
    help="Side of the training images in pixels, in place of the architecture's.",
)
@changes_of({"plan": Plan, "sources": Sources, "execution": EXECUTION}, leave_out=("from_supernet", *NO_OPTIONS))
@json_option()
def retrain(target: str | None, out: Path | None, resume: bool, as_json: bool, **asked: Any) -> None:
    """Train ARCH (a preset, or JSON such as a run's winner.json) by itself, with a teacher, on the images in --data.

    A MODEL, a folder that this command or timm left, is trained on, with new classifiers where the classes are others.
    With --from, ARCH begins with what it has in common with another network. The run's `model` then holds config.json
    and model.safetensors, which timm, `mvig-nas evaluate` and `mvig-nas export` read; `best` the same, after the epoch
    with the highest top-1. On several GPUs:
    torchrun --nproc-per-node 8 -m mvig_nas retrain ...
    """
    from mvig_nas.training import RetrainRequest
    from mvig_nas.training import retrain as run

    saved = saved_request(out, "retrain", RetrainRequest) if resume else None
    request = _request(saved, target, resume, **asked)
    folder = out or run_folder.new_folder(Path(target or "").stem, request.plan.recipe.seed)
    with shown("training", f"mvig-nas retrain --resume --out {folder}", hidden=as_json) as show:
        done = run(request, folder, on_progress=show)
    if is_first():
        _print(done, request.data, as_json)


def _request(
    saved: "RetrainRequest | None",
    target: str | None,
    resume: bool,
    *,
    data: Path | None,
    plan_name: str,
    resolution: int | None,
    changes: dict[str, Any],
) -> "RetrainRequest":
    """What is asked for: as the resumed run was, with what is given changed."""
    from dataclasses import replace

    from mvig_nas.architecture import Architecture
    from mvig_nas.training import RetrainRequest
    from mvig_nas.training.model_folder import read_model

    sources = values.changed(saved.sources if saved else Sources(), changes.get("sources", {}))
    given = None
    if target is not None and Path(target).is_dir():
        given = read_model(Path(target)).network.architecture
        if "from_model" not in changes.get("sources", {}):
            sources = replace(sources, from_model=Path(target))
    elif target is not None:
        given = Architecture.load(target)
    architecture = needed(given, saved.architecture if saved else None, "an architecture", resume)
    if resolution is not None:
        architecture = replace(architecture, resolution=resolution)
    of_plan = changes.get("plan", {})
    recipe, taught = of_plan.get("recipe", {}), dict(of_plan.get("distillation", {}))
    if "teacher" in of_plan:
        taught["teacher"] = of_plan["teacher"]
    if saved and not is_given(click.get_current_context(), "plan_name"):
        plan = recipes.changed_plan(saved.plan.to_dict(), recipe, taught)
    else:
        plan = recipes.load_plan(plan_name, recipe, taught)
    if saved is None:
        plan = replace(plan, recipe=recipes.for_processes(plan.recipe, processes()))
    images = needed(data, saved.data if saved else None, "--data", resume)
    return RetrainRequest(
        architecture, images, plan, sources, execution_of(saved.execution if saved else None, changes, resume)
    )


def _print(done: "Retrained", data: Path, as_json: bool) -> None:
    from mvig_nas.cli.evaluate import accuracy_rows
    from mvig_nas.cli.output import print_json, print_table, say_skipped
    from mvig_nas.training.accuracy import shares

    if as_json:
        print_json({"model": str(done.model), "accuracy": shares(done.accuracy), "seconds": done.seconds})
        return
    say_skipped(done.model.parent)
    title = f"Trained in {done.seconds:.0f} s; on the validation images"
    print_table(title, ["", "top-1", "top-5"], accuracy_rows(done.accuracy))
    click.echo(f"Next: mvig-nas evaluate {done.model} --data {data}")
    click.echo(f"      mvig-nas export {done.model} --out model.mlpackage")
