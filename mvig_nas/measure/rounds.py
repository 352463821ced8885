"""Rounds over a few networks on one device, watched by a reference network.

A device that gets hot, or busy, becomes slower for everything it runs. Interleaving spreads that over all networks
of a group alike; the reference, measured between them, shows it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mvig_nas.measure.backend import Loaded, Target
from mvig_nas.measure.session import Settings, Show

Sleep = Callable[[float], object]

_SETTLING_FIGURES = 5
_DIGITS = 6


class Reference:
    """A network whose latency should stay what it was when the session began."""

    def __init__(self, target: Target, loaded: Loaded, settings: Settings, show: Show, sleep: Sleep) -> None:
        self.target = target
        self._loaded = loaded
        self._settings = settings
        self._show = show
        self._sleep = sleep
        self.first_ms = 0.0

    def figure_ms(self) -> float:
        """Median of a few runs."""
        return median(_timed(self._loaded, self._settings.reference_iterations))

    def settle(self) -> None:
        """Warm up; measure the first rounds until they agree, or the pauses are used up."""
        self._loaded.run(self._settings.iterations)
        for attempt in range(self._settings.repeats + 1):
            if attempt:
                self.pause("the reference's first rounds differ")
            figures = []
            for _ in range(_SETTLING_FIGURES):
                self._sleep(self._settings.cool_down_s)
                figures.append(self.figure_ms())
            self.first_ms = median(figures)
            if max(figures) <= min(figures) * (1 + self._settings.drift):
                return

    def drift(self, figures_ms: Sequence[float]) -> float:
        """By which share of the first rounds' latency a round's differs; above 0 it is slower."""
        return median(figures_ms) / self.first_ms - 1

    def pause(self, why: str) -> None:
        self._show(f"{why}: pause of {self._settings.pause_s:g} s")
        self._sleep(self._settings.pause_s)


@dataclass(frozen=True)
class Bench:
    reference: Reference
    settings: Settings
    rng: random.Random
    show: Show
    sleep: Sleep

    def rounds(
        self, networks: Mapping[Target, Loaded]
    ) -> tuple[dict[Target, list[float]], dict[str, str | int | float | bool]]:
        """Samples of each network in milliseconds, and what the reference says of them."""
        settings = self.settings
        samples_ms: dict[Target, list[float]] = {target: [] for target in networks}
        figures_ms: list[float] = []
        slow = fast = repeated = kept = 0
        while kept < settings.rounds:
            in_round, reference_ms = self._round(networks, kept + 1)
            drift = self.reference.drift(reference_ms)
            is_drifted = abs(drift) > settings.drift
            if is_drifted and repeated < settings.repeats:
                repeated += 1
                self.show(f"round {kept + 1} is repeated", -len(networks))
                slower = "slower" if drift > 0 else "faster"
                self.reference.pause(f"the reference is {abs(drift):.0%} {slower} than at first")
                continue
            slow, fast = slow + (is_drifted and drift > 0), fast + (is_drifted and drift < 0)
            kept += 1
            figures_ms += reference_ms
            for target, runs_ms in in_round.items():
                samples_ms[target] += [float(f"{run_ms:.{_DIGITS}g}") for run_ms in runs_ms]
        return samples_ms, {
            "reference": self.reference.target.label,
            "reference_ms": round(median(figures_ms), 4),
            "reference_drift": round(self.reference.drift(figures_ms), 4),
            "rounds_repeated": repeated,
            "rounds_drifted": slow + fast,
            "throttled": slow > 0,
        }

    def _round(self, networks: Mapping[Target, Loaded], number: int) -> tuple[dict[Target, list[float]], list[float]]:
        """Every network once, in a new order, and the reference before, between and after them."""
        in_round: dict[Target, list[float]] = {}
        reference_ms = [self.reference.figure_ms()]
        for target in self.rng.sample(list(networks), len(networks)):
            self.sleep(self.settings.cool_down_s)
            in_round[target] = _timed(networks[target], self.settings.iterations)
            reference_ms.append(self.reference.figure_ms())
            self.show(f"{target.shown}, round {number} of {self.settings.rounds}", 1)
        return in_round, reference_ms


def _timed(loaded: Loaded, iterations: int) -> list[float]:
    """Milliseconds of so many runs, after one that finds the caches full of another network."""
    return loaded.run(iterations + 1)[1:]
