"""Files of a run folder: winner.json, front.csv, two plots, report.html; and what their figures are worth, in words."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvig_nas import __version__, run_folder, scores
from mvig_nas.files import save
from mvig_nas.report.figures import best_so_far_png, score_latency_png
from mvig_nas.report.html import page
from mvig_nas.search import CANDIDATES_FILE, STUDY_FILE
from mvig_nas.search.search_run import compared_presets

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search import Candidate, Study
    from mvig_nas.search.samplers.surrogate import PredictorError
    from mvig_nas.search.search_run import SearchRun

SCHEMA = 1
_INTERVAL = "An 80 % interval should hold the true value four times out of five."
_PACKAGES = ("torch", "timm", "numpy", "scikit-learn", "optuna")
_USELESS_TAU = 0.2


def preset_rows(done: "SearchRun") -> list[dict[str, Any]]:
    """The published networks beside a search, those over its budget too: predicted latency, costs, score if any.

    They are `compared_presets` of the space.
    """
    presets = compared_presets(done.study.settings.space)
    architectures = list(presets.values())
    latencies_ms = done.latency.predict_ms(architectures).tolist()
    low, high = done.latency.interval_ms(architectures, 0.8)
    scored = {candidate.architecture: candidate for candidate in done.study.candidates}
    rows = []
    for index, (name, architecture) in enumerate(presets.items()):
        totals = done.latency.totals(architecture)
        candidate = scored.get(architecture)
        value = None if candidate is None else candidate.score
        rows.append(
            {
                "name": name,
                "fingerprint": architecture.fingerprint,
                "latency_ms": latencies_ms[index],
                "interval_ms": [float(low[index]), float(high[index])],
                "score": done.preset_scores.get(architecture) if value is None else value,
                "is_within_budget": value is not None,
                "parameters": totals.parameters,
                "macs": totals.macs,
            }
        )
    return rows


def write_report(done: "SearchRun", presets: Sequence[Mapping[str, Any]], command: str) -> dict[str, Path]:
    """Write a search's files into its folder.

    Args:
        done: the search, whose study must have a folder.
        presets: `preset_rows` of it.
        command: the command line that the report shows.

    Returns:
        The files by name, those included that the search itself has written.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    study, latency = done.study, done.latency
    folder = study.folder or Path()
    outside = [] if study.winner is None else latency.outside([study.winner.architecture])[0]
    notes = [score_note(done), f"{latency_note(latency)} {_INTERVAL}"]
    if study.predictor_error is not None:
        notes.append(predictor_note(study.predictor_error))
    if outside:
        notes.append(f"The winner is {outside_note(latency.predictor.device, outside)}")
    meaning = scores.meaning_of(done.score)
    plots = {
        "score_latency": score_latency_png(study, presets, meaning),
        "best_so_far": best_so_far_png(study, meaning),
    }
    own = {"run": run_folder.FILE, "study": STUDY_FILE, "candidates": CANDIDATES_FILE}
    files = {name: folder / file_name for name, file_name in own.items()}
    contents: dict[str, tuple[str, str | bytes]] = {
        "front": ("front.csv", _front_csv(study)),
        "score_latency": ("score_latency.png", plots["score_latency"]),
        "best_so_far": ("best_so_far.png", plots["best_so_far"]),
        "report": ("report.html", page(done, presets, plots, notes, command)),
    }
    if study.winner is not None:
        contents["winner"] = ("winner.json", json.dumps(winner_values(done, study.winner, outside), indent=2) + "\n")
    for name, (file_name, content) in contents.items():
        files[name] = folder / file_name
        save(files[name], content)
    return files


def winner_values(done: "SearchRun", winner: "Candidate", outside: Sequence[str]) -> dict[str, Any]:
    """What winner.json holds: the architecture, what is predicted of it, and by what."""
    settings, side = done.study.settings, done.latency.backbone_side
    return {
        "schema": SCHEMA,
        "fingerprint": winner.fingerprint,
        "architecture": winner.architecture.to_dict(),
        "device": settings.labels.get("device"),
        "latency_ms": winner.latency_ms,
        "latency_interval_ms": winner.interval_ms,
        "latency_is": "predicted",
        **({} if side is None else {"task": "features", "resolution": side}),
        "unlike_measured": list(outside),
        "score": winner.score,
        "score_name": settings.score,
        **score_values(done, winner),
        "budget": settings.budget.to_dict(),
        "seed": settings.seed,
        "versions": _versions(),
    }


def score_values(done: "SearchRun", winner: "Candidate") -> dict[str, Any]:
    """Unit of the scores of a search, images measured on, the winner's standard error, and how many are like it."""
    meaning = scores.meaning_of(done.score)
    return {
        "score_unit": "top-1" if meaning.is_top1 else None,
        "score_images": meaning.images,
        "score_standard_error": meaning.standard_error(winner.score or 0.0),
        "not_told_from_winner": meaning.alike([c.score for c in done.study.candidates if c.score is not None]),
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


def score_note(done: "SearchRun") -> str:
    """What the scores of a search are, and how many candidates cannot be told from the winner."""
    meaning = scores.meaning_of(done.score)
    values = [each.score for each in done.study.candidates if each.score is not None]
    alike = meaning.alike(values)
    if alike is None or not values:
        return meaning.note
    told = f"{alike} of the other {len(values) - 1} scored networks cannot be told from the winner by it"
    return f"{meaning.note} {told}: they are less than two standard errors behind."


def predictor_note(error: "PredictorError") -> str:
    """One sentence on how far the score predictor can be relied on."""
    is_useless = error.kendall_tau < _USELESS_TAU
    verdict = " It orders them hardly better than chance and was useless to this search." if is_useless else ""
    return (
        f"Score predictor (Gaussian process), each of {error.count} scored architectures left out in turn: mean "
        f"absolute error {error.mean_absolute_error:.3g}, Kendall's tau {error.kendall_tau:.2f}.{verdict}"
    )


def latency_note(latency: "ArchitectureLatency") -> str:
    """One sentence on where predicted latencies come from."""
    predictor, side = latency.predictor, latency.backbone_side
    of_what = (
        ""
        if side is None
        else f" They are of the backbone without its classifier on images of {side} x {side} pixels; the score is of "
        "the classifier at its own size."
    )
    if not predictor.fit_summary:
        return (
            "Latencies are predicted from published measurements of other networks, not measured on this one." + of_what
        )
    rows = predictor.measurements_[predictor.device]
    return (
        f"Latencies are predicted by a fit to {rows} measurements on {predictor.device}, not measured on this "
        f"network.{of_what}"
    )


def outside_note(device: str, reasons: Sequence[str]) -> str:
    """The end of a sentence on a network that no measured one resembles, for the given reasons."""
    return f"unlike the networks measured on {device}, so that its latency is a guess: {'; '.join(reasons)}."
