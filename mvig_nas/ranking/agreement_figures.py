"""What a ranking shows: a table of agreements, and plots of estimates against accuracies."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.plots import ACCENT, INK, MUTED, figure_axes, png
from mvig_nas.ranking.agreement import Agreement, Interval, Ranked, agreement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

MOST_NAMES = 8
MARK_PIXELS, RING_PIXELS = 5, 10
OFFSETS = (
    (7, 5, "left"),
    (7, -12, "left"),
    (-7, 5, "right"),
    (-7, -12, "right"),
    (0, 10, "center"),
    (0, -17, "center"),
)


def scatter_png(rows: Sequence[Ranked], *, estimate_label: str, special: Mapping[str, str] | None = None) -> bytes:
    """The estimate named `estimate_label` against stand-alone accuracy in per cent, coloured by predicted latency.

    `special` gives short names by fingerprint: those are ringed, and named if they are 8 or fewer.

    Raises:
        MvigNasError: no such estimate, or whatever `agreement` refuses.
    """
    if rows and estimate_label not in rows[0].estimates:
        known = closest(estimate_label, rows[0].estimates)
        raise MvigNasError(f"a plot needs an estimate of the ranking, got {estimate_label!r}: {known}")
    estimates = [row.estimates[estimate_label] for row in rows]
    tau = agreement(estimates, [row.accuracy for row in rows]).kendall_tau
    is_accuracy = estimate_label.startswith("supernet")
    x = [100 * value if is_accuracy else value for value in estimates]
    y = [100 * row.accuracy for row in rows]
    label = f"{estimate_label}: accuracy with shared weights (%)" if is_accuracy else estimate_label
    figure, axes = figure_axes(label, "stand-alone accuracy (%)")
    axes.set_title(f"Kendall's tau {_text(tau)}, {len(rows)} architectures", color=INK, fontsize=11)
    marks = axes.scatter(
        x, y, c=[row.latency_ms for row in rows], cmap="viridis", s=34, edgecolors="white", linewidths=0.5
    )
    axes.margins(0.08)
    bar = figure.colorbar(marks, ax=axes)
    bar.set_label("predicted latency (ms)", color=INK)
    bar.outline.set_visible(False)
    special = special or {}
    ringed = [
        (x[index], y[index], special[row.fingerprint]) for index, row in enumerate(rows) if row.fingerprint in special
    ]
    axes.scatter(
        [mark[0] for mark in ringed], [mark[1] for mark in ringed], s=95, facecolors="none", edgecolors=ACCENT, zorder=3
    )
    if len(ringed) <= MOST_NAMES:
        _name_marks(figure, axes, list(zip(x, y, strict=True)), ringed)
    return png(figure)


def taus_png(agreements: Mapping[str, Agreement]) -> bytes:
    """Kendall's tau of each estimator as bars with intervals, best on top, supernets in the accent colour."""
    named = _sorted(agreements)[::-1]
    figure, axes = figure_axes("Kendall's tau with stand-alone accuracy", "", height=1.3 + 0.32 * len(named))
    axes.grid(visible=False, axis="y")
    for row, (name, found) in enumerate(named):
        tau = found.kendall_tau
        if math.isnan(tau.value):
            axes.text(0.01, row, "undefined: all equal", va="center", fontsize=8, color=INK)
            continue
        axes.barh(row, tau.value, height=0.62, color=ACCENT if name.startswith("supernet") else MUTED)
        axes.hlines(row, tau.low, tau.high, color=INK, linewidth=1.4)
        axes.vlines([tau.low, tau.high], row - 0.14, row + 0.14, color=INK, linewidth=1.4)
        axes.annotate(
            f"{tau.value:.2f}",
            (tau.high, row),
            textcoords="offset points",
            xytext=(5, 0),
            ha="left",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(named)), [name for name, _ in named], color=INK)
    axes.set_ylim(-0.6, len(named) - 0.4)
    lowest = min([found.kendall_tau.low for _, found in named if found.kendall_tau.low < 0], default=0.0)
    axes.set_xlim(lowest - 0.05 if lowest < 0 else 0, 1 + 0.09 * (1 - lowest))  # room for the number beside a bar
    first = named[0][1]
    axes.set_title(
        f"{first.count} architectures, {100 * first.coverage:g} % bootstrap intervals", color=INK, fontsize=11
    )
    return png(figure)


def markdown_table(agreements: Mapping[str, Agreement]) -> str:
    """One row per estimator, best tau first: value and interval of each statistic, regret in percentage points."""
    top_k = next(iter(agreements.values())).top_k
    lines = [
        f"| estimator | Kendall's tau | Spearman | top-{top_k} overlap | nDCG@{top_k} | regret (points) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in _sorted(agreements):
        own = (found.kendall_tau, found.spearman, found.top_k_overlap, found.ndcg)
        cells = (*map(_text, own), _text(found.regret, 100))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sorted(agreements: Mapping[str, Agreement]) -> list[tuple[str, Agreement]]:
    """Highest tau first, undefined last, ties by name."""

    def best_first(item: tuple[str, Agreement]) -> tuple[float, str]:
        tau = item[1].kendall_tau.value
        return (math.inf if math.isnan(tau) else -tau, item[0])

    return sorted(agreements.items(), key=best_first)


def _text(interval: Interval, scale: float = 1.0) -> str:
    if math.isnan(interval.value):
        return "–"
    value, low, high = (f"{scale * part:.2f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _name_marks(
    figure: "Figure", axes: "Axes", marks: list[tuple[float, float]], ringed: list[tuple[float, float, str]]
) -> None:
    """Writes each name where it covers the fewest marks and names."""
    figure.draw_without_rendering()
    points = axes.transData.transform(marks)
    taken: list[Bbox] = []
    for x, y, name in ringed:
        others = points[(np.asarray(marks) != (x, y)).any(axis=1)]
        written: list[tuple[int, int, Annotation, Bbox]] = []
        for preference, (across, up, side) in enumerate(OFFSETS):
            text = axes.annotate(
                name,
                (x, y),
                textcoords="offset points",
                xytext=(across, up),
                ha=side,
                fontsize=8,
                color=INK,
            )
            box = text.get_window_extent()
            outside = not (box.x0 >= axes.bbox.x0 and box.x1 <= axes.bbox.x1)
            covered = (
                sum(box.padded(pad).contains(*point) for point in others for pad in (MARK_PIXELS, RING_PIXELS))
                + sum(map(box.overlaps, taken))
                + 9 * outside
            )
            written.append((covered, preference, text, box))
        best = min(written, key=lambda found: found[:2])
        taken.append(best[3])
        for found in written:
            if found is not best:
                found[2].remove()
