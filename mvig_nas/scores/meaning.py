"""What the values of a score are: a top-1 with a standard error, or an order that has no unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from mvig_nas.standard_error import standard_error

TRAIN = "train:"  # what the name of a score by short trainings begins with
HOLD_OUT = 0.15  # share of the training images that the top-1 of short trainings is measured on
_TELLING = 2.0  # standard errors of a difference, from which two networks count as told apart


@dataclass(frozen=True)
class Meaning:
    """What a score's values are, and how uncertain they are.

    `note` is a sentence for people. `is_top1` says that values are fractions of images, in [0, 1]. `images` is the
    number of images that a value was measured on, and `spread` the standard deviation of a value that was predicted;
    both are None for a score without a unit.
    """

    note: str = "The score is a training-free proxy: it orders networks and is no accuracy."
    is_top1: bool = False
    images: int | None = None
    spread: float | None = None

    def standard_error(self, value: float) -> float | None:
        """The standard error of a value, in the same unit; None where it is not known."""
        if self.spread is not None:
            return self.spread
        if self.images is not None:
            return standard_error(value, self.images)
        return None

    def shown(self, value: float) -> str:
        """A value as people read it: `77.8 % ± 1.1`, or `230.064` without a unit."""
        if not self.is_top1:
            return f"{value:.3f}"
        error = self.standard_error(value)
        return f"{100 * value:.1f} %" + ("" if error is None else f" ± {100 * error:.1f}")

    def alike(self, values: Sequence[float]) -> int | None:
        """How many of these values cannot be told from the highest, itself not counted.

        They are less than two standard errors of the difference below it. The errors count as independent, which for
        values measured on the same images is the careful side. None where the standard error is not known.
        """
        best = max(values, default=0.0)
        error = self.standard_error(best)
        if error is None:
            return None
        squares = ((value, (self.standard_error(value) or 0.0) ** 2 + error**2) for value in values)
        return max(sum(best - value < _TELLING * sqrt(square) for value, square in squares) - 1, 0)


def meaning_of(score: object) -> Meaning:
    """The meaning of a score: what its attribute `meaning` holds, or that of a training-free proxy."""
    meaning = getattr(score, "meaning", None)
    return meaning if isinstance(meaning, Meaning) else Meaning()
