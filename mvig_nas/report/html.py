"""report.html: one page that needs no other file."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mvig_nas.architecture import SWITCHES
from mvig_nas.scores import Meaning, meaning_of

if TYPE_CHECKING:
    from mvig_nas.architecture import Architecture
    from mvig_nas.budget import Budget
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search import Candidate, Study
    from mvig_nas.search.search_run import SearchRun

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e3e8ee; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; } th { color: #5b6b7d; font-weight: 600; }
tr.winner td { font-weight: 600; color: #d1495b; } img { max-width: 100%; min-width: 36rem; }
code { background: #f3f6f9; padding: .1rem .3rem; }
table.facts td:first-child { width: 6.5rem; color: #5b6b7d; } td.fact { text-align: left; overflow-wrap: anywhere; }
.note { color: #5b6b7d; } .scroll { overflow-x: auto; }
"""
_LIMITS = {
    "parameters": "parameters",
    "macs": "MACs",
    "memory_bytes": "bytes of activations at a time",
    "weight_bytes": "bytes of weights",
}
_STAGE_COLUMNS = {
    "width": "width",
    "conv_depth": "MBConv blocks",
    "conv_expansion": "expansion",
    "conv_kernel": "kernel",
    "graph_depth": "graph blocks",
    "graph_operator": "operator",
    "graph_step": "step K",
    "graph_cpe": "position encoding",
    "graph_scale": "layer scale",
    "graph_groups": "groups",
    "ffn_expansion": "FFN expansion",
    "activation": "activation",
}


