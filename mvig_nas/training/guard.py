"""Guard: tells a run that diverges from one that is merely noisy.

Supernets are known to collapse in mid-training (facebookresearch/AttentiveNAS, issue 5). Losses are cross-entropies in
nats; a network that guesses among C classes has ln C.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from mvig_nas.errors import MvigNasError

_REMEMBERED = 100  # losses
_FIRST = 20  # losses before any is called an outlier
# An outlier is some times the median of the remembered, and so many nats: where the median is near 0, a few images with
# wrong labels multiply a batch's loss, yet a batch of 5 nats has lost what it knew.
_SPIKE, _LEAST_SPIKE = 4.0, 5.0
_COLLAPSE = 1.5  # times the lowest median so far, and half a nat more
_LATEST = 10  # losses that show a collapse before the median does


class DivergedError(MvigNasError):
    """The weights answer with what is no number."""


@dataclass(frozen=True)
class Rollback:
    """A return to an earlier step: what step diverged, its loss, the step returned to, and the rate's factor since."""

    step: int
    loss: float
    to_step: int
    rate_scale: float


class Guard:
    """Remembers losses, in nats, and tells which is too high; it travels in checkpoints as plain values."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_REMEMBERED)
        self._lowest = math.inf

    def diverges(self, loss: float) -> bool:
        """Whether a step of this loss must not be taken; a healthy loss is remembered."""
        if not math.isfinite(loss):
            return True
        if len(self._losses) >= _FIRST:
            usual = median(self._losses)
            if loss > max(_SPIKE * usual, _LEAST_SPIKE) or self._collapsed(usual):
                return True
            self._lowest = min(self._lowest, usual)
        self._losses.append(loss)
        return False

    @property
    def is_calm(self) -> bool:
        """Whether the latest losses are near the lowest: a state saved now is one to go back to."""
        latest = list(islice(reversed(self._losses), _LATEST))
        return not latest or not self._collapsed(median(latest))

    def to_dict(self) -> dict[str, Any]:
        """Losses and their lowest median, as plain values."""
        return {"losses": list(self._losses), "lowest": self._lowest}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Guard":
        """Guard from `to_dict`'s values."""
        guard = cls()
        guard._losses.extend(values["losses"])
        guard._lowest = values["lowest"]
        return guard

    def _collapsed(self, loss: float) -> bool:
        return loss > _COLLAPSE * self._lowest + 0.5
