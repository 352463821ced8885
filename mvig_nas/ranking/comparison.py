"""Estimates of architectures, by supernets and training-free proxies, held against their stand-alone accuracies."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvig_nas import kernels, scores
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import save
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.ranking.agreement import Agreement, Ranked, agreements, tau_difference
from mvig_nas.ranking.ranking_report import markdown_table, scatter_png, taus_png
from mvig_nas.ranking.stand_alone import StandAlone

Estimator = Callable[[Architecture], float]


def proxies(seed: int = 0) -> dict[str, Estimator]:
    """Every training-free proxy by its name."""
    return {name: scores.load(name, seed=seed) for name in scores.NAMES}


def rank(
    results: Sequence[StandAlone],
    estimators: Mapping[str, Estimator],
    latency: ArchitectureLatency,
    folder: Path,
    *,
    on_estimate: Callable[[str, int], None] | None = None,
) -> list[Ranked]:
    """Every architecture's mean accuracy over its seeds, beside what every estimator says of it.

    Estimates are kept in the folder, so that an interrupted ranking goes on; an estimator that has no finite value for
    one of the architectures is left out.

    Args:
        results: of `stand_alone`.
        estimators: by name; those that start with `supernet` estimate an accuracy.
        latency: predicts milliseconds.
        folder: where estimates are kept, in `estimates.json`.
        on_estimate: called with an estimator's name and the number of architectures before each estimate.
    """
    by_architecture: dict[Architecture, list[float]] = defaultdict(list)
    for result in results:
        by_architecture[result.architecture].append(result.accuracy)
    architectures = list(by_architecture)
    kept = _read(folder / "estimates.json")
    usable: dict[str, dict[str, float]] = {}
    for name, estimator in estimators.items():
        values = kept.setdefault(f"{name}: {getattr(estimator, 'name', '')}", {})
        with suppress(MvigNasError):
            for done, architecture in enumerate(architectures):
                if architecture.fingerprint not in values:
                    if on_estimate is not None:
                        on_estimate(name, done)
                    values[architecture.fingerprint] = float(estimator(architecture))
                    save(folder / "estimates.json", json.dumps(kept, indent=1))
            usable[name] = values
    latencies_ms = latency.predict_ms(architectures).tolist()
    return [
        Ranked(
            architecture.fingerprint,
            latency_ms,
            kernels.totals(kernels.of(architecture)).macs,
            sum(accuracies) / len(accuracies),
            {name: values[architecture.fingerprint] for name, values in usable.items()},
        )
        for (architecture, accuracies), latency_ms in zip(by_architecture.items(), latencies_ms, strict=True)
    ]


def write_ranking(
    rows: Sequence[Ranked], architectures: Sequence[Architecture], folder: Path, estimate: str
) -> dict[str, Agreement]:
    """Write `ranking.csv`, `agreement.json`, `agreement.md`, `tau_difference.csv` and two plots.

    Returns the agreements.

    Args:
        rows: of `rank`.
        architectures: of the rows, in any order.
        folder: to write into.
        estimate: name of the estimator that the scatter plot shows, and that the others are compared with.

    Raises:
        MvigNasError: fewer than four rows, or the folder cannot be written.
    """
    found = agreements(rows)
    named = {architecture.fingerprint: architecture for architecture in architectures}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = list(rows[0].estimates)
    table.writerow(["fingerprint", "accuracy", "latency_ms", "macs", *names, "architecture"])
    for row in sorted(rows, key=lambda row: -row.accuracy):
        estimates = [f"{row.estimates[name]:.6g}" for name in names]
        cells = [row.fingerprint, f"{row.accuracy:.5f}", f"{row.latency_ms:.5f}", row.macs, *estimates]
        table.writerow([*cells, named[row.fingerprint].to_json()])
    accuracies = [row.accuracy for row in rows]
    differences = ["estimate,tau_of_it_is_lower_by,low,high\n"]
    for name in names:
        if name != estimate:
            own, others = [row.estimates[estimate] for row in rows], [row.estimates[name] for row in rows]
            difference = tau_difference(own, others, accuracies)
            differences.append(f'"{name}",{difference.value:.2f},{difference.low:.2f},{difference.high:.2f}\n')
    contents: dict[str, str | bytes] = {
        "ranking.csv": text.getvalue(),
        "agreement.json": json.dumps({name: asdict(value) for name, value in found.items()}, indent=1) + "\n",
        "tau_difference.csv": "".join(differences),
        "agreement.md": markdown_table(found) + "\n",
        "estimate_against_accuracy.png": scatter_png(rows, estimate_label=estimate),
        "kendall_tau.png": taus_png(found),
    }
    for name, content in contents.items():
        save(folder / name, content)
    return found


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise MvigNasError(f"{path} must be JSON, got {error}; remove it, and the estimates are made again.") from error
    return dict(values)
