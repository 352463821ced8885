"""A predictor of one's own device from its log: fitted, cross-validated, and told of in a card, as JSON and as text.

The card says what the predictor was fitted to, how good it is, and what it is compared with.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from mvig_nas import __version__, device_log, shipped
from mvig_nas.device_log import DeviceLog
from mvig_nas.errors import MvigNasError
from mvig_nas.files import read_json, save
from mvig_nas.latency.device_model import NEURAL_ENGINE
from mvig_nas.latency.held_out import (
    OWN,
    HeldOut,
    Positions,
    errors_by_range,
    false_accepts,
    family_folds,
    figures,
    folds,
    hold_out,
    learning_curve,
)
from mvig_nas.latency.latency_predictor import Fitted, LatencyPredictor, fit_device
from mvig_nas.latency.published import families, log_networks
from mvig_nas.latency.rows import Rows
from mvig_nas.values import about, check, without_nan

SCHEMA = 1
_PACKAGES = ("numpy", "scikit-learn", "scipy", "timm", "torch")
_BY_FAMILY = "leave one family out"
_CORRELATIONS = ("kendall_tau", "spearman")
# What a fit from scratch began with, by its name in the fit's summary; older files say `engine`.
_STARTS = {NEURAL_ENGINE: "Neural Engine", "engine": "Neural Engine", "core": "processor core"}


@dataclass(frozen=True)
class FitRequest:
    """How a predictor is fitted to a log, and cross-validated.

    Raises:
        MvigNasError: a value is out of range.
    """

    start_from: (
        Annotated[
            str,
            about(
                "Start the fit from this predictor: a shipped phone by name, or the folder of a fitted one. By "
                "default the fit starts from what is known of any device.",
                metavar="NAME|FOLDER",
            ),
        ]
        | None
    ) = None
    k_fold: Annotated[
        int,
        about("Number of parts that the networks are dealt into; each is predicted by a fit to the others.", ge=2),
    ] = 5
    seed: Annotated[
        int, about("Seed of all that is drawn; the same seed gives the same result.", ge=0, le=2**32 - 1)
    ] = 0

    def __post_init__(self) -> None:
        check(self)

    @property
    def start(self) -> LatencyPredictor | None:
        """The predictor that the fit starts from, read from its folder."""
        return None if self.start_from is None else LatencyPredictor.load(shipped.predictor_folder(self.start_from))


@dataclass(frozen=True)
class EvaluateRequest(FitRequest):
    """How fits to a log are cross-validated."""

    by: Annotated[
        Literal["network", "family"],
        about("Leave out one part of --k-fold at a time, or one whole family of networks at a time."),
    ] = "network"


def read_logs(paths: Iterable[Path]) -> DeviceLog:
    """The rows of several logs of one device.

    Raises:
        MvigNasError: a log cannot be read, or they hold no rows, or rows of several devices.
    """
    log = device_log.merge([device_log.read(path) for path in paths])
    _ = log.device_key  # refuses a log without rows before anything is traced
    return log


def fit_log(log: DeviceLog, folder: Path, request: FitRequest) -> dict[str, Any]:
    """Fit a predictor to a log, cross-validate it, and write it with its card into a new folder.

    Returns:
        The card.

    Raises:
        MvigNasError: the folder holds a predictor, the log too few networks, or see `rows_of`.
    """
    if (folder / "predictor.json").exists():
        raise MvigNasError(f"a predictor is never overwritten, and {folder} holds one; take another folder.")
    rows, start, seed = rows_of(log), request.start, request.seed
    fitted = fit_device(rows.kernels, rows.latencies_ms, rows.group, start=start, families=rows.families, seed=seed)
    parts = folds(rows, request.k_fold, seed)
    evaluation, _ = evaluate(rows, parts, start, seed=seed, how=f"{request.k_fold}-fold")
    own = evaluation["figures"][OWN]
    errors = {
        "measurements": len(log.rows),
        "median_error": own["median_error"],
        "mean_error": own["mape"],
        "spearman": own["spearman"],
        "coverage80": own["interval_coverage_80"],
    }
    fitted.predictor.errors_ = {name: value for name, value in errors.items() if not math.isnan(value)}
    values = card(log, fitted, evaluation)
    fitted.predictor.save(folder)
    save(folder / "card.md", to_markdown(values))
    save(folder / "card.json", json.dumps(without_nan(values), indent=1, allow_nan=False) + "\n")
    return values


def evaluate_log(log: DeviceLog, request: EvaluateRequest) -> tuple[dict[str, Any], HeldOut]:
    """Cross-validate a fit to a log: every figure, ready for JSON, and our answers for the rows.

    Raises:
        MvigNasError: the log holds too few networks or families, or see `rows_of`.
    """
    rows = rows_of(log)
    if request.by == "family":
        return evaluate(rows, family_folds(rows), request.start, seed=request.seed, how=_BY_FAMILY)
    parts = folds(rows, request.k_fold, request.seed)
    return evaluate(rows, parts, request.start, seed=request.seed, how=f"{request.k_fold}-fold")


def rows_of(log: DeviceLog, cache: Path | None = None) -> Rows:
    """A log's rows with the kernels of their networks.

    Raises:
        MvigNasError: the log holds rows of several devices, or a network whose kernels are unknown.
    """
    group = log.device_key.group
    return Rows.of_one_device(
        log_networks(log, cache),
        log.latencies_ms,
        [row.network_label for row in log.rows],
        families([row.network for row in log.rows]),
        group,
    )


def evaluate(
    rows: Rows, parts: Sequence[Positions], start: LatencyPredictor | None, *, seed: int, how: str
) -> tuple[dict[str, Any], HeldOut]:
    """Every figure of a cross-validation, ready for JSON, and our answers for the rows."""
    answers = hold_out(rows, parts, start, seed)
    own = answers[OWN]
    values = {
        "how": how,
        "seed": seed,
        "start": None if start is None else start.device,
        "figures": {name: figures(rows.latencies_ms, answer) for name, answer in answers.items()},
        "false_accepts": false_accepts(rows.latencies_ms, own),
        "by_latency": errors_by_range(rows.latencies_ms, own),
        "learning_curve": learning_curve(rows, start, seed),
    }
    if how == _BY_FAMILY:
        values["by_family"] = {
            rows.families[part[0]]: figures(rows.latencies_ms[part], own.pick(part)) for part in parts
        }
    return values, own


def card(log: DeviceLog, fitted: Fitted, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a predictor fitted to a log."""
    latencies_ms = log.latencies_ms
    return {
        "schema": SCHEMA,
        "device": asdict(log.device_key),
        "data": {
            "rows": len(log.rows),
            "networks": len(log.networks),
            "families": dict(sorted(Counter(families([row.network for row in log.rows])).items())),
            "latency_ms": np.quantile(latencies_ms, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist(),
            "statistics": dict(sorted(Counter(row.statistic for row in log.rows).items())),
            "measured": [log.rows[0].time.isoformat(), log.rows[-1].time.isoformat()],
            "measured_with": sorted({f"{tool} {v}" for row in log.rows for tool, v in row.tool_versions.items()}),
        },
        "fit": fitted.predictor.fit_summary,
        "evaluation": dict(evaluation),
        "wild_rows": wild_rows(log, fitted),
        "versions": {"mvig-nas": __version__, **{name: metadata.version(name) for name in _PACKAGES}},
    }


def wild_rows(log: DeviceLog, fitted: Fitted) -> list[dict[str, Any]]:
    """Rows that do not fit the others, with their file and line."""
    return [
        {
            "place": log.places[row],
            "network": log.rows[row].network_label,
            "latency_ms": log.rows[row].latency_ms,
            "expected_ms": float(fitted.left_out_ms[row]),
            "deviations": float(fitted.standard_errors[row]),
        }
        for row in fitted.wild
    ]


def read_card(folder: Path) -> dict[str, Any] | None:
    """What `fit_log` wrote into a predictor's folder, None where it wrote none.

    Raises:
        MvigNasError: the card is damaged.
    """
    path = folder / "card.json"
    try:
        values = read_json(path, "a card", "fit the predictor again")
    except FileNotFoundError:
        return None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise MvigNasError(f"a card must be of schema {SCHEMA}, got another at {path}; fit the predictor again.")
    try:
        to_markdown(values)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise MvigNasError(
            f"a card must be as it was written, got {str(error)[:100]!r} in {path}; fit the predictor again."
        ) from error
    return values


def to_markdown(values: Mapping[str, Any]) -> str:
    """The card for people; names that came from a log are text in it, never HTML or another cell of a table."""
    values = _as_text(values)
    device, data, evaluation = values["device"], values["data"], values["evaluation"]
    low, _, middle, _, high = data["latency_ms"]
    kin = ", ".join(f"{name} {count}" for name, count in data["families"].items())
    start, name = values["fit"]["start_from"], values["fit"]["start"]
    begun = f"starting from {start}" if start else f"from scratch (costs of any {_STARTS.get(name, name)})"
    lines = [
        f"# Latency predictor for {device['name']}",
        "",
        f"{device['chip']}, {device['os']} {device['os_version']}, compute units {device['compute_units']}. Holds for "
        "exactly these.",
        "",
        f"Fitted to {data['rows']} rows of {data['networks']} networks ({kin}), {low:.3g} to {high:.3g} ms, median "
        f"{middle:.3g}, {begun}.",
        "",
        *_evaluation_lines(evaluation),
        "## Rows that do not fit the others",
        *(_wild_lines(values["wild_rows"]) or ["None."]),
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in values["versions"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _as_text(value: Any) -> Any:
    """The same values, with what Markdown would take for HTML, or for the end of a line or cell, made harmless."""
    if isinstance(value, Mapping):
        return {_as_text(name): _as_text(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(entry) for entry in value]
    return escape(" ".join(value.split()), quote=False).replace("|", "\\|") if isinstance(value, str) else value


def evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """An evaluation as Markdown."""
    return _evaluation_lines(_as_text(evaluation))


def _evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    figures_of = evaluation["figures"]
    names = list(next(iter(figures_of.values())))
    shares = {name.replace("_", " "): f"{{{name}:{'.3f' if name in _CORRELATIONS else '.1%'}}}" for name in names}
    models = [{**dict.fromkeys(names), "model": model, **found} for model, found in figures_of.items()]
    errors = {"median error": "{median_error:.1%}", "within 10 %": "{within_10_percent:.1%}"}
    budgets = {
        "budget ms": "{budget_ms:.3g}",
        "accepted": "{by_prediction_accepted:.0f}",
        "of them false": "{by_prediction_false_share:.1%}",
        "accepted with 90 % confidence": "{by_upper_end_accepted:.0f}",
        "of them false ": "{by_upper_end_false_share:.1%}",
    }
    lines = [
        f"## Networks left out ({evaluation['how']}, seed {evaluation['seed']})",
        *_table(models, {"": "{model}", **shares}),
        "## Budgets: accepted networks that miss them",
        *_table(evaluation["false_accepts"], budgets),
        "## By latency",
        *_table(evaluation["by_latency"], {"ms": "{from_ms:.3g} to {to_ms:.3g}", "rows": "{rows:.0f}", **errors}),
    ]
    if "by_family" in evaluation:
        kin = [{"family": name, **found} for name, found in evaluation["by_family"].items()]
        lines += ["## By family left out", *_table(kin, {"family": "{family}", **errors})]
    curve = {"networks": "{networks}", "start": "{start}", **errors}
    return [*lines, "## By number of networks fitted", *_table(evaluation["learning_curve"], curve)]


def _wild_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"- {row['place'] or row['network']}: {row['latency_ms']:.4g} ms, expected {row['expected_ms']:.4g} "
        f"({row['deviations']:+.1f} deviations), {row['network']}"
        for row in rows
    ]


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    """A table, each column given by its title and the format of its cells; what is no number stays empty."""
    cells = [[name.rstrip() for name in columns], ["---"] * len(columns)]
    for row in rows:
        known = {name: math.nan if value is None else value for name, value in row.items()}
        texts = [template.format_map(known) for template in columns.values()]
        cells.append(["" if text in ("nan", "nan%") else text for text in texts])
    return [*("| " + " | ".join(line) + " |" for line in cells), ""]
