"""`mvig-nas finalists`: train the best architectures of a search briefly, and take the most accurate one."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import GroupedCommand, changes_of, options_of
from mvig_nas.cli.options import data_option, json_option
from mvig_nas.cli.output import print_json, print_table, say, say_skipped
from mvig_nas.cli.progress import Bar
from mvig_nas.finalists import FinalistsRequest
from mvig_nas.finalists.request import COMMAND, FOLDER
from mvig_nas.search.evaluators.resources import Resources

if TYPE_CHECKING:
    from mvig_nas.finalists import Finalists
    from mvig_nas.search.evaluators.tune_trainings import TrainingProgress


@click.command(cls=GroupedCommand)
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@data_option()
@changes_of(FinalistsRequest, "changes", title="Finalists", leave_out=("run", "data"))
@options_of(Resources, title="Ray")
@click.option("--resume", is_flag=True, help="Go on with the finalists of RUN; options not given are theirs.")
@json_option()
def finalists(
    run: Path, data: Path, changes: dict[str, Any], resources: Resources, resume: bool, as_json: bool
) -> None:
    """Train the best candidates of the search in RUN for real, and pick the winner by measured top-1.

    The trainings are trials of Ray Tune, and its scheduler ASHA stops the weak ones early. Top-1 is measured on
    training images that are held out, so the validation images stay unseen. Everything is kept in RUN/finalists.
    """
    from mvig_nas import run_folder, values

    request = FinalistsRequest(run, data)
    if resume:
        saved = run_folder.reopen(run / FOLDER, COMMAND, FinalistsRequest)
        request = replace(saved, run=run, data=data)
    train_finalists(values.changed(request, changes), resources, resume=resume, as_json=as_json)


def train_finalists(
    request: FinalistsRequest, resources: Resources, *, resume: bool = False, as_json: bool = False
) -> None:
    """Train the finalists under a bar, and print what came of them."""
    from mvig_nas.finalists.tournament import hold

    run, data = request.run, request.data
    try:
        with Bar("finalists", "epochs", hidden=as_json) as bar:
            found = hold(request, resources, resume=resume, on_progress=_Shown(bar))
    except KeyboardInterrupt:
        click.echo(
            f"\nstopped; what is trained is in {run / FOLDER}. To go on: mvig-nas finalists {run} --data {data} "
            "--resume",
            err=True,
        )
        sys.exit(130)
    if as_json:
        print_json(found.to_dict())
        return
    say_skipped(run / FOLDER)
    _print(found)
    winner = run / FOLDER / "winner.json"
    click.echo(f"Winner: {winner}; learning curves: {run / FOLDER / 'learning_curves.png'}")
    click.echo(f"Next: mvig-nas retrain {winner} --data {data}")


class _Shown:
    """Draws the bar: epochs of all trainings that have been reported, and the best top-1."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._epochs: dict[str, int] = {}

    def __call__(self, progress: "TrainingProgress") -> None:
        self._epochs[progress.fingerprint] = progress.epoch
        done = f"{progress.done} of {progress.total} trainings ended, best top-1 {progress.best:.1%}"
        self._bar.show(sum(self._epochs.values()), progress.total * progress.epochs, done)


def _print(found: "Finalists") -> None:
    rows = []
    for row in found.rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.1%}"
        behind = found.difference(row)
        verdict = {"stopped": "stopped", "failed": row.reason or "failed"}.get(row.state, "")
        if row is found.winner:
            verdict = "winner"
        elif behind is not None:
            verdict = f"{-100 * behind[0]:+.1f} ± {100 * behind[1]:.1f}"
            verdict += "" if found.is_distinguishable(row) else " (not told apart)"
        rank = "-" if row.score_rank is None else str(row.score_rank)
        rows.append([row.architecture.fingerprint, rank, str(row.epochs), top1, f"{row.latency_ms:.3f}", verdict])
    print_table(
        f"{len(found.rows)} finalists, ordered by top-1 on {found.images:,} held-out images",
        ["architecture", f"rank by {found.score_name.partition(':')[0]}", "epochs", "top-1", "ms", "to the winner"],
        rows,
    )
    winner = found.winner
    say(
        f"The winner's top-1 is {winner.top1:.1%} ± {found.standard_error(winner):.1%} (standard error) on the "
        f"held-out images, after {winner.epochs} epochs of training. As the best of several it is a little too high."
    )
