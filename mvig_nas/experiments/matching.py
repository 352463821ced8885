"""Matching: the widths of a cell are adjusted until it costs what the reference does."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import lcm

import numpy as np

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.experiments.experiment import Cell, Experiment
from mvig_nas.kernels import of, totals
from mvig_nas.latency import ArchitectureLatency

TOLERANCE = 0.01
_FACTORS = np.geomspace(0.25, 4.0, 385)  # of all widths together
_MOST_STEPS = 40  # of single widths, after that

Cost = Callable[[Sequence[Architecture]], Sequence[float]]


def matched_cells(experiment: Experiment, cells: Sequence[Cell], latency: ArchitectureLatency) -> tuple[Cell, ...]:
    """The cells with widths at which each costs what the reference does, within 1 %.

    Args:
        experiment: says what is made equal, and which cells stay as they are.
        cells: of the experiment.
        latency: predicts the milliseconds of a phone.

    Raises:
        MvigNasError: a cell cannot be matched by any width; the message says what comes nearest.
    """
    if experiment.match is None:
        return tuple(cells)
    cost: Cost = _macs if experiment.match == "macs" else lambda networks: latency.predict_ms(networks).tolist()
    unit = "MACs" if experiment.match == "macs" else "ms"
    reference = next(cell for cell in cells if cell.name == experiment.reference_name)
    target = cost([reference.architecture])[0]
    found = []
    for cell in cells:
        if cell.name in experiment.unmatched or cell is reference:
            ratio = 1.0 if cell is reference else None
            found.append(replace(cell, matched=ratio))
            continue
        architecture = adjusted(cell.architecture, target, cost)
        ratio = cost([architecture])[0] / target
        if abs(ratio - 1) > TOLERANCE:
            nearest = Cell(cell.name, architecture, cell.widths_before)
            raise MvigNasError(
                f"cell {cell.name!r} of experiment {experiment.name!r} must cost the same as {reference.name!r} within "
                f"{TOLERANCE:.0%}, {target:.4g} {unit}, but no widths do; the nearest, {nearest.adjustment}, cost "
                f"{ratio * target:.4g} {unit} ({ratio - 1:+.1%}). List it under `unmatched`, or change its depths."
            )
        found.append(replace(cell, architecture=architecture, matched=ratio))
    return tuple(found)


def adjusted(architecture: Architecture, target: float, cost: Cost) -> Architecture:
    """The architecture whose widths, scaled together and then one by one where that is not enough, cost the target.

    Args:
        architecture: to adjust; its widths stay multiples of its groups.
        target: that the cost should reach.
        cost: of several architectures.

    Returns:
        The nearest that was found.
    """
    quanta = [lcm(stage.graph_groups or 1, 2 if index == 0 else 1) for index, stage in enumerate(architecture.stages)]
    widths = [stage.width for stage in architecture.stages]
    scaled = {
        tuple(
            max(1, round(float(factor) * width / quantum)) * quantum
            for width, quantum in zip(widths, quanta, strict=True)
        )
        for factor in (*_FACTORS, 1.0)
    }
    best, away = _nearest(architecture, sorted(scaled), target, cost)
    for _ in range(_MOST_STEPS):
        if away <= TOLERANCE / 2:
            break
        near = [
            tuple(width + sign * quanta[at] * (at == index) for at, width in enumerate(best))
            for index in range(len(best))
            for sign in (-1, 1)
        ]
        candidate, distance = _nearest(architecture, [each for each in near if min(each) > 0], target, cost)
        if distance >= away:
            break
        best, away = candidate, distance
    return _with_widths(architecture, best)


def _nearest(
    architecture: Architecture, choices: Sequence[tuple[int, ...]], target: float, cost: Cost
) -> tuple[tuple[int, ...], float]:
    away = np.abs(np.asarray(cost([_with_widths(architecture, each) for each in choices])) / target - 1)
    index = int(away.argmin())
    return choices[index], float(away[index])


def _with_widths(architecture: Architecture, widths: Sequence[int]) -> Architecture:
    stages = tuple(replace(stage, width=width) for stage, width in zip(architecture.stages, widths, strict=True))
    return replace(architecture, stages=stages)  # type: ignore[arg-type]


def _macs(networks: Sequence[Architecture]) -> list[float]:
    return [float(totals(of(network)).macs) for network in networks]
