"""`mvig-nas teacher`: a network to learn from, fine-tuned on one's own images."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas import recipes, run_folder, values
from mvig_nas.cli.generated import GroupedCommand, changes_of, is_given
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
from mvig_nas.recipes import Recipe, TeacherPlan

if TYPE_CHECKING:
    from mvig_nas.training import TeacherRequest


@click.group()
def teacher() -> None:
    """Fine-tune a network to learn from on the images that another one is to be trained on."""


@teacher.command(cls=GroupedCommand)
@click.argument("network", metavar="timm:NAME|FOLDER", required=False)
@run_options()
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME|FILE.toml",
    help="Training recipe that the options below change.  [default: teacher-head, or with --whole teacher-whole]",
)
@changes_of(
    {"plan": TeacherPlan, "recipe": Recipe, "execution": EXECUTION}, leave_out=("layer_scale_init", *NO_OPTIONS)
)
@json_option()
def fit(network: str | None, out: Path | None, resume: bool, as_json: bool, **asked: Any) -> None:
    """Train the last layer of timm:NAME, or all of it, on the images in --data.

    The run's `model` is a folder that timm loads and that knows the images' classes by name: give the run's folder to
    `mvig-nas retrain ARCH --teacher FOLDER`.
    """
    from mvig_nas.cli.output import print_json, say_skipped, with_error
    from mvig_nas.training import TeacherRequest, fit_teacher

    saved = saved_request(out, "teacher fit", TeacherRequest) if resume else None
    request = _request(saved, network, resume, **asked)
    folder = out or run_folder.new_folder(f"teacher-{Path(request.network).name}", request.recipe.seed)
    with shown("teacher", f"mvig-nas teacher fit --resume --out {folder}", hidden=as_json) as show:
        done = fit_teacher(request, folder, on_progress=show)
    if not is_first():
        return
    if as_json:
        print_json(values.plain(asdict(done)))
        return
    say_skipped(folder)
    click.echo(f"Top-1 {with_error(done.top1, done.images)} for validation, after {done.seconds:.0f} s: {done.model}")
    click.echo(f"Next: mvig-nas retrain ARCH --data {request.data} --teacher {folder}")


def _request(
    saved: "TeacherRequest | None",
    network: str | None,
    resume: bool,
    *,
    data: Path | None,
    recipe_name: str | None,
    changes: dict[str, Any],
) -> "TeacherRequest":
    """What is asked for: as the resumed run was, with what is given changed."""
    from mvig_nas.training import TeacherRequest
    from mvig_nas.training.teacher_fitting import RECIPES

    plan = values.changed(saved.plan if saved else TeacherPlan(), changes.get("plan", {}))
    of_recipe = changes.get("recipe", {})
    if saved and not is_given(click.get_current_context(), "recipe_name"):
        recipe = recipes.changed(values.plain(saved.recipe), of_recipe)
    else:
        recipe = recipes.for_processes(recipes.load(recipe_name or RECIPES[plan.whole], of_recipe), processes())
    return TeacherRequest(
        needed(network, saved.network if saved else None, "a network, timm:NAME", resume),
        needed(data, saved.data if saved else None, "--data", resume),
        recipe,
        plan,
        execution_of(saved.execution if saved else None, changes, resume),
    )
