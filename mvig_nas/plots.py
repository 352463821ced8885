"""The look that all plots share: colours, axes, PNG bytes."""

import io
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, ACCENT, BAND = "#1d2733", "#9fb0c3", "#d1495b", "#00798c"


def figure_axes(xlabel: str, ylabel: str, height: float = 4.4) -> "tuple[Figure, Axes]":
    """An empty figure of one plot, `height` inches high."""
    figure = Figure(figsize=(7.2, height), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.grid(color="#e3e8ee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as PNG; without a date or version in it, so that the same data give the same bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
