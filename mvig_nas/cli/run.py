"""`mvig-nas run`: from a folder of images to a Core ML package, in one command."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import GroupedCommand, changes_of
from mvig_nas.cli.options import json_option, resumed_folder
from mvig_nas.cli.output import print_json, print_table, say
from mvig_nas.cli.progress import Bar
from mvig_nas.pipeline import RunRequest

if TYPE_CHECKING:
    from mvig_nas.pipeline import RunPlan, RunResult, StepShown


@click.command(cls=GroupedCommand)
@click.argument("images", type=click.Path(path_type=Path, exists=True, file_okay=False))
@changes_of(RunRequest, "changes", title="What is wanted", leave_out=("images",))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder; a new one if left out.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; options not given are its own.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its times, and stop before the search.")
@json_option()
@click.pass_context
def run(
    ctx: click.Context,
    /,
    images: Path,
    changes: dict[str, Any],
    out: Path | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Find, train and export a network that tells apart the classes of IMAGES and fits a latency budget.

    IMAGES holds a folder of images for each class, which is split once, or `train` and `val` with such folders. The
    steps are those of `search`, `finalists`, `retrain` and `export`; how many epochs they take follows from --hours.
    """
    from mvig_nas import pipeline, run_folder, values
    from mvig_nas.pipeline.whole_run import COMMAND
    from mvig_nas.training import StopTraining

    if resume:
        saved = run_folder.reopen(resumed_folder(out), COMMAND, RunRequest)
        request = replace(values.changed(saved, changes), images=images)
    elif "latency_ms" not in changes:
        raise click.UsageError("a run needs a budget: --latency-budget 1.0ms.", ctx)
    else:
        request = RunRequest(images, **changes)
    folder = out or run_folder.new_folder(images.resolve().name, request.seed)
    again = shlex.join(["mvig-nas", "run", str(images), "--out", str(folder), "--resume"])
    try:
        with Bar("images", "images", hidden=as_json) as bar:
            if dry_run:
                with TemporaryDirectory() as scratch:
                    plan = pipeline.prepare(request, Path(scratch), on_step=_Shown(bar))
                if as_json:
                    print_json(values.plain(plan))
                else:
                    _print_plan(request, plan)
                return
            result = pipeline.run(
                request,
                folder,
                resume=resume,
                on_plan=None if as_json else lambda plan: _print_plan(request, plan),
                on_step=_Shown(bar),
                command=shlex.join(["mvig-nas", *sys.argv[1:]]),
            )
    except (KeyboardInterrupt, StopTraining):
        click.echo(
            f"\nstopped; every finished step and the training's state are in {folder}. To go on: {again}", err=True
        )
        sys.exit(130)
    if as_json:
        print_json(values.plain(result))
        return
    _print_result(result, folder)


class _Shown:
    """Draws the bar of the step that a run is at; news stay as lines."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def __call__(self, state: "StepShown") -> None:
        if state.is_news:
            self._bar.line(state.text)
            return
        self._bar.show(state.done, state.total, state.text, state.step, state.counted)


def _print_plan(request: RunRequest, plan: "RunPlan") -> None:
    what = {
        "search": f"space {plan.space}, {request.latency_ms:g} ms on {request.device}, {plan.evaluations} scores",
        "finalists": plan.finalists_told,
        "retrain": plan.training,
        "export": "Core ML package, verified",
    }
    rows = [[name, text, _minutes(plan.seconds[name])] for name, text in what.items()]
    speed = plan.speed
    print_table(
        f"Plan for {request.hours:g} hours, at {speed.images_per_second:.0f} images/s of {speed.resolution} pixels on "
        f"this {'GPU' if speed.is_gpu else 'CPU'}",
        ["step", "what", "minutes"],
        rows,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f}" if seconds >= 60 else f"{seconds / 60:.1f}"


def _print_result(result: "RunResult", folder: Path) -> None:
    low, high = result.interval_ms
    say(
        f"Top-1: {result.top1:.1%} ± {result.top1_standard_error:.1%} (standard error) on {result.val_images:,} images "
        f"that no step chose by, {len(result.classes)} classes"
    )
    say(
        f"Latency: {result.latency_ms:.3f} ms predicted on {result.device}, 80 % interval {low:.2f}-{high:.2f} ms; not "
        "measured"
    )
    click.echo(f"Package: {result.package}, {result.operations} operations, verified")
    click.echo(f"Report: {folder / 'report.html'}")
    click.echo(f"Next: open {result.package} in Xcode; `mvig-nas docs quickstart_app` prints the Swift code.")
