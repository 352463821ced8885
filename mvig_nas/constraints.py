"""Constraints: what every network of a search space must keep beyond its single choices.

A space with constraints holds fewer networks than there are settings of its parameters. A setting that breaks one is
brought to a near one that does not: widths first come down to what later stages can reach and then up to the stage
before; a stage gets the fewest MBConv blocks, else graph blocks, that it lacks; graph blocks come into the last stage
that can have them. So each setting still means a network, which is what samplers need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from mvig_nas.architecture import STAGES, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.values import about, check

Choices = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Constraints:
    """The `[constraints]` table of a space file; by default nothing is asked.

    Raises:
        MvigNasError: a value is of the wrong type or negative.
    """

    least_blocks: Annotated[int, about("Least number of blocks, of either kind, in every stage.", ge=0)] = 0
    least_graph_blocks: Annotated[int, about("Least number of graph blocks in the whole network.", ge=0)] = 0
    widths_may_fall: Annotated[bool, about("Whether a stage may be narrower than the one before it.")] = True

    def __post_init__(self) -> None:
        check(self)

    def is_implied_by(self, other: "Constraints") -> bool:
        """Whether every network that keeps `other` keeps these too."""
        return (
            self.least_blocks <= other.least_blocks
            and self.least_graph_blocks <= other.least_graph_blocks
            and (self.widths_may_fall or not other.widths_may_fall)
        )

    def broken_by(self, architecture: Architecture) -> str | None:
        """Which constraint an architecture breaks, and by what; None if it keeps all."""
        stages = architecture.stages
        for number, stage in enumerate(stages, start=1):
            blocks = stage.conv_depth + stage.graph_depth
            if blocks < self.least_blocks:
                return f"`least_blocks` is {self.least_blocks}, but stage {number} has {blocks}"
        graph_blocks = sum(stage.graph_depth for stage in stages)
        if graph_blocks < self.least_graph_blocks:
            return f"`least_graph_blocks` is {self.least_graph_blocks}, but the network has {graph_blocks}"
        widths = [stage.width for stage in stages]
        if not self.widths_may_fall and widths != sorted(widths):
            return f"`widths_may_fall` is false, but the widths are {tuple(widths)}"
        return None

    def check_possible(self, choices: Choices) -> None:
        """That some network of these choices keeps them.

        Raises:
            MvigNasError: none does.
        """
        most = [max(choices[f"stage{number}.graph_depth"]) for number in range(1, STAGES + 1)]
        if sum(most) < self.least_graph_blocks:
            raise MvigNasError(
                f"`least_graph_blocks` must be possible, got {self.least_graph_blocks} where all stages together have "
                f"{sum(most)} at most; allow more."
            )
        for number, graph_depth in enumerate(most, start=1):
            blocks = max(choices[f"stage{number}.conv_depth"]) + graph_depth
            if blocks < self.least_blocks:
                raise MvigNasError(
                    f"`least_blocks` must be possible, got {self.least_blocks} where stage {number} has {blocks} at "
                    "most; allow more."
                )
        if not self.widths_may_fall:
            _width_limits(choices)

    def repaired(self, values: Mapping[str, Any], choices: Choices) -> dict[str, Any]:
        """A near setting of the parameters that keeps them; the same one where it does already."""
        found = dict(values)
        if not self.widths_may_fall:
            before = 0
            for number, limit in enumerate(_width_limits(choices), start=1):
                key = f"stage{number}.width"
                least = max(before, min(found[key], limit))
                before = found[key] = min(width for width in choices[key] if width >= least)
        for number in range(1, STAGES + 1):
            conv, graph = f"stage{number}.conv_depth", f"stage{number}.graph_depth"
            found[conv] = _at_least(found[conv], self.least_blocks - found[graph], choices[conv])
            found[graph] = _at_least(found[graph], self.least_blocks - found[conv], choices[graph])
        depths = [f"stage{number}.graph_depth" for number in range(1, STAGES + 1)]
        for key in reversed(depths):
            others = sum(found[each] for each in depths if each != key)
            found[key] = _at_least(found[key], self.least_graph_blocks - others, choices[key])
        return found


UNCONSTRAINED = Constraints()


def _at_least(value: int, least: int, choices: Sequence[int]) -> int:
    """The value, or the smallest choice of at least so much, or the largest."""
    if value >= least:
        return value
    return min((choice for choice in choices if choice >= least), default=max(choices))


def _width_limits(choices: Choices) -> list[int]:
    """Of each stage the largest width that no later stage forbids."""
    limits: list[int] = []
    for number in range(STAGES, 0, -1):
        widths = choices[f"stage{number}.width"]
        possible = [int(width) for width in widths if not limits or width <= limits[-1]]
        if not possible:
            raise MvigNasError(
                f"`widths_may_fall` must be true where widths cannot but fall, got stage {number} of at least "
                f"{min(widths)} before one of at most {limits[-1]}; change one of them."
            )
        limits.append(max(possible))
    return limits[::-1]
