"""`mvig-nas predictor`: latency predictors for one's own device, from its log."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvig_nas.cli.options import json_option, seed_option

if TYPE_CHECKING:
    from mvig_nas.device_log import DeviceLog
    from mvig_nas.latency import LatencyPredictor

_LOGS = click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOG...")
_START = click.option(
    "--start-from",
    metavar="NAME|FOLDER",
    help="Start the fit from this predictor: a shipped phone by name, or the folder of a fitted one. By default the "
    "fit starts from what is known of any device.",
)
_FOLDS = click.option(
    "--k-fold",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Number of parts that the networks are dealt into; each part is predicted by a fit to the others.",
)


@click.group()
def predictor() -> None:
    """Fit a latency predictor to the log of a device, evaluate it, or show it."""


@predictor.command()
@_LOGS
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="FOLDER",
    help="Write the predictor and its card into this new folder; other commands take it as --device.",
)  # fmt: skip
@_START
@_FOLDS
@seed_option()
@json_option()
def fit(logs: tuple[Path, ...], out: Path, start_from: str | None, k_fold: int, seed: int, as_json: bool) -> None:
    """Fit a predictor to the rows of LOGs, all of one device, and write it with its card."""
    from mvig_nas.cli.output import print_json
    from mvig_nas.errors import MvigNasError
    from mvig_nas.latency.card import card, evaluate, plain, rows_of, wild_rows, write_card
    from mvig_nas.latency.held_out import OWN, folds
    from mvig_nas.latency.latency_predictor import fit_device

    if (out / "predictor.json").exists():
        raise MvigNasError(f"a predictor is never overwritten, and {out} holds one; take another folder.")
    log = _read(logs)
    rows = rows_of(log)
    start = _start(start_from)
    fitted = fit_device(rows.kernels, rows.latencies_ms, rows.group, start=start, families=rows.families, seed=seed)
    evaluation, _ = evaluate(rows, folds(rows, k_fold, seed), start, seed=seed, how=f"{k_fold}-fold")
    values = card(log, fitted, evaluation)
    own = evaluation["figures"][OWN]
    fitted.predictor.errors_ = {
        "measurements": len(log.rows),
        "median_error": own["median_error"],
        "mean_error": own["mape"],
        "spearman": own["spearman"],
        "coverage80": own["interval_coverage_80"],
    }
    fitted.predictor.save(out)
    write_card(out, values)
    if as_json:
        print_json({"folder": str(out), "figures": plain(own), "wild_rows": wild_rows(log, fitted)})
        return
    for warning in log.warnings:
        click.echo(f"warning: {warning}", err=True)
    _print_wild(values["wild_rows"])
    click.echo(
        f"{out}: {len(log.rows)} rows of {len(log.networks)} networks; of networks left out, "
        f"{own['within_10_percent']:.0%} within 10 %, median error {own['median_error']:.1%}, Spearman "
        f"{own['spearman']:.3f}."
    )
    click.echo(f"Next: mvig-nas predictor show {out}, or --device {out} with search and describe")


@predictor.command()
@_LOGS
@_START
@_FOLDS
@click.option(
    "--by", type=click.Choice(["network", "family"]), default="network", show_default=True,
    help="Leave out one part of --k-fold at a time, or one whole family of networks at a time.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Write evaluation.json, evaluation.md, calibration.png and learning_curve.png into this folder.",
)  # fmt: skip
@seed_option()
@json_option()
def evaluate(
    logs: tuple[Path, ...],
    start_from: str | None,
    k_fold: int,
    by: str,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Cross-validate a fit to the rows of LOGs, beside a look-up table and a support vector machine."""
    from mvig_nas.cli.output import print_json
    from mvig_nas.latency import card
    from mvig_nas.latency.held_out import family_folds, folds

    log = _read(logs)
    rows = card.rows_of(log)
    start = _start(start_from)
    parts, how = (
        (family_folds(rows), "leave one family out")
        if by == "family"
        else (folds(rows, k_fold, seed), f"{k_fold}-fold")
    )
    evaluation, answers = card.evaluate(rows, parts, start, seed=seed, how=how)
    text = "\n".join(card.evaluation_lines(evaluation))
    if out is not None:
        _write_evaluation(out, card.plain(evaluation), text, rows.latencies_ms, answers, log.device_key.name)
    if as_json:
        print_json(card.plain(evaluation))
        return
    click.echo(text)
    if out is not None:
        click.echo(f"Figures and plots in {out}.")


@predictor.command()
@click.argument("name", metavar="FOLDER|DEVICE")
@json_option()
def show(name: str, as_json: bool) -> None:
    """Print the card of a predictor, given by the FOLDER of a fitted one or by the name of a shipped DEVICE."""
    from mvig_nas import shipped
    from mvig_nas.cli.output import print_json
    from mvig_nas.latency import LatencyPredictor, chip_of
    from mvig_nas.latency.card import read_card, to_markdown

    folder = shipped.predictor_folder(name)
    loaded = LatencyPredictor.load(folder)
    values = read_card(folder)
    if values is not None:
        if as_json:
            print_json(values)
        else:
            click.echo(to_markdown(values))
        return
    summary = {
        "device": loaded.device,
        "chip": chip_of(loaded.device),
        "measurements": loaded.measurements_,
        "errors": loaded.errors_,
    }
    if as_json:
        print_json(summary)
        return
    counts = ", ".join(f"{device} {count}" for device, count in loaded.measurements_.items())
    click.echo(f"# Latency predictor for {loaded.device} ({chip_of(loaded.device)})\n\nFitted to rows of {counts}.\n")
    for figure, value in loaded.errors_.items():
        click.echo(f"- {figure.replace('_', ' ')}: {value:g}")


def _read(logs: tuple[Path, ...]) -> "DeviceLog":
    from mvig_nas import device_log

    log = device_log.merge([device_log.read(path) for path in logs])
    _ = log.device_key  # refuses a log without rows before anything is traced
    return log


def _start(name: str | None) -> "LatencyPredictor | None":
    from mvig_nas import shipped
    from mvig_nas.latency import LatencyPredictor

    return None if name is None else LatencyPredictor.load(shipped.predictor_folder(name))


def _write_evaluation(
    out: Path, evaluation: dict[str, Any], text: str, measured_ms: Any, answers: Any, device: str
) -> None:
    import json

    from mvig_nas.files import make_folder, save
    from mvig_nas.report.figures import calibration_png, learning_curve_png

    make_folder(out)
    save(out / "evaluation.json", json.dumps(evaluation, indent=1) + "\n")
    save(out / "evaluation.md", text)
    save(out / "calibration.png", calibration_png(measured_ms, answers, device))
    save(out / "learning_curve.png", learning_curve_png(evaluation["learning_curve"]))


def _print_wild(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(
            f"does not fit the others: {row['place'] or row['network']}, {row['latency_ms']:.4g} ms where "
            f"{row['expected_ms']:.4g} is expected; its weight was lowered",
            err=True,
        )
