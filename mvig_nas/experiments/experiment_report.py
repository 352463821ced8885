"""The page and the plot of an experiment."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

from mvig_nas.experiments.ablation import Ablation, CellResult
from mvig_nas.experiments.dense import DenseResult
from mvig_nas.experiments.fronts import Front, Point
from mvig_nas.experiments.intervals import Estimate, mean_estimate
from mvig_nas.files import save
from mvig_nas.plots import ACCENT, BAND, INK, MUTED, figure_axes, legend, logarithmic, png
from mvig_nas.report.html import document, image, table

REPORT = "report.html"
_MOST_NOTES = 4  # that are shown one by one
_FILES = {"Cells": "cells.png", "Operators alone": "operators.png", "Fronts": "fronts.png", "Segmentation": "dense.png"}
DENSE_COLUMNS = ("cell", "widths adjusted", "MMACs", "M parameters", "mean IoU %", "points")
FRONTS_NOTE = (
    "Fit: share of 1,000 random networks of the space. Bytes are of int8, one for each number; a budget holds for "
    "weights and for activations at a time, each by itself. No phone has timed networks like these."
)
_COLORS = (BAND, ACCENT, INK, MUTED, "#edae49", "#8d6a9f")


def write_experiment(found: Ablation, folder: Path, command: str) -> None:
    """Write `report.html` and `cells.png` into the run's folder.

    Args:
        found: what the experiment found.
        folder: of the run.
        command: the command line that made it.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    pictures = {"Cells": cells_png(found)} if found.results else {}
    if found.operators:
        pictures["Operators alone"] = operators_png(found.operators)
    if found.fronts:
        pictures["Fronts"] = fronts_png(found.fronts)
    if found.dense:
        pictures["Segmentation"] = dense_png(found.dense)
    for title, picture in pictures.items():
        save(folder / _FILES[title], picture)
    save(folder / REPORT, experiment_page(found, pictures, command))


def columns_of(found: Ablation) -> list[str]:
    """Titles of the columns of `row_of`, without those that the experiment has no values for."""
    return ["cell", *(title for title, cells in _columns(found).items() if any(cells))]


def row_of(found: Ablation, result: CellResult) -> list[str]:
    """One cell as people read it, in the order of `columns_of`."""
    index = found.results.index(result)
    return [result.cell.name, *(cells[index] or "-" for cells in _columns(found).values() if any(cells))]


def operator_rows(found: Ablation) -> list[list[str]]:
    """Operators alone: name, exponent of time, exponent of memory, then milliseconds by map."""
    return [
        [
            row["operator"],
            Estimate(**row["time_exponent"]).shown(2),
            f"{row['memory_exponent']:.2f}",
            ", ".join(f"{kind} {count}" for kind, count in row["leaving"].items()) or "none",
            *(f"{each['value']:.3g}" for each in row["host_ms"]),
        ]
        for row in found.operators
    ]


def operator_columns(found: Ablation) -> list[str]:
    """Titles of the columns of `operator_rows`."""
    maps = found.operators[0]["maps"]
    return [
        "operator",
        "time ~ pixels^",
        "memory ~ pixels^",
        "leave the NE",
        *(f"ms at {size}×{size}" for size in maps),
    ]


def front_rows(found: Ablation) -> list[list[str]]:
    """Fronts: budget, share of random networks that fit, then the winner."""
    return [
        [each.budget, f"{each.share.value:.1%}", str(len(each.points)), *_point(each.winner)] for each in found.fronts
    ]


FRONT_COLUMNS = ("budget", "fit", "front", "score", "ms", "MMACs", "M params", "weights KiB", "peak KiB", "px")


def dense_rows(found: Ablation) -> list[list[str]]:
    """Cells of the dense task, in the order of `DENSE_COLUMNS`; points are the difference to the first."""
    first = found.dense[0] if found.dense else None
    return [
        [
            each.cell.name,
            each.cell.adjustment or "as they are",
            f"{each.macs / 1e6:.2f}",
            f"{each.parameters / 1e6:.3f}",
            mean_estimate(each.mean_iou).scaled(100).shown(1),
            "" if first is None or each is first else each.difference(first).scaled(100).shown(1, sign=True),
        ]
        for each in found.dense
    ]


def _point(point: Point | None) -> list[str]:
    if point is None:
        return ["-"] * 7
    sizes = (point.weight_bytes, point.peak_bytes)
    return [
        f"{point.score:.1f}",
        f"{point.predicted_ms:.3f}",
        f"{point.macs / 1e6:.1f}",
        f"{point.parameters / 1e6:.2f}",
        *(f"{each / 2**10:.0f}" for each in sizes),
        str(point.architecture.resolution),
    ]


