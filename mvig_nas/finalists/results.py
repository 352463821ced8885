"""What came of the finalists: who won by how much, who was stopped when, and where the score was wrong."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import save
from mvig_nas.plots import ACCENT, BAND, MUTED, figure_axes, legend, png
from mvig_nas.standard_error import standard_error

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Finalist:
    """One architecture's training.

    Attributes:
        architecture: what was trained.
        score: what the search said of it; None for a preset that the search did not score.
        score_rank: its position among the finalists by score, from 1; None without a score.
        latency_ms: predicted, at batch 1.
        state: `finished` after all epochs, `stopped` early as too weak, or `failed`.
        curve: epoch and top-1 (a fraction) on the held-out images, after every epoch.
        right: 1 or 0 for every held-out image after the last epoch, of shape (n,); None unless finished.
        reason: why it failed.
    """

    architecture: Architecture
    score: float | None
    score_rank: int | None
    latency_ms: float
    state: State
    curve: tuple[tuple[int, float], ...]
    right: np.ndarray[Any, np.dtype[np.int64]] | None = None
    reason: str | None = None

    @property
    def top1(self) -> float | None:
        """Top-1 after the last epoch that was trained, a fraction."""
        return self.curve[-1][1] if self.curve else None

    @property
    def epochs(self) -> int:
        """Epochs that were trained."""
        return self.curve[-1][0] if self.curve else 0


@dataclass(frozen=True)
class Finalists:
    """All finalists of a run; those that finished come first, the most accurate first."""

    rows: tuple[Finalist, ...]
    images: int
    score_name: str
    device: str
    seconds: float

    @property
    def winner(self) -> Finalist:
        """The finished one of the highest top-1; of equals the fastest.

        Raises:
            MvigNasError: none finished.
        """
        if not self.rows or self.rows[0].state != "finished":
            reasons = "; ".join(row.reason for row in self.rows if row.reason) or "all were stopped early"
            raise MvigNasError(f"a winner must have trained to the end, but none did: {reasons}.")
        return self.rows[0]

    def standard_error(self, row: Finalist) -> float:
        """Of a top-1, a fraction, by the number of held-out images."""
        return standard_error(row.top1 or 0.0, self.images)

    def difference(self, row: Finalist) -> tuple[float, float] | None:
        """Winner's top-1 minus this one's and its standard error, over the same images; None unless both finished."""
        if self.winner.right is None or row.right is None:
            return None
        apart = self.winner.right - row.right
        return float(apart.mean()), float(apart.std() / sqrt(len(apart)))

    def is_distinguishable(self, row: Finalist) -> bool:
        """Whether the winner is better by more than two standard errors, or this one was stopped or failed."""
        found = self.difference(row)
        return found is None or found[0] > 2 * found[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; accuracies are fractions, latencies milliseconds."""
        return {
            "images": self.images,
            "score_name": self.score_name,
            "device": self.device,
            "seconds": self.seconds,
            "winner": self.winner.architecture.fingerprint,
            "finalists": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Finalist) -> dict[str, Any]:
        difference = self.difference(row)
        return {
            "fingerprint": row.architecture.fingerprint,
            "state": row.state,
            "epochs": row.epochs,
            "top1": row.top1,
            "top1_standard_error": self.standard_error(row) if row.curve else None,
            "behind_winner": None if difference is None else difference[0],
            "behind_winner_standard_error": None if difference is None else difference[1],
            "score": row.score,
            "score_rank": row.score_rank,
            "latency_ms": row.latency_ms,
            "reason": row.reason,
            "curve": [list(point) for point in row.curve],
            "architecture": row.architecture.to_dict(),
        }


def write(found: Finalists, folder: Path) -> None:
    """Write `finalists.json`, `finalists.csv`, `winner.json` and `learning_curves.png`.

    Raises:
        MvigNasError: no finalist finished, or the folder cannot be written.
    """
    plain = found.to_dict()
    save(folder / "finalists.json", json.dumps(plain, indent=1) + "\n")
    table = io.StringIO()
    columns = [name for name in plain["finalists"][0] if name not in ("curve", "architecture")]
    rows = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(plain["finalists"])
    save(folder / "finalists.csv", table.getvalue())
    save(folder / "learning_curves.png", learning_curves_png(found))
    winner = plain["finalists"][0]
    about = {"schema": 1, "device": found.device, "latency_is": "predicted", "score_name": found.score_name}
    kept = {name: value for name, value in winner.items() if name not in ("curve", "reason", "state")}
    save(folder / "winner.json", json.dumps({**about, **kept}, indent=1) + "\n")


def learning_curves_png(found: Finalists) -> bytes:
    """Top-1 after every epoch, of every finalist; those that were stopped end early."""
    figure, axes = figure_axes("epoch", f"top-1 on {found.images:,} held-out images (%)")
    for row in reversed(found.rows):
        epochs, top1 = [each[0] for each in row.curve], [100 * each[1] for each in row.curve]
        is_winner = row is found.winner
        label = f"{row.architecture.fingerprint[:8]} (winner)" if is_winner else None
        style: Mapping[str, Any] = (
            {"color": ACCENT, "linewidth": 2.2, "zorder": 4}
            if is_winner
            else {"color": BAND if row.state == "finished" else MUTED, "linewidth": 1.1}
        )
        axes.plot(epochs, top1, marker="o", markersize=3, label=label, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes)
    return png(figure)


def ordered(rows: Sequence[Finalist]) -> tuple[Finalist, ...]:
    """Finished ones first by top-1, then stopped ones by how long they lasted, then failed ones."""
    states = {"finished": 0, "stopped": 1, "failed": 2}
    return tuple(sorted(rows, key=lambda row: (states[row.state], -row.epochs, -(row.top1 or 0.0), row.latency_ms)))
