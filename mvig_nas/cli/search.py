"""`mvig-nas search`: the best-scoring architecture inside a budget."""

import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas import run_folder, values
from mvig_nas.cli.finalists import train_finalists
from mvig_nas.cli.generated import GroupedCommand, TitledOption, changes_of
from mvig_nas.cli.options import json_option, resumed_folder
from mvig_nas.cli.progress import Bar
from mvig_nas.finalists.request import FOLDER as FINALISTS_FOLDER
from mvig_nas.finalists.request import FinalistsRequest
from mvig_nas.scores.meaning import TRAIN
from mvig_nas.search.evaluators.resources import Resources
from mvig_nas.search.search_run import SearchRequest, run_search, saved_request

if TYPE_CHECKING:
    from mvig_nas.search import Progress, Study
    from mvig_nas.search.evaluators.tune_trainings import TrainingProgress
    from mvig_nas.search.search_run import SearchRun


@click.command(cls=GroupedCommand)
@changes_of(SearchRequest(), "changes", leave_out=("candidates_limit", "coverage", "labels"))
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    hidden=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, value: _renamed(ctx, value),
)
@click.option(
    "--out",
    cls=TitledOption,
    title="Run folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that the run is kept in.  [default: a new one in results/runs]",
)
@click.option(
    "--resume",
    cls=TitledOption,
    title="Run folder",
    is_flag=True,
    help="Go on with the search in --out. What it searches is taken from there; who computes scores and a time limit "
    "are given anew.",
)
@click.option(
    "--finalists",
    type=click.IntRange(2),
    metavar="COUNT",
    help="Best networks that are trained for real on --data when the search is over, as `mvig-nas finalists` does.",
)
@json_option()
@click.pass_context
def search(
    ctx: click.Context,
    /,
    changes: dict[str, Any],
    out: Path | None,
    resume: bool,
    finalists: int | None,
    as_json: bool,
) -> None:
    """Search for the best network inside a latency budget.

    By default the score is a training-free proxy, which orders networks and is no accuracy. The score of a supernet is
    the top-1 of its sub-networks on held-out training images. With --finalists the search ends with a measured top-1;
    --score train:PLAN measures one of every candidate, by a short training.
    """
    request = values.changed(saved_request(resumed_folder(out)) if resume else SearchRequest(), changes)
    if not request.settings.front and not request.budget.limits:
        raise click.UsageError("Give a budget, e.g. --latency-budget 1.0ms, or --front.")
    trains = request.score.startswith(TRAIN)
    of_ray = [name for name in changes.get("ray", {}) if name != "workers"]
    if request.evaluator == "local" and of_ray and not trains:
        option = values.option_at(SearchRequest, f"ray.{of_ray[0]}")
        raise click.UsageError(f"{option} must come with --evaluator ray; add it, or leave {option} out.", ctx)
    if finalists is not None and trains:
        raise click.UsageError(
            f"--finalists must not come with --score {request.score}, which trains every candidate; leave one out.",
            ctx,
        )
    if "max_epochs" in changes and finalists is None and not trains:
        raise click.UsageError("--max-epochs must come with --finalists or --score train:PLAN; add one of them.", ctx)
    if finalists is not None and request.data is None:
        raise click.UsageError("--finalists needs the images: --data FOLDER.", ctx)
    if finalists is not None and as_json:
        raise click.UsageError(
            "--finalists cannot print JSON after a search; leave --json out, or run `mvig-nas finalists RUN --json`.",
            ctx,
        )
    folder = out or run_folder.new_folder(request.name, request.settings.seed)
    # Ray tells of dead workers on standard output, which is for the result
    told: Any = nullcontext() if request.evaluator == "local" and not trains else redirect_stdout(sys.stderr)
    try:
        with told, Bar("scoring", "networks", hidden=as_json) as bar:
            shown = _Shown(bar)
            done = run_search(request, folder, resume=resume, on_candidate=shown, on_training=shown.training)
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; every scored candidate is saved. To go on: {_resume(request, folder)}", err=True)
        sys.exit(130)
    print_search(done, " ".join(["mvig-nas", *sys.argv[1:]]), as_json=as_json)
    if finalists is not None and request.data is not None:
        asked = FinalistsRequest(
            folder,
            request.data,
            finalists,
            max_epochs=request.max_epochs,
            skip_bad_images=request.skip_bad_images,
            seed=request.settings.seed,
        )
        train_finalists(asked, Resources(), resume=(folder / FINALISTS_FOLDER / run_folder.FILE).is_file())


def _renamed(ctx: click.Context, evaluator: str | None) -> None:
    """`--engine` is what `--evaluator` was called before; it goes with the next release."""
    if evaluator is not None:
        click.echo("--engine is now called --evaluator.", err=True)
        ctx.default_map = {**(ctx.default_map or {}), "evaluator": evaluator}


def _resume(request: SearchRequest, folder: Path) -> str:
    by_ray = "" if request.evaluator == "local" else " --evaluator ray"
    address = "" if request.ray.address is None else f" --address {request.ray.address}"
    workers = "" if request.ray.workers is None else f" --workers {request.ray.workers}"
    return f"mvig-nas search --resume --out {folder}{by_ray}{address}{workers}"


