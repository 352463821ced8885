"""Files of a run folder: winner.json, front.csv, run.toml, two plots, report.html."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvig_nas import __version__, kernels
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import save
from mvig_nas.report.figures import best_so_far_png, score_latency_png
from mvig_nas.report.html import page
from mvig_nas.report.notes import latency_note, outside_note, predictor_note, score_note

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search import Study
    from mvig_nas.search.contracts import Candidate, Latency, Score

SCHEMA = 1
_INTERVAL = "An 80 % interval should hold the true value four times out of five."
_PACKAGES = ("torch", "timm", "numpy", "scikit-learn", "optuna")


def preset_rows(study: "Study", latency: "Latency", score: "Score") -> list[dict[str, Any]]:
    """The published networks beside a study, those over its budget too: predicted latency, costs, score if any."""
    architectures = list(PRESETS.values())
    latencies_ms = latency.predict_ms(architectures).tolist()
    low, high = latency.interval_ms(architectures, 0.8)
    scored = {candidate.architecture: candidate for candidate in study.candidates}
    rows = []
    for index, (name, architecture) in enumerate(PRESETS.items()):
        totals = kernels.totals(kernels.of(architecture))
        candidate = scored.get(architecture)
        value = None if candidate is None else candidate.score
        rows.append(
            {
                "name": name,
                "fingerprint": architecture.fingerprint,
                "latency_ms": latencies_ms[index],
                "interval_ms": [float(low[index]), float(high[index])],
                "score": _score_of(architecture, score) if value is None else value,
                "is_within_budget": value is not None,
                "parameters": totals.parameters,
                "macs": totals.macs,
            }
        )
    return rows


def _score_of(architecture: Architecture, score: "Score") -> float | None:
    # A supernet has a score only for what it holds.
    try:
        return score(architecture)
    except MvigNasError:
        return None


def write_report(
    study: "Study",
    presets: Sequence[Mapping[str, Any]],
    folder: Path,
    latency: "ArchitectureLatency",
    *,
    command: str,
    seconds: float,
) -> dict[str, Path]:
    """Write the run's files into its folder; returns them by name. `presets` are `preset_rows`.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    outside = [] if study.winner is None else latency.outside([study.winner.architecture])[0]
    notes = [score_note(study.settings.score), f"{latency_note(latency)} {_INTERVAL}"]
    if study.predictor_error is not None:
        notes.append(predictor_note(study.predictor_error))
    if outside:
        notes.append(f"The winner is {outside_note(latency.predictor.device, outside)}")
    plots = {
        "score_latency": score_latency_png(study, presets),
        "best_so_far": best_so_far_png(study),
    }
    files: dict[str, Path] = {"study": folder / "study.journal", "candidates": folder / "candidates.jsonl"}
    contents: dict[str, tuple[str, str | bytes]] = {
        "run": ("run.toml", _run_toml(study, command, seconds)),
        "front": ("front.csv", _front_csv(study)),
        "score_latency": ("score_latency.png", plots["score_latency"]),
        "best_so_far": ("best_so_far.png", plots["best_so_far"]),
        "report": ("report.html", page(study, presets, plots, notes, command=command, seconds=seconds)),
    }
    if study.winner is not None:
        contents["winner"] = ("winner.json", json.dumps(winner_values(study, study.winner, outside), indent=2) + "\n")
    for name, (file_name, content) in contents.items():
        files[name] = folder / file_name
        save(files[name], content)
    return files


def winner_values(study: "Study", winner: "Candidate", outside: Sequence[str]) -> dict[str, Any]:
    """What winner.json holds: the architecture, and what was predicted of it by what."""
    settings = study.settings
    return {
        "schema": SCHEMA,
        "fingerprint": winner.fingerprint,
        "architecture": winner.architecture.to_dict(),
        "device": settings.labels.get("device"),
        "latency_ms": winner.latency_ms,
        "latency_interval_ms": winner.interval_ms,
        "latency_is": "predicted",
        "unlike_measured": list(outside),
        "score": winner.score,
        "score_name": settings.score,
        "budget": settings.budget.to_dict(),
        "seed": settings.seed,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {"mvig-nas": __version__} | {name: version(name) for name in _PACKAGES}


def _front_csv(study: "Study") -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["fingerprint", "score", "latency_ms", "low_ms", "high_ms", "parameters", "macs", "architecture"])
    for candidate in study.front:
        low, high = candidate.interval_ms or (None, None)
        totals = candidate.totals
        cells = [candidate.fingerprint, candidate.score, candidate.latency_ms, low, high]
        cells += [None, None] if totals is None else [totals.parameters, totals.macs]
        rows.writerow([*cells, candidate.architecture.to_json()])
    return text.getvalue()


def _run_toml(study: "Study", command: str, seconds: float) -> str:
    settings = study.settings
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "space": settings.space.name,
        "score": settings.score,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "evaluations": settings.evaluations,
        "front": settings.front,
        "judged": study.judged,
        "evaluated": study.evaluated,
        "seconds": round(seconds, 3),
        "ended": study.ended or "interrupted",
    }
    tables: dict[str, Mapping[str, Any]] = {
        "budget": {name: value for name, value in settings.budget.to_dict().items() if value is not None},
        "labels": settings.labels,
        "versions": _versions(),
    }
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


# The standard library reads TOML but does not write it; JSON's strings, numbers and booleans are TOML's too.
def _toml(value: str | float | bool) -> str:
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)
