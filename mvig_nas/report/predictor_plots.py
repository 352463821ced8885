"""Plots of a predictor's evaluation, as PNG bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from mvig_nas.latency.evaluation import HeldOut
from mvig_nas.plots import ACCENT, BAND, INK, MUTED, figure_axes, png


def calibration_png(measured_ms: "NDArray[Any]", held_out: HeldOut, device: str) -> bytes:
    """Predicted against measured, each with its 80 % interval, and the line where they agree."""
    figure, axes = figure_axes(f"measured latency on {device} (ms)", "predicted by a fit without the network (ms)")
    inside = (held_out.lower_ms <= measured_ms) & (measured_ms <= held_out.upper_ms)
    for places, color, label in (
        (inside, BAND, "measurement inside the 80 % interval"),
        (~inside, ACCENT, "measurement outside"),
    ):
        predicted = held_out.predicted_ms[places]
        reach = [predicted - held_out.lower_ms[places], held_out.upper_ms[places] - predicted]
        axes.errorbar(
            measured_ms[places], predicted, yerr=reach, fmt="o", markersize=3.5, linewidth=0.8, color=color,
            label=f"{label} ({places.sum()})",
        )  # fmt: skip
    ends = [float(measured_ms.min()), float(measured_ms.max())]
    axes.plot(ends, ends, color=INK, linewidth=1, label="equal")
    axes.fill_between(ends, [0.9 * end for end in ends], [1.1 * end for end in ends], color=MUTED, alpha=0.3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
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
    axes.set_yscale("log")
    ticks = sorted({point["networks"] for point in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)
    return png(figure)
