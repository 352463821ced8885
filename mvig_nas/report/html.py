"""report.html: one page that needs no other file."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mvig_nas.architecture import SWITCHES
from mvig_nas.scores import Meaning, meaning_of

if TYPE_CHECKING:
    from mvig_nas.architecture import Architecture
    from mvig_nas.search import Study
    from mvig_nas.search.search_run import SearchRun

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e3e8ee; }
th:first-child, td:first-child { text-align: left; } th { color: #5b6b7d; font-weight: 600; }
tr.winner td { font-weight: 600; color: #d1495b; } img { max-width: 100%; }
code { background: #f3f6f9; padding: .1rem .3rem; }
td.fact { text-align: left; overflow-wrap: anywhere; }
.note { color: #5b6b7d; } .scroll { overflow-x: auto; }
"""
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
    parts = [
        f"<h1>Search in {escape(settings.space.name)} for {escape(device)}</h1>",
        f"<p class=note>{study.judged:,} architectures judged by predicted latency, {study.evaluated:,} scored by "
        f"{escape(settings.score)} with {escape(settings.sampler)}, seed {settings.seed}, {done.seconds:.1f} s.</p>",
        *(f"<p class=note>{escape(note)}</p>" for note in notes),
    ]
    if winner is not None:
        parts += ["<h2>Winner and published networks</h2>", _comparison(study, presets, meaning)]
        parts += ["<h2>The winner, stage by stage</h2>", _stages(winner.architecture)]
    titles = {"score_latency": "Score against latency", "best_so_far": "Progress"}
    parts += [image(title, plots[name]) for name, title in titles.items()]
    parts += ["<h2>Front</h2>", _front(study, meaning)]
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
    return f'<h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/png;base64,{content}">'


def _comparison(study: "Study", presets: Sequence[Mapping[str, Any]], meaning: Meaning) -> str:
    winner = study.winner
    rows = []
    if winner is not None and winner.interval_ms is not None and winner.totals is not None:
        cells = [f"winner {winner.fingerprint}", meaning.shown(winner.score or 0.0), f"{winner.latency_ms:.3f}"]
        cells += [f"{winner.interval_ms[0]:.2f}-{winner.interval_ms[1]:.2f}"]
        rows.append(("winner", [*cells, f"{winner.totals.parameters:,}", f"{winner.totals.macs:,}"]))
    for preset in presets:
        name = preset["name"] if preset["is_within_budget"] else f"{preset['name']} (not within the budget)"
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
