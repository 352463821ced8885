"""`mvig-nas predictor`: latency predictors for one's own device, from its log."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.generated import options_of
from mvig_nas.cli.options import json_option
from mvig_nas.latency.card import EvaluateRequest, FitRequest

if TYPE_CHECKING:
    from mvig_nas.latency import LatencyPredictor

_LOGS = click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOG...")


@click.group()
def predictor() -> None:
    """Fit a latency predictor to the log of a device, evaluate it, or show it."""


@predictor.command()
@_LOGS
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="FOLDER",
    help="Write the predictor and its card into this new folder; other commands take it as --device.",
)  # fmt: skip
@options_of(FitRequest, "request")
@json_option()
def fit(logs: tuple[Path, ...], out: Path, request: FitRequest, as_json: bool) -> None:
    """Fit a predictor to the rows of LOGs, all of one device, and write it with its card."""
    from mvig_nas.cli.output import print_json
    from mvig_nas.latency.card import fit_log, read_logs
    from mvig_nas.latency.held_out import OWN
    from mvig_nas.values import without_nan

    log = read_logs(logs)
    card = fit_log(log, out, request)
    own = card["evaluation"]["figures"][OWN]
    if as_json:
        print_json({"folder": str(out), "figures": without_nan(own), "wild_rows": card["wild_rows"]})
        return
    for warning in log.warnings:
        click.echo(f"warning: {warning}", err=True)
    for row in card["wild_rows"]:
        click.echo(
            f"does not fit the others: {row['place'] or row['network']}, {row['latency_ms']:.4g} ms where "
            f"{row['expected_ms']:.4g} is expected; its weight was lowered",
            err=True,
        )
    click.echo(
        f"{out}: {len(log.rows)} rows of {len(log.networks)} networks; of networks left out, "
        f"{own['within_10_percent']:.0%} within 10 %, median error {own['median_error']:.1%}, Spearman "
        f"{own['spearman']:.3f}."
    )
    click.echo(f"Next: mvig-nas predictor show {out}, or --device {out} with search and describe")


@predictor.command()
@_LOGS
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Write evaluation.json, evaluation.md, calibration.png and learning_curve.png into this folder.",
)  # fmt: skip
@options_of(EvaluateRequest, "request")
@json_option()
def evaluate(logs: tuple[Path, ...], out: Path | None, request: EvaluateRequest, as_json: bool) -> None:
    """Cross-validate a fit to the rows of LOGs, beside a look-up table and a support vector machine."""
    from mvig_nas.cli.output import print_json, print_markdown
    from mvig_nas.files import make_folder, save
    from mvig_nas.latency.card import evaluate_log, evaluation_lines, read_logs
    from mvig_nas.report.figures import calibration_png, learning_curve_png
    from mvig_nas.values import without_nan

    log = read_logs(logs)
    found, answers = evaluate_log(log, request)
    evaluation, text = without_nan(found), "\n".join(evaluation_lines(found))
    if out is not None:
        make_folder(out)
        save(out / "evaluation.json", json.dumps(evaluation, indent=1) + "\n")
        save(out / "evaluation.md", text)
        save(out / "calibration.png", calibration_png(log.latencies_ms, answers, log.device_key.name))
        save(out / "learning_curve.png", learning_curve_png(evaluation["learning_curve"]))
    if as_json:
        print_json(evaluation)
        return
    print_markdown(text)
    if out is not None:
        click.echo(f"Figures and plots in {out}.")


@predictor.command()
@click.argument("name", metavar="FOLDER|DEVICE")
@json_option()
def show(name: str, as_json: bool) -> None:
    """Print the card of a predictor, given by the FOLDER of a fitted one or by the name of a shipped DEVICE."""
    from mvig_nas import shipped
    from mvig_nas.cli.output import print_json, print_markdown
    from mvig_nas.latency import LatencyPredictor, chip_of
    from mvig_nas.latency.card import read_card, to_markdown

    folder = shipped.predictor_folder(name)
    loaded = LatencyPredictor.load(folder)
    card: dict[str, Any] | None = read_card(folder)
    chip = chip_of(loaded.device)
    if as_json:
        figures = {"measurements": loaded.measurements_, "errors": loaded.errors_}
        print_json(card or {"device": loaded.device, "chip": chip, **figures})
    elif card is not None:
        print_markdown(to_markdown(card))
    else:
        _print_shipped(loaded, chip)


def _print_shipped(predictor: "LatencyPredictor", chip: str) -> None:
    from mvig_nas.cli.output import print_table, say

    errors = predictor.errors_
    figures = {
        "rows measured": ("measurements", "{:,.0f}"),
        "median error of networks left out": ("median_error", "{:.1%}"),
        "the same, of a new laboratory": ("median_error_unknown_laboratory", "{:.1%}"),
        "mean error": ("mean_error", "{:.1%}"),
        "inside the 80 % interval": ("coverage80", "{:.1%}"),
        "rank correlation": ("spearman", "{:.3f}"),
    }
    rows = [
        [title, *(shown.format(errors[key]) if key in errors else "" for key in (name, f"all_{name}"))]
        for title, (name, shown) in figures.items()
    ]
    print_table(
        f"Latency predictor for {predictor.device} ({chip})",
        ["", predictor.device, "all devices"],
        [row for row in rows if any(row[1:])],
    )
    counts = ", ".join(f"{count:,} of {device}" for device, count in predictor.measurements_.items())
    say(f"It was fitted to these rows: {counts}. Each family of networks was left out in turn for the errors.")
