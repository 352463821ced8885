"""The look that all plots share: colours, axes, PNG bytes."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, MUTED, ACCENT, BAND = "#1d2733", "#9fb0c3", "#d1495b", "#00798c"


def figure_axes(xlabel: str, ylabel: str, height: float = 4.4) -> "tuple[Figure, Axes]":
    """An empty figure of one plot, `height` inches high."""
    figure, (axes,) = panels([(xlabel, ylabel)], height)
    return figure, axes


def panels(labels: Sequence[tuple[str, str]], height: float) -> "tuple[Figure, list[Axes]]":
    """An empty figure of plots below each other, each `height` inches high, with the labels of its x and y axes."""
    figure = Figure(figsize=(7.2, height * len(labels)), dpi=130, layout="constrained")
    found = []
    for number, (xlabel, ylabel) in enumerate(labels, 1):
        axes = figure.add_subplot(len(labels), 1, number)
        axes.set_xlabel(xlabel, color=INK)
        axes.set_ylabel(ylabel, color=INK)
        axes.grid(color="#e3e8ee", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        found.append(axes)
    return figure, found


def legend(axes: "Axes") -> None:
    """A legend of what has been drawn, where it hides least; none where nothing that was drawn has a name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best", facecolor="white", edgecolor="white", framealpha=0.85)


def logarithmic(axes: "Axes", which: str = "xy") -> None:
    """Make the axes named logarithmic, with ticks at 1, 2 and 5 of each power of ten, written as plain numbers."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis: Axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def png(figure: Figure) -> bytes:
    """The figure as PNG; without a date or version in it, so that the same data give the same bytes.

    Names of classes, networks and files stand in it as they are: what is between dollars is no formula.
    """
    content = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # of texts that drawing makes, such as ticks
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
