"""Figures of searches, of predictors and of trained networks, as PNG bytes."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from mvig_nas.plots import ACCENT, BAND, INK, MUTED, figure_axes, legend, logarithmic, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mvig_nas.latency.held_out import HeldOut
    from mvig_nas.scores import Meaning
    from mvig_nas.search import Study
    from mvig_nas.search.contracts import Candidate

_MOST_NAMED = 30  # classes


def score_latency_png(study: "Study", presets: Sequence[Mapping[str, Any]], meaning: "Meaning") -> bytes:
    """Score against predicted latency: every scored candidate, the front, the presets, the winner, the budget."""
    figure, axes = figure_axes(
        f"predicted latency on {study.settings.labels.get('device', 'device')} (ms)", _score_label(study, meaning)
    )
    _percent(axes, meaning)
    scored = [candidate for candidate in study.candidates if candidate.score is not None]
    axes.scatter([c.latency_ms for c in scored], [_score(c) for c in scored], s=14, color=MUTED, label="scored")
    front = study.front
    axes.step([c.latency_ms for c in front], [_score(c) for c in front], where="post", color=BAND, label="front")
    if study.settings.budget.latency_ms is not None:
        axes.axvline(study.settings.budget.latency_ms, color=INK, linestyle=":", linewidth=1, label="budget")
    _published(axes, presets)
    winner = study.winner
    if winner is not None and winner.score is not None:
        axes.scatter([winner.latency_ms], [winner.score], marker="*", s=170, color=ACCENT, label="winner", zorder=4)
        # without a budget it tells little, and is so wide that the front would be a corner of the picture
        if winner.interval_ms is not None and study.settings.budget.latency_ms is not None:
            low, high = winner.interval_ms
            axes.hlines(winner.score, low, high, color=ACCENT, linewidth=1.2, label="its 80 % interval")
        error = meaning.standard_error(winner.score)
        if error is not None:
            bounds = winner.score - 2 * error, winner.score + 2 * error
            axes.vlines(winner.latency_ms, *bounds, color=ACCENT, linewidth=1.2, label="two standard errors")
    legend(axes)
    return png(figure)


def _published(axes: "Axes", presets: Sequence[Mapping[str, Any]]) -> None:
    """The published networks that lie near what is drawn already; those far off would press it into a corner."""
    (low, high), _ = axes.get_xlim(), axes.get_ylim()
    reach = high - low
    near = [
        preset
        for preset in presets
        if preset["score"] is not None and low - reach / 2 <= preset["latency_ms"] <= high + reach / 2
    ]
    if not near:
        return
    latencies_ms = [preset["latency_ms"] for preset in near]
    scores = [preset["score"] for preset in near]
    axes.scatter(latencies_ms, scores, marker="s", s=34, color=INK, label="published networks", zorder=3)
    middle = sum(axes.get_xlim()) / 2
    for preset in near:
        is_right = preset["latency_ms"] > middle  # its name goes to the left, where the picture does not end
        axes.annotate(
            preset["name"],
            (preset["latency_ms"], preset["score"]),
            textcoords="offset points",
            xytext=(-6 if is_right else 6, -10),
            ha="right" if is_right else "left",
            fontsize=8,
            color=INK,
        )


def best_so_far_png(study: "Study", meaning: "Meaning") -> bytes:
    """Best score against the number of evaluations."""
    figure, axes = figure_axes("evaluations", f"best {_score_label(study, meaning)} so far")
    _percent(axes, meaning)
    series = [(count, best) for count, best in enumerate(study.best_so_far, start=1) if best is not None]
    axes.step([count for count, _ in series], [best for _, best in series], where="post", color=BAND)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if series:
        axes.scatter([series[-1][0]], [series[-1][1]], color=ACCENT, zorder=3)
    return png(figure)


def calibration_png(measured_ms: NDArray[Any], held_out: "HeldOut", device: str) -> bytes:
    """Predicted against measured latency, each with its 80 % interval, and the line where they agree."""
    figure, axes = figure_axes(f"measured latency on {device} (ms)", "predicted by a fit without the network (ms)")
    inside = (held_out.lower_ms <= measured_ms) & (measured_ms <= held_out.upper_ms)
    for rows, color, label in (
        (inside, BAND, "measurement inside the 80 % interval"),
        (~inside, ACCENT, "measurement outside"),
    ):
        if not rows.any():
            continue
        predicted = held_out.predicted_ms[rows]
        reach = [predicted - held_out.lower_ms[rows], held_out.upper_ms[rows] - predicted]
        axes.errorbar(
            measured_ms[rows], predicted, yerr=reach, fmt="o", markersize=3.5, linewidth=0.8, color=color,
            label=f"{label} ({rows.sum()})",
        )  # fmt: skip
    ends = [float(measured_ms.min()), float(measured_ms.max())]
    axes.plot(ends, ends, color=INK, linewidth=1, label="equal")
    axes.fill_between(ends, [0.9 * end for end in ends], [1.1 * end for end in ends], color=MUTED, alpha=0.3)
    logarithmic(axes)
    legend(axes)
    return png(figure)


def learning_curve_png(points: Sequence[Mapping[str, Any]]) -> bytes:
    """Median error on networks held out against the number of networks fitted, a line for each start."""
    figure, axes = figure_axes("networks measured", "median error on others (%)")
    starts = list(dict.fromkeys(point["start"] for point in points))
    for name, color in zip(starts, (BAND, ACCENT), strict=False):
        own = [point for point in points if point["start"] == name]
        errors = [100 * point["median_error"] for point in own]
        axes.plot([point["networks"] for point in own], errors, marker="o", color=color, label=name)
    axes.set_xscale("log")
    logarithmic(axes, "y")
    ticks = sorted({point["networks"] for point in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    legend(axes)
    return png(figure)


def confusion_png(confusion: NDArray[Any], classes: Sequence[str]) -> bytes:
    """For each class (rows), the shares of its images by the class answered (columns); counts where readable."""
    figure, axes = figure_axes("answered", "class", height=6.4)
    counts = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(counts, 1)
    axes.grid(visible=False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MOST_NAMED:
        positions = list(range(len(classes)))
        axes.set_xticks(positions, list(classes), rotation=90, fontsize=7)
        axes.set_yticks(positions, list(classes), fontsize=7)
        for row in positions:
            for column in positions:
                if confusion[row, column]:
                    dark = shares[row, column] > 0.5
                    axes.text(
                        column, row, str(confusion[row, column]), ha="center", va="center", fontsize=6,
                        color="white" if dark else "black",
                    )  # fmt: skip
    return png(figure)


def _score_label(study: "Study", meaning: "Meaning") -> str:
    name = study.settings.score.partition(":")[0]
    return f"top-1 ({name})" if meaning.is_top1 else f"score ({name})"


def _percent(axes: "Axes", meaning: "Meaning") -> None:
    if meaning.is_top1:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _score(candidate: "Candidate") -> float:
    return math.nan if candidate.score is None else candidate.score
