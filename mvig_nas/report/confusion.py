"""Which classes a network takes for which, as PNG bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvig_nas.plots import figure_axes, png

_MOST_NAMED = 30


def confusion_png(confusion: "NDArray[Any]", classes: Sequence[str]) -> bytes:
    """Shares of each class's images (rows) by the class that was answered (columns); counts where they are readable."""
    figure, axes = figure_axes("answered", "class", height=6.4)
    counts = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(counts, 1)
    axes.grid(visible=False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MOST_NAMED:
        places = list(range(len(classes)))
        axes.set_xticks(places, list(classes), rotation=90, fontsize=7)
        axes.set_yticks(places, list(classes), fontsize=7)
        for row in places:
            for column in places:
                if confusion[row, column]:
                    dark = shares[row, column] > 0.5
                    axes.text(
                        column, row, str(confusion[row, column]), ha="center", va="center", fontsize=6,
                        color="white" if dark else "black",
                    )  # fmt: skip
    return png(figure)
