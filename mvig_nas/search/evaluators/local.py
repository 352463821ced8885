"""Scores computed in this process."""

import math
import time
from collections.abc import Callable, Generator, Sequence

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.scores import Score
from mvig_nas.search.contracts import Outcome


class LocalEvaluator:
    """Scores are computed in this process, one after the other, in the order asked for."""

    def __init__(self, score: Score) -> None:
        self.name = score.name
        self._score = score

    def __call__(self, architectures: Sequence[Architecture], is_over: Callable[[], bool]) -> Generator[Outcome]:
        for architecture in architectures:
            if is_over():
                return
            yield evaluated(self._score, architecture)


def evaluated(score: Score, architecture: Architecture) -> Outcome:
    """Score one architecture here; MvigNasError becomes the reason of the outcome, any other error is raised."""
    began = time.perf_counter()
    value, reason = None, None
    try:
        value = float(score(architecture))
        if not math.isfinite(value):
            value, reason = None, f"the score must be finite, got {value}"
    except MvigNasError as error:
        reason = str(error)
    return Outcome(architecture, value, time.perf_counter() - began, reason)