class _Shown:
    """Shows in a bar where a search stands: its rate and the best candidate so far."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, state: "Progress") -> None:
        if self._first is None:
            self._first = state.judged - 1
        rate = (state.judged - self._first) / max(time.monotonic() - self._began, 1e-3)
        best = "" if state.best is None else f", best {state.best.score:.3f} at {state.best.latency_ms:.3f} ms"
        self._bar.show(state.evaluated, state.evaluations, f"{state.judged} judged, {rate:.0f}/s{best}")

    def training(self, state: "TrainingProgress") -> None:
        """Show the last epoch that a candidate was trained."""
        epoch = f"{state.fingerprint[:8]} epoch {state.epoch}/{state.epochs}"
        self._bar.name("training", f"{epoch}: top-1 {state.top1:.1%}, best of this turn {state.best:.1%}")


def print_search(done: "SearchRun", command: str, *, as_json: bool) -> None:
    """Write the report of a search that `command` made, and print what was found."""
    from mvig_nas.cli.output import count, interval, print_json, print_table, say, say_skipped
    from mvig_nas.report import latency_note, outside_note, predictor_note, preset_rows, score_note, write_report
    from mvig_nas.report.search_report import score_values
    from mvig_nas.scores import meaning_of

    study, latency = done.study, done.latency
    presets = preset_rows(done)
    files = write_report(done, presets, command)
    winner, meaning = study.winner, meaning_of(done.score)
    outside = [] if winner is None else latency.outside([winner.architecture])[0]
    if as_json:
        print_json(
            {
                "winner": None if winner is None else winner.to_dict(),
                "unlike_measured": outside,
                **({} if winner is None else score_values(done, winner)),
                "presets": presets,
                "judged": study.judged,
                "evaluated": study.evaluated,
                "predictor_error": None if study.predictor_error is None else asdict(study.predictor_error),
                "seconds": done.seconds,
                "ended": study.ended,
                "folder": str(study.folder),
                "files": {name: str(path) for name, path in files.items()},
            }
        )
        return
    if study.folder is not None:
        say_skipped(study.folder)
    say(
        f"{study.judged} architectures judged by predicted latency, {study.evaluated} scored by {study.settings.score} "
        f"with {study.settings.sampler} in {done.seconds:.1f} s."
    )
    if winner is None or winner.interval_ms is None or winner.totals is None:
        say("No architecture inside the budget could be scored; see candidates.jsonl for the reasons.")
        return
    row = ["winner", meaning.shown(winner.score or 0.0), f"{winner.latency_ms:.3f}", interval(*winner.interval_ms)]
    rows = [[*row, count(winner.totals.parameters), count(winner.totals.macs)]]
    for preset in presets:
        name = preset["name"] if preset["is_within_budget"] else f"({preset['name']})"
        value = "-" if preset["score"] is None else meaning.shown(preset["score"])
        cells = [name, value, f"{preset['latency_ms']:.3f}", interval(*preset["interval_ms"])]
        rows.append([*cells, count(preset["parameters"]), count(preset["macs"])])
    heading = f"{'top-1' if meaning.is_top1 else 'score'} ({study.settings.score.partition(':')[0]})"
    print_table(
        f"Predicted for {study.settings.labels['device']}",
        ["architecture", heading, "ms", "80 % interval", "parameters", "MACs"],
        rows,
    )
    say(f"The winner is {winner.fingerprint}.")
    if (few := latency.predictor.few_rows) is not None:
        say(
            f"The predictor of this phone rests on {few} published row{'s' * (few != 1)} of its chip, so that its "
            "intervals are wide; measure some networks on a phone and fit your own: see `mvig-nas docs "
            "measuring_on_iphone`."
        )
    if not all(preset["is_within_budget"] for preset in presets):
        say("In brackets: not within the budget or the space, for comparison only.")
    if study.settings.front:
        click.echo(f"{len(study.front)} architectures on the front: {files['front']}")
    if study.predictor_error is not None:
        say(predictor_note(study.predictor_error))
    say(f"{score_note(done)} {latency_note(latency)}")
    if latency.backbone_side is None:
        say(
            f"Parameters and MACs are counted as in papers, with both classifiers of {latency.num_classes:,} classes; "
            "export merges the two, and the milliseconds are of the merged one."
        )
    else:
        say("Parameters and MACs are those of the backbone at this size, without classifiers.")
    if outside:
        click.echo(f"warning: the winner is {outside_note(latency.predictor.device, outside)}", err=True)
    click.echo(f"Report: {files['report']}")
    _say_next(study, files["winner"], latency.backbone_side)


def _say_next(study: "Study", winner: Path, side: int | None) -> None:
    """Print the commands that go on from a search."""
    images = study.settings.labels.get("data", "IMAGES")
    # candidates of train:PLAN are trained already
    finalists = [f"finalists {study.folder} --data {images}    to measure the top-1 of the best networks"]
    steps = [] if study.settings.score.startswith(TRAIN) else finalists
    steps.append(f"retrain {winner} --data {images}    to train this one")
    if side is None:
        steps.append(f"export {winner}    for timing on a phone, as its weights are random")
    else:
        steps.append(f"describe {winner} --features {side}    for its feature maps")
        steps.append("docs dense_prediction    to train a detector or segmenter on it")
    for number, step in enumerate(steps):
        click.echo(f"{'      ' if number else 'Next: '}mvig-nas {step}")
