"""The picture of a training: its losses and, where it was validated, its top-1."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from mvig_nas.files import save
from mvig_nas.plots import ACCENT, BAND, INK, MUTED, legend, panels, png
from mvig_nas.training.training_log import FILE, VALIDATION

PICTURE = "learning_curves.png"
_NAMES = {
    "loss": "all together",
    "loss_labels": "of the labels",
    "loss_teacher": "of the teacher",
    "loss_largest": "of the largest network",
    "loss_others": "of the other networks",
    "val_top1_mean": "the network",
    "val_top1_labels": "its classifier of labels",
    "val_top1_teacher": "its classifier of the teacher",
}
_COLORS = (ACCENT, BAND, INK, MUTED)
_FEW = 30  # points, each of which has a marker

Rows = Sequence[Mapping[str, float]]


def write_learning_curves(folder: Path) -> bool:
    """Draw the training's `log.csv` and `validation.csv` into `learning_curves.png` beside them.

    Args:
        folder: of the training. Rows that are damaged are left out.

    Returns:
        Whether there was anything to draw.

    Raises:
        MvigNasError: the picture cannot be written.
    """
    losses, validations = _read(folder / FILE), _read(folder / VALIDATION)
    if not losses and not validations:
        return False
    save(folder / PICTURE, learning_curves_png(losses, validations))
    return True


def learning_curves_png(losses: Rows, validations: Rows) -> bytes:
    """The losses over the steps and, below them, the top-1 over the epochs; a panel without rows is left out.

    Args:
        losses: rows of `log.csv`.
        validations: rows of `validation.csv`; top-1 is a fraction there.
    """
    asked = [
        (losses, "step", "loss", 1.0, "training step", "training loss"),
        (validations, "epoch", "val_top1", 100.0, "epoch", "top-1 on validation (%)"),
    ]
    drawn = [each for each in asked if each[0]]
    figure, all_axes = panels([(each[4], each[5]) for each in drawn], height=3.2)
    for axes, (rows, x, prefix, unit, _, _) in zip(all_axes, drawn, strict=True):
        columns = [name for name in _NAMES if name.startswith(prefix) and any(name in row for row in rows)]
        for name, color in zip(columns, _COLORS, strict=False):
            own = [row for row in rows if name in row and x in row]
            marker = "o" if len(own) <= _FEW else None
            axes.plot(
                [row[x] for row in own],
                [unit * row[name] for row in own],
                color=color,
                marker=marker,
                markersize=3,
                label=_NAMES[name],
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlim(left=0)
        if len(columns) > 1:
            legend(axes)
    return png(figure)


def _read(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV file of numbers; without those that are not finite."""
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                values = {name: float(value) for name, value in row.items()}
            except (TypeError, ValueError):
                continue
            rows.append({name: value for name, value in values.items() if math.isfinite(value)})
    return rows
