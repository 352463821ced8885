"""Plots of a search, as PNG bytes."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mvig_nas.plots import ACCENT, BAND, INK, MUTED, figure_axes, png

if TYPE_CHECKING:
    from mvig_nas.search import Study
    from mvig_nas.search.contracts import Candidate


def score_latency_png(study: "Study", presets: Sequence[Mapping[str, Any]]) -> bytes:
    """Score against predicted latency: every scored candidate, the front, the presets, the winner, the budget."""
    figure, axes = figure_axes(
        f"predicted latency on {study.settings.labels.get('device', 'device')} (ms)", f"score ({study.settings.score})"
    )
    scored = [candidate for candidate in study.candidates if candidate.score is not None]
    axes.scatter([c.latency_ms for c in scored], [_score(c) for c in scored], s=14, color=MUTED, label="scored")
    front = study.front
    axes.step([c.latency_ms for c in front], [_score(c) for c in front], where="post", color=BAND, label="front")
    presets = [preset for preset in presets if preset["score"] is not None]
    axes.scatter(
        [preset["latency_ms"] for preset in presets],
        [preset["score"] for preset in presets],
        marker="s",
        s=34,
        color=INK,
        label="published networks",
        zorder=3,
    )
    for preset in presets:
        axes.annotate(
            preset["name"],
            (preset["latency_ms"], preset["score"]),
            textcoords="offset points",
            xytext=(6, -10),
            fontsize=8,
            color=INK,
        )
    winner = study.winner
    if winner is not None and winner.score is not None:
        axes.scatter([winner.latency_ms], [winner.score], marker="*", s=170, color=ACCENT, label="winner", zorder=4)
        if winner.interval_ms is not None:
            low, high = winner.interval_ms
            axes.hlines(winner.score, low, high, color=ACCENT, linewidth=1.2, label="its 80 % interval")
    if study.settings.budget.latency_ms is not None:
        axes.axvline(study.settings.budget.latency_ms, color=INK, linestyle=":", linewidth=1, label="budget")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return png(figure)


def best_so_far_png(study: "Study") -> bytes:
    """Best score against the number of evaluations."""
    figure, axes = figure_axes("evaluations", f"best score so far ({study.settings.score})")
    series = [(place, best) for place, best in enumerate(study.best_so_far, start=1) if best is not None]
    axes.step([place for place, _ in series], [best for _, best in series], where="post", color=BAND)
    if series:
        axes.scatter([series[-1][0]], [series[-1][1]], color=ACCENT, zorder=3)
    return png(figure)


def _score(candidate: "Candidate") -> float:
    return math.nan if candidate.score is None else candidate.score