def experiment_page(found: Ablation, pictures: Mapping[str, bytes], command: str) -> str:
    """The report of an experiment as one HTML page.

    Args:
        found: what the experiment found.
        pictures: PNG bytes by title.
        command: the command line that made it.
    """
    parts = [
        f"<h1>{escape(found.experiment.name)}</h1>",
        f"<p>{escape(found.experiment.question)}</p>",
        f"<p class=note>Latencies are predicted for {escape(found.device)} at batch 1, not measured there. Intervals "
        "are of 95 %, those of predictions of 80 %.</p>",
    ]
    if found.findings:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.findings)
        parts.append(f"<h2>Findings</h2><ul>{items}</ul>")
    if found.results:
        rows = [("winner" if each is found.reference else "", row_of(found, each)) for each in found.results]
        parts += ["<h2>Cells</h2>", table(columns_of(found), rows)]
        parts.append(f"<p class=note>All are compared with {escape(found.experiment.reference_name)}.</p>")
        parts += [f"<p class=note>{escape(note)}</p>" for note in outside_notes(found)]
        parts += _connectivity(found.results)
    if found.operators:
        rows = [("", row) for row in operator_rows(found)]
        parts += ["<h2>Operators alone</h2>", table(operator_columns(found), rows)]
    if found.fronts:
        parts += ["<h2>Fronts</h2>", table(FRONT_COLUMNS, [("", row) for row in front_rows(found)])]
        rows = [("", [front.budget, "", "", *_point(each)]) for front in found.fronts for each in front.points]
        parts += [table(FRONT_COLUMNS, rows), f"<p class=note>{escape(FRONTS_NOTE)}</p>"]
    if found.dense:
        parts += ["<h2>Segmentation of shapes</h2>", table(DENSE_COLUMNS, [("", row) for row in dense_rows(found)])]
    parts += [image(title, picture) for title, picture in pictures.items()]
    parts.append(f"<h2>How it was made</h2><p><code>{escape(command)}</code></p>")
    versions = ", ".join(f"{name} {number}" for name, number in found.to_dict()["versions"].items())
    parts.append(f"<p class=note>{escape(versions)}</p>")
    return document(f"mvig-nas: {found.experiment.name}", parts)


def outside_notes(found: Ablation) -> list[str]:
    """What of the predictions rests on no measurement: a line for each such cell, or one for all if they are many."""
    guessed = [each for each in found.results if each.costs.outside]
    reasons = ["; ".join(each.costs.outside) for each in guessed]
    if len(guessed) <= _MOST_NOTES:
        return [
            f"The prediction of {each.cell.name!r} rests on no measurement: {reason}."
            for each, reason in zip(guessed, reasons, strict=True)
        ]
    return [
        f"{len(guessed)} of {len(found.results)} predictions rest on no measurement: they are guesses. That of "
        f"{guessed[0].cell.name!r}, for one: {reasons[0]}. summary.json says it of each."
    ]


def cells_png(found: Ablation) -> bytes:
    """Top-1 where cells were trained, by cell if these are matched and else against latency; else predicted latency."""
    if not any(each.top1 for each in found.results):
        return _by_cell(
            found,
            f"predicted latency on {found.device} (ms)",
            lambda each: (each.costs.predicted_ms, *each.costs.interval_ms),
        )
    if found.experiment.match is None:
        return _top1_png(found)

    def top1(each: CellResult) -> tuple[float, float | None, float | None] | None:
        if not each.top1:
            return None
        estimate = mean_estimate(each.top1).scaled(100)
        return estimate.value, estimate.low, estimate.high

    return _by_cell(found, f"top-1 (%) at equal {found.experiment.match}", top1)


def _by_cell(
    found: Ablation, label: str, value: Callable[[CellResult], tuple[float, float | None, float | None] | None]
) -> bytes:
    """A row for each cell: what `value` says of it, with its interval."""
    figure, axes = figure_axes(label, "", height=1.4 + 0.3 * len(found.results))
    for position, each in enumerate(reversed(found.results)):
        told = value(each)
        if told is None:
            continue
        middle, low, high = told
        if low is not None and high is not None:
            axes.hlines(position, low, high, color=MUTED, linewidth=3)
        axes.scatter([middle], [position], color=ACCENT if each is found.reference else BAND, zorder=3)
    axes.set_yticks(range(len(found.results)), [each.cell.name for each in reversed(found.results)])
    axes.set_ylim(-0.6, len(found.results) - 0.4)
    return png(figure)


def operators_png(operators: Sequence[Mapping[str, Any]]) -> bytes:
    """Host milliseconds of operators alone against the number of pixels, on logarithmic axes."""
    figure, axes = figure_axes("pixels of the map", "milliseconds on this computer, one thread")
    for row, color in zip(operators, _COLORS, strict=False):
        values = [each["value"] for each in row["host_ms"]]
        axes.plot([size**2 for size in row["maps"]], values, marker="o", color=color, label=row["operator"])
    logarithmic(axes)
    legend(axes)
    return png(figure)


