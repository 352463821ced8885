"""Which sub-networks a training step trains: a function of the seed and the step, so all processes agree."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from mvig_nas.architecture import STAGES, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.search_space import SearchSpace

RULES = ("sandwich", "uniform")
# What opens in each phase of a progressive training (Once-for-All, arXiv 1908.09791); in the first, only what costs no
# weights of its own is free.
PHASES: tuple[tuple[str, ...], ...] = (
    ("resolution", "graph_step", "graph_operator", "activation"),
    ("conv_kernel", "graph_groups", "graph_cpe", "graph_scale"),
    ("conv_depth", "graph_depth"),
    ("width", "head_width", "conv_expansion", "ffn_expansion"),
)
WIDTHS_OPEN = len(PHASES) - 1
_TRIES = 64

Draw = Callable[[random.Random], Architecture]


@dataclass(frozen=True)
class LatencyRange:
    """Latencies of interest: a draw outside is drawn again, and after many tries the nearest is taken."""

    latency: ArchitectureLatency
    low_ms: float
    high_ms: float

    def __post_init__(self) -> None:
        if not 0 <= self.low_ms < self.high_ms:
            raise MvigNasError(
                f"a latency range must run from a lower to a higher bound, got {self.low_ms} to {self.high_ms} ms."
            )

    def draw(self, draw: Draw, rng: random.Random) -> Architecture:
        """An architecture inside the range, or the nearest of `_TRIES`."""
        tried: list[tuple[float, Architecture]] = []
        while len(tried) < _TRIES and not (tried and tried[-1][0] == 0):
            candidate = draw(rng)
            latency_ms = float(self.latency.predict_ms([candidate])[0])
            tried.append((max(self.low_ms - latency_ms, latency_ms - self.high_ms, 0.0), candidate))
        return min(tried, key=lambda entry: entry[0])[1]


@dataclass(frozen=True)
class Sampling:
    """The sub-networks of every step.

    Args:
        space: to sample from.
        rule: `sandwich` trains the largest, the smallest and `random_networks` others (arXiv 1903.05134); `uniform`
            trains as many, all drawn at random.
        random_networks: at least one.
        latency_range: of interest for the random ones; None for all alike.
        progressive: open the space in `PHASES` of equal length rather than at once.
        seed: of the draws.

    Raises:
        MvigNasError: an unknown rule, or no random network.
    """

    space: SearchSpace
    rule: str = "sandwich"
    random_networks: int = 2
    latency_range: LatencyRange | None = None
    progressive: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise MvigNasError(f"a sampling rule must be one of {RULES}, got {self.rule!r}.")
        if self.random_networks < 1:
            raise MvigNasError(f"`random_networks` must be at least 1, got {self.random_networks}.")

    def phase(self, step: int, steps: int) -> int:
        """Index in `PHASES` of this step, the last one from the start if the training is not progressive."""
        return min(step * len(PHASES) // steps, WIDTHS_OPEN) if self.progressive else WIDTHS_OPEN

    def networks(self, step: int, steps: int) -> tuple[Architecture, ...]:
        """Sub-networks of this step, without repetition; under the sandwich rule the largest is the first."""
        phase = self.phase(step, steps)

        def draw(rng: random.Random) -> Architecture:
            return self._within(self.space.sample(rng), phase)

        count = self.random_networks + (2 if self.rule == "uniform" else 0)
        drawn = []
        for index in range(count):
            rng = random.Random(f"{self.seed} {step} {index}")
            drawn.append(draw(rng) if self.latency_range is None else self.latency_range.draw(draw, rng))
        if self.rule == "sandwich":
            drawn = [self.space.largest, self._within(self.space.smallest, phase), *drawn]
        return tuple(dict.fromkeys(drawn))

    def _within(self, architecture: Architecture, phase: int) -> Architecture:
        """The architecture with the largest choice of every parameter that is not open yet."""
        if phase == WIDTHS_OPEN:
            return architecture
        names = {name for names in PHASES[: phase + 1] for name in names}
        values, largest = self.space.encode(architecture), self.space.encode(self.space.largest)
        open_keys = names | {f"stage{number}.{name}" for number in range(1, STAGES + 1) for name in names}
        return self.space.decode({key: values[key] if key in open_keys else largest[key] for key in values})
