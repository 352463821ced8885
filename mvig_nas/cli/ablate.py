"""`mvig-nas ablate`: run an experiment, a grid of changes to one network."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import GroupedCommand, changes_of
from mvig_nas.cli.options import data_option, json_option, resumed_folder
from mvig_nas.cli.output import print_json, print_table
from mvig_nas.cli.progress import Bar
from mvig_nas.cli.training_options import NO_OPTIONS, OF_SINGLE_NETWORKS
from mvig_nas.experiments import AblateRequest
from mvig_nas.experiments.ablate_request import EXECUTION

if TYPE_CHECKING:
    from mvig_nas.experiments import Ablation, AblationProgress
    from mvig_nas.experiments.ablation import Prepared


@click.command(cls=GroupedCommand)
@click.argument("experiment", metavar="NAME|FILE.toml")
@data_option(required=False)
@changes_of(
    AblateRequest, "changes", leave_out=("experiment", "data", "skip_bad_images", *OF_SINGLE_NETWORKS, *NO_OPTIONS)
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder; a new one if left out.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; options not given are its own.")
@click.option("--dry-run", is_flag=True, help="Print the cells and how their widths are adjusted, and run nothing.")
@json_option()
def ablate(
    experiment: str,
    data: Path | None,
    changes: dict[str, Any],
    out: Path | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure what each of an experiment's changes to a network costs, and train the cells if there is a plan for it.

    An experiment is one that ships (svga-vs-knn, graph-step, ...) or a TOML file; `mvig-nas docs experiments` has both.
    """
    from mvig_nas import experiments, run_folder, values
    from mvig_nas.experiments.ablation import COMMAND
    from mvig_nas.experiments.experiment_report import write_experiment
    from mvig_nas.training import StopTraining

    loaded = experiments.Experiment.load(experiment)
    asked: dict[str, Any] = {"data": data, **changes}
    if resume:
        saved = run_folder.reopen(resumed_folder(out), COMMAND, AblateRequest)
        request = values.changed(replace(saved, experiment=loaded, data=data or saved.data), changes)
    else:
        request = AblateRequest(loaded, **{**asked, "execution": values.changed(EXECUTION, asked.get("execution", {}))})
    if dry_run:
        _print_cells(experiments.prepare(request), request)
        return
    folder = out or run_folder.new_folder(loaded.name, 0)
    again = shlex.join(["mvig-nas", "ablate", experiment, "--out", str(folder), "--resume"])
    try:
        with Bar("cells", "parts", hidden=as_json) as bar:
            found = experiments.ablate(request, folder, resume=resume, on_progress=_Shown(bar))
    except (KeyboardInterrupt, StopTraining):
        click.echo(f"\nstopped; every finished training is in {folder}. To go on: {again}", err=True)
        sys.exit(130)
    write_experiment(found, folder, shlex.join(["mvig-nas", *sys.argv[1:]]))
    if as_json:
        print_json(found.to_dict())
        return
    _print(found)
    click.echo(f"Report: {folder / 'report.html'}; all figures: {folder / 'summary.json'}")


class _Shown:
    """Draws the bar of the step that an experiment is at."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def __call__(self, state: "AblationProgress") -> None:
        self._bar.show(state.done, state.total, state.text, state.step, state.counted)


def _print_cells(prepared: "Prepared", request: AblateRequest) -> None:
    rows = []
    for cell in prepared.cells:
        ratio = "" if cell.matched is None else f"{cell.matched - 1:+.1%}"
        rows.append([cell.name, cell.architecture.fingerprint, cell.adjustment or "as they are", ratio])
    fronts = request.experiment.fronts
    searches = 0 if fronts is None else len(fronts.budgets)
    trainings = 0 if prepared.training is None else (len(rows) + searches) * len(prepared.training.seeds)
    dense = request.experiment.dense
    for cell in prepared.dense:
        rows.append([f"{cell.name} (dense)", cell.architecture.fingerprint, cell.adjustment or "as they are", ""])
    if prepared.dense and dense is not None:
        trainings += len(prepared.dense) * (request.seeds or dense.seeds)
    print_table(
        f"{len(rows)} cells of {request.experiment.name}, "
        + (f"{searches} searches, whose winners are cells, " if searches else "")
        + f"{trainings} trainings",
        ["cell", "architecture", "widths", "from the reference"],
        rows,
    )


def _print(found: "Ablation") -> None:
    from mvig_nas.experiments.experiment_report import (
        DENSE_COLUMNS,
        FRONT_COLUMNS,
        FRONTS_NOTE,
        columns_of,
        dense_rows,
        front_rows,
        operator_columns,
        operator_rows,
        outside_notes,
        row_of,
    )

    click.echo(f"{found.experiment.question}\n")
    if found.results:
        print_table(
            f"{len(found.results)} cells, predicted for {found.device}, compared with "
            f"{found.experiment.reference_name!r}",
            columns_of(found),
            [row_of(found, each) for each in found.results],
        )
    if found.operators:
        print_table("Operators alone, on this computer", operator_columns(found), operator_rows(found))
    if found.fronts:
        print_table("The best network within each budget", list(FRONT_COLUMNS), front_rows(found))
        click.echo(FRONTS_NOTE)
    if found.dense:
        print_table("Segmentation of shapes at equal MACs", list(DENSE_COLUMNS), dense_rows(found))
    for note in outside_notes(found):
        click.echo(f"* {note}")
    for sentence in found.findings:
        click.echo(f"- {sentence}")
