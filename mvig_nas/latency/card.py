"""A predictor's card: what it was fitted to, how good it is, and what it is compared with. As JSON and as text."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mvig_nas import __version__
from mvig_nas.device_log import DeviceLog
from mvig_nas.errors import MvigNasError
from mvig_nas.files import save
from mvig_nas.latency.held_out import (
    OWN,
    HeldOut,
    Positions,
    errors_by_range,
    false_accepts,
    figures,
    hold_out,
    learning_curve,
)
from mvig_nas.latency.latency_predictor import Fitted, LatencyPredictor
from mvig_nas.latency.published import families, log_networks
from mvig_nas.latency.rows import Rows

SCHEMA = 1
_PACKAGES = ("numpy", "scikit-learn", "scipy", "timm", "torch")


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
    if how == "leave one family out":
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


def write_card(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `card.json` and `card.md`.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    save(folder / "card.md", to_markdown(values))
    save(folder / "card.json", json.dumps(plain(values), indent=1, allow_nan=False) + "\n")


def read_card(folder: Path) -> dict[str, Any] | None:
    """What `write_card` wrote, None where it wrote none.

    Raises:
        MvigNasError: the card is damaged.
    """
    path = folder / "card.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MvigNasError(f"a card must be readable JSON, got {error} at {path}; fit the predictor again.") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise MvigNasError(f"a card must be of schema {SCHEMA}, got another at {path}; fit the predictor again.")
    return values


def to_markdown(values: Mapping[str, Any]) -> str:
    """The card for people."""
    device, data, evaluation = values["device"], values["data"], values["evaluation"]
    low, _, middle, _, high = data["latency_ms"]
    kin = ", ".join(f"{name} {count}" for name, count in data["families"].items())
    start = values["fit"]["start_from"]
    begun = f"starting from {start}" if start else f"from scratch (costs of any {values['fit']['start']})"
    lines = [
        f"# Latency predictor for {device['name']}",
        "",
        f"{device['chip']}, {device['os']} {device['os_version']}, compute units {device['compute_units']}. Holds for "
        "exactly these.",
        "",
        f"Fitted to {data['rows']} rows of {data['networks']} networks ({kin}), {low:.3g} to {high:.3g} ms, median "
        f"{middle:.3g}, {begun}.",
        "",
        *evaluation_lines(evaluation),
        "## Rows that do not fit the others",
        *(_wild_lines(values["wild_rows"]) or ["None."]),
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in values["versions"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """An evaluation as Markdown."""
    names = list(next(iter(evaluation["figures"].values())))
    table = [[name, *(_figure(found, key) for key in names)] for name, found in evaluation["figures"].items()]
    lines = [
        f"## Networks left out ({evaluation['how']}, seed {evaluation['seed']})",
        *_table(["", *(key.replace("_", " ") for key in names)], table),
        "## Budgets: accepted networks that miss them",
        *_table(
            ["budget ms", "accepted", "of them false", "accepted with 90 % confidence", "of them false"],
            [
                [
                    f"{found['budget_ms']:.3g}",
                    f"{found['by_prediction_accepted']:.0f}",
                    _share(found["by_prediction_false_share"]),
                    f"{found['by_upper_end_accepted']:.0f}",
                    _share(found["by_upper_end_false_share"]),
                ]
                for found in evaluation["false_accepts"]
            ],
        ),
        "## By latency",
        *_table(
            ["ms", "rows", "median error", "within 10 %"],
            [
                [
                    f"{found['from_ms']:.3g} to {found['to_ms']:.3g}",
                    f"{found['rows']:.0f}",
                    _share(found["median_error"]),
                    _share(found["within_10_percent"]),
                ]
                for found in evaluation["by_latency"]
            ],
        ),
    ]
    if "by_family" in evaluation:
        rows = [
            [name, _share(found["median_error"]), _share(found["within_10_percent"])]
            for name, found in evaluation["by_family"].items()
        ]
        lines += ["## By family left out", *_table(["family", "median error", "within 10 %"], rows)]
    rows = [
        [f"{point['networks']}", point["start"], _share(point["median_error"]), _share(point["within_10_percent"])]
        for point in evaluation["learning_curve"]
    ]
    return [
        *lines,
        "## By number of networks fitted",
        *_table(["networks", "start", "median error", "within 10 %"], rows),
    ]


def _wild_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"- {row['place'] or row['network']}: {row['latency_ms']:.4g} ms, expected {row['expected_ms']:.4g} "
        f"({row['deviations']:+.1f} deviations), {row['network']}"
        for row in rows
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    return [*lines, ""]


def _figure(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if value is None or math.isnan(value):
        return ""
    return f"{value:.3f}" if key in ("kendall_tau", "spearman") else _share(value)


def _share(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.1%}"


def plain(values: Any) -> Any:
    """The same with None for NaN, which JSON has no word for."""
    if isinstance(values, Mapping):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values