def fronts_png(fronts: Sequence[Front]) -> bytes:
    """Score against MACs: the networks of each front (of score and latency), and a line of the best so far."""
    figure, axes = figure_axes("million MACs", "score")
    for front, color in zip(fronts, (*_COLORS, *_COLORS), strict=False):
        points = sorted(front.points, key=lambda each: each.macs)
        macs, scores = [each.macs / 1e6 for each in points], [each.score for each in points]
        axes.scatter(macs, scores, s=14, color=color)
        label = f"{front.budget}, {front.share.value:.0%} of networks fit"
        axes.step(macs, list(accumulate(scores, max)), where="post", color=color, label=label)
    logarithmic(axes, "x")
    legend(axes)
    return png(figure)


def dense_png(cells: Sequence[DenseResult]) -> bytes:
    """A row for each cell: the mean IoU of every seed."""
    figure, axes = figure_axes("mean IoU on held-out images (%)", "", height=1.4 + 0.3 * len(cells))
    for position, each in enumerate(reversed(cells)):
        color = ACCENT if each is cells[0] else BAND
        axes.scatter([100 * one for one in each.mean_iou], [position] * len(each.mean_iou), color=color)
    axes.set_yticks(range(len(cells)), [each.cell.name for each in reversed(cells)])
    axes.set_ylim(-0.6, len(cells) - 0.4)
    return png(figure)


def _top1_png(found: Ablation) -> bytes:
    figure, axes = figure_axes(f"predicted latency on {found.device} (ms)", "top-1 (%)")
    for each in found.results:
        if not each.top1:
            continue
        estimate = mean_estimate(each.top1).scaled(100)
        color = ACCENT if each is found.reference else BAND
        if estimate.low is not None and estimate.high is not None:
            axes.vlines(each.costs.predicted_ms, estimate.low, estimate.high, color=MUTED)
        axes.scatter([each.costs.predicted_ms], [estimate.value], color=color, zorder=3)
        axes.annotate(
            each.cell.name,
            (each.costs.predicted_ms, estimate.value),
            textcoords="offset points",
            xytext=(5, 4),
            fontsize=7,
            color=INK,
        )
    return png(figure)


def _columns(found: Ablation) -> dict[str, list[str]]:
    results = found.results
    ratios = [found.host_ratio(each) for each in results]
    differences = [found.top1_difference(each) for each in results]
    return {
        "widths adjusted": [each.cell.adjustment for each in results],
        "matched to": ["" if each.cell.matched is None else f"{each.cell.matched - 1:+.1%}" for each in results],
        "predicted ms": [
            f"{each.costs.predicted_ms:.3f} ({each.costs.interval_ms[0]:.2f}-{each.costs.interval_ms[1]:.2f})"
            + "*" * bool(each.costs.outside)
            for each in results
        ],
        "as loop ms": ["" if each.costs.loop_ms is None else f"{each.costs.loop_ms:.3f}" for each in results],
        "host ms": ["" if each.host is None else f"{each.host.ms.value:.2f}" for each in results],
        "host ratio": ["" if each is None else each.shown(2) for each in ratios],
        "MMACs": [f"{each.costs.macs / 1e6:.1f}" for each in results],
        "M parameters": [f"{each.costs.parameters / 1e6:.2f}" for each in results],
        "peak kB": [f"{each.costs.peak_activation_bytes / 1e3:.0f}" for each in results],
        "operations": [str(sum(each.costs.operations.values())) for each in results],
        "leave the NE": [str(sum(each.costs.leaving.values()) or "") for each in results],
        "reached": [_reached(each) for each in results],
        "top-1 %": ["" if not each.top1 else mean_estimate(each.top1).scaled(100).shown(1) for each in results],
        "points": [
            "" if each is None or result is found.reference else each.scaled(100).shown(1, sign=True)
            for each, result in zip(differences, results, strict=True)
        ],
        **{
            f"{name}, points": [
                each.lost(name).scaled(100).shown(1, sign=True) if name in each.disturbed else "" for each in results
            ]
            for name in found.experiment.disturbances
        },
    }


def _reached(result: CellResult) -> str:
    """Shares of pixels that one block and two blocks reach, in the stages that have graph blocks."""
    shown = [
        f"{each['one_block']:.0%}/{each['two_blocks']:.0%}"
        for each in result.costs.connectivity
        if each["one_block"] is not None
    ]
    return " ".join(shown)


def _connectivity(results: Sequence[CellResult]) -> list[str]:
    rows = []
    for result in results:
        for each in result.costs.connectivity:
            shares = ["-" if each[name] is None else f"{each[name]:.1%}" for name in ("one_block", "two_blocks")]
            step = "-" if each["step"] is None else str(each["step"])
            size = f"{each['size']}×{each['size']}"
            cells = [result.cell.name, str(each["stage"]), size, str(each["operator"]), step, str(each["links"])]
            rows.append(("", [*cells, *shares]))
    if not rows:
        return []
    columns = ["cell", "stage", "map", "operator", "K", "links", "after one block", "after two blocks"]
    note = "<p class=note>Share of the map's pixels that a pixel hears of through links alone.</p>"
    return ["<h2>Connectivity</h2>", table(columns, rows), note]