def page(
    done: "SearchRun",
    presets: Sequence[Mapping[str, Any]],
    plots: Mapping[str, bytes],
    notes: Sequence[str],
    command: str,
) -> str:
    """The report of a finished search, made by `command`; `notes` say what its numbers are worth."""
    study, meaning = done.study, meaning_of(done.score)
    settings, winner = study.settings, study.winner
    device = settings.labels.get("device", "device")
    asked = {
        "Budget": budget_in_words(settings.budget, device),
        "Search space": f"{settings.space.name}, {settings.space.size:.3g} networks",
        "Score": settings.score,
        "Search": f"{settings.sampler}, {settings.evaluations:,} scores, seed {settings.seed}",
    }
    parts = [
        f"<h1>Search in {escape(settings.space.name)} for {escape(device)}</h1>",
        "<h2>What was asked for</h2>",
        facts(asked),
        "<h2>What came of it</h2>",
        facts(_outcome(done, winner, meaning)),
        "<h2>How sure that is</h2>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        image("Score against latency", plots["score_latency"]),
    ]
    if winner is not None:
        parts += ["<h2>Where the milliseconds go</h2>", stage_costs(winner.architecture, done.latency)]
        parts += ["<h2>The winner, stage by stage</h2>", _stages(winner.architecture)]
        parts += ["<h2>Winner and published networks</h2>", _comparison(study, presets, meaning)]
    parts += ["<h2>Front: the best score up to each latency</h2>", _front(study, meaning)]
    parts.append(image("The best score so far", plots["best_so_far"]))
    parts.append(f"<h2>How it was made</h2><p><code>{escape(command)}</code></p>")
    versions = ", ".join(f"{escape(name)} {escape(number)}" for name, number in settings.versions.items())
    parts.append(f"<p class=note>{versions}</p>")
    return document(f"mvig-nas: {settings.space.name} for {device}", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A page that needs no other file; `title` is plain text, `parts` are HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def image(title: str, png: bytes) -> str:
    """A titled picture inside the page."""
    content = base64.b64encode(png).decode()
    picture = f'<img alt="{escape(title)}" src="data:image/png;base64,{content}">'
    return f"<h2>{escape(title)}</h2><div class=scroll>{picture}</div>"


def facts(told: Mapping[str, str]) -> str:
    """A table of two columns: what it is, and a sentence on it."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td class=fact>{escape(text)}</td></tr>" for name, text in told.items())
    return f"<table class=facts>{rows}</table>"


def stage_costs(architecture: "Architecture", latency: "ArchitectureLatency") -> str:
    """A table of what each stage of a network costs."""
    rows = [
        ("", [part.name, part.shape, f"{part.parameters:,}", f"{part.macs:,}", f"{part.latency_ms:.3f}"])
        for part in latency.by_stage(architecture)
    ]
    return table(["part", "output", "parameters", "MACs", "predicted ms"], rows)


def budget_in_words(budget: "Budget", device: str) -> str:
    """The limits of a budget, as one reads them."""
    told = []
    if budget.latency_ms is not None:
        sure = "" if budget.confidence is None else f", with a probability of {100 * budget.confidence:g} %"
        told.append(f"predicted latency on {device} up to {budget.latency_ms:g} ms{sure}")
    for name, unit in _LIMITS.items():
        limit = getattr(budget, name)
        if limit is not None:
            told.append(f"up to {limit:,} {unit}")
    return "; ".join(told) or f"none: the front of score against predicted latency on {device} was asked for"


def _outcome(done: "SearchRun", winner: "Candidate | None", meaning: Meaning) -> dict[str, str]:
    study = done.study
    work = (
        f"{study.judged:,} networks judged by predicted latency, {study.evaluated:,} of them scored, in "
        f"{done.seconds:,.0f} s"
    )
    if winner is None:
        return {"Winner": "none: no network inside the budget could be scored", "Work": work}
    told = {
        "Winner": winner.fingerprint,
        _title(meaning).capitalize(): meaning.shown(winner.score or 0.0),
        "Latency": f"{winner.latency_ms:.3f} ms predicted; it was not measured",
    }
    if winner.interval_ms is not None:
        low, high = winner.interval_ms
        told["Latency"] = (
            f"{winner.latency_ms:.3f} ms predicted, between {low:.2f} and {high:.2f} ms in four cases out of five; it "
            "was not measured"
        )
    if winner.totals is not None:
        told["Size"] = f"{winner.totals.parameters:,} parameters, {winner.totals.macs:,} MACs"
    return {**told, "Work": work}


def _comparison(study: "Study", presets: Sequence[Mapping[str, Any]], meaning: Meaning) -> str:
    winner = study.winner
    rows = []
    if winner is not None and winner.interval_ms is not None and winner.totals is not None:
        cells = [f"winner {winner.fingerprint}", meaning.shown(winner.score or 0.0), f"{winner.latency_ms:.3f}"]
        cells += [f"{winner.interval_ms[0]:.2f}-{winner.interval_ms[1]:.2f}"]
        rows.append(("winner", [*cells, f"{winner.totals.parameters:,}", f"{winner.totals.macs:,}"]))
    for preset in presets:
        name = (
            preset["name"] if preset["is_within_budget"] else f"{preset['name']} (not within the budget or the space)"
        )
        low, high = preset["interval_ms"]
        score = "" if preset["score"] is None else meaning.shown(preset["score"])
        cells = [name, score, f"{preset['latency_ms']:.3f}", f"{low:.2f}-{high:.2f}"]
        rows.append(("", [*cells, f"{preset['parameters']:,}", f"{preset['macs']:,}"]))
    return table(["architecture", _title(meaning), "predicted ms", "80 % interval", "parameters", "MACs"], rows)


def _title(meaning: Meaning) -> str:
    return "top-1 by the score" if meaning.is_top1 else "score"


def _stages(architecture: "Architecture") -> str:
    rows = []
    switched = [name for name in SWITCHES if any(getattr(stage, name) for stage in architecture.stages)]
    columns = {name: title for name, title in _STAGE_COLUMNS.items() if name not in SWITCHES or name in switched}
    for number, (stage, size) in enumerate(zip(architecture.stages, architecture.sizes, strict=True), start=1):
        values = [("yes" if value is True else value) for value in (getattr(stage, name) for name in columns)]
        cells = [f"{number} ({size}×{size})", *("" if value is None else str(value) for value in values)]
        rows.append(("", cells))
    note = f"<p class=note>Resolution {architecture.resolution}, head width {architecture.head_width}.</p>"
    return table(["stage", *columns.values()], rows) + note


def _front(study: "Study", meaning: Meaning) -> str:
    rows = [("", [c.fingerprint, meaning.shown(c.score or 0.0), f"{c.latency_ms:.3f}"]) for c in study.front]
    return table(["architecture", _title(meaning), "predicted ms"], rows)


def table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of plain text; a row's first entry is its class in the style sheet, or empty."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr{f' class={kind}' if kind else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for kind, cells in rows
    )
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
