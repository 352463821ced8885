"""Latency on this computer's processor: networks, and graph operators alone, take turns, so that rounds are pairs."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvig_nas import device_log
from mvig_nas.architecture import Architecture
from mvig_nas.experiments.costs import LEAVES, among, program_kinds
from mvig_nas.experiments.experiment import OperatorAlone
from mvig_nas.experiments.intervals import Estimate, median_estimate
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.kernels import NETWORK_INPUT, KernelBuilder, peak_activation_bytes
from mvig_nas.measure import MeasureProgress, MeasureSettings, Target, measure
from mvig_nas.measure.torch_cpu import TorchCpu
from mvig_nas.network.torch_maps import linked, linked_as_reference

_ROUNDS, _ITERATIONS = 20, 5
_OPERATOR_ROUNDS = 21
_LEAST_VISIT_S = 0.01  # of an operator alone: it runs as often as fits into that
_LOOP = " (loop)"  # after the name of an operator: as the authors' code computes it


@dataclass(frozen=True)
class HostLatency:
    """Median latency of a network in every round, all networks of an experiment in each; milliseconds of one thread."""

    rounds_ms: tuple[float, ...]

    @property
    def ms(self) -> Estimate:
        """Median over the rounds."""
        return median_estimate(self.rounds_ms)

    def ratio_to(self, other: "HostLatency") -> Estimate:
        """How many times as long this one takes, by pairs of one round."""
        return median_estimate([own / others for own, others in zip(self.rounds_ms, other.rounds_ms, strict=True)])


def host_latencies(
    architectures: Sequence[Architecture],
    log_path: Path,
    on_progress: Callable[[MeasureProgress], None] | None = None,
) -> dict[str, HostLatency]:
    """Latency of each network by its fingerprint; a log that holds all of them already is read back.

    A measurement that was killed begins anew, as its rounds would be no pairs of the later ones.

    Raises:
        MvigNasError: the log cannot be written, or a network cannot be measured.
    """
    wanted = {architecture.fingerprint: architecture for architecture in architectures}
    known = device_log.read(log_path).networks if log_path.exists() else ()
    if not wanted.keys() <= set(known):
        log_path.unlink(missing_ok=True)
        settings = MeasureSettings(
            rounds=_ROUNDS, iterations=_ITERATIONS, cool_down_s=0.0, together=len(wanted), pause_s=2.0
        )
        # the backend's time is that of its thread, so other work on the computer counts little
        measure([Target(each) for each in wanted.values()], TorchCpu(), log_path, settings, on_progress=on_progress)
    found = {}
    for row in device_log.read(log_path).rows:
        rounds = np.asarray(row.samples_ms).reshape(_ROUNDS, -1)
        found[row.network_label] = HostLatency(tuple(np.median(rounds, axis=1).tolist()))
    return found


def operators_alone(asked: OperatorAlone) -> list[dict[str, Any]]:
    """Each operator alone, and its loop form where it has one, on maps of several sizes.

    Returns:
        For each form of an operator its `operator`, by map `maps`, `host_ms` (with interval), `peak_bytes` and
        `operations` of a package, those `leaving` the Neural Engine, and `time_exponent` and `memory_exponent`: the
        powers of the number of pixels that host time (with interval) and memory grow with.
    """
    forms = [(name, is_loop) for name in asked.operators for is_loop in (False, True) if not is_loop or _has_loop(name)]
    maps = {
        size: torch.randn(1, asked.width, size, size, generator=torch.Generator().manual_seed(size))
        for size in asked.maps
    }
    visits = [(form, size) for form in forms for size in asked.maps]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            rounds_ms = _rounds(visits, lambda form, size: _run(form, maps[size], asked.step))
    finally:
        torch.set_num_threads(threads)
    return [_row(form, asked, {size: rounds_ms[form, size] for size in asked.maps}) for form in forms]


_Form = tuple[str, bool]


def _run(form: _Form, x: torch.Tensor, step: int) -> None:
    name, is_loop = form
    (linked_as_reference if is_loop else linked)(OPERATORS[name], x, step)


def _has_loop(name: str) -> bool:
    operator = OPERATORS[name]
    return type(operator).reference is not type(operator).links and operator.distances(1, 4) is not None


def _rounds(
    visits: Sequence[tuple[_Form, int]], run: Callable[[_Form, int], None]
) -> dict[tuple[_Form, int], list[float]]:
    """Milliseconds of one run by visit, in every round; each round makes all visits in an order of its own."""
    rng = random.Random(0)
    often = {}
    for form, size in visits:
        run(form, size)
        began = time.thread_time()
        run(form, size)
        often[form, size] = max(1, int(_LEAST_VISIT_S / max(time.thread_time() - began, 1e-6)))
    found: dict[tuple[_Form, int], list[float]] = {visit: [] for visit in visits}
    for _ in range(_OPERATOR_ROUNDS):
        for form, size in rng.sample(list(visits), len(visits)):
            began_ns = time.thread_time_ns()
            for _ in range(often[form, size]):
                run(form, size)
            found[form, size].append((time.thread_time_ns() - began_ns) / 1e6 / often[form, size])
    return found


def _row(form: _Form, asked: OperatorAlone, rounds_ms: dict[int, list[float]]) -> dict[str, Any]:
    name, is_loop = form
    peaks, operations, leaving = [], [], []
    for size in asked.maps:
        builder = KernelBuilder((1, asked.width, size, size), "reference" if is_loop else "exported")
        x = builder.conv(NETWORK_INPUT, asked.width)  # what makes the map, so that all of it counts as live
        (OPERATORS[name].reference if is_loop else OPERATORS[name].links)(builder, x, asked.step)
        kinds = program_kinds(builder.kernels[1:])
        peaks.append(peak_activation_bytes(builder.kernels))
        operations.append(sum(kinds.values()))
        leaving.append(among(kinds, LEAVES))
    pixels = [size**2 for size in asked.maps]
    exponents = [_exponent(pixels, each) for each in zip(*rounds_ms.values(), strict=True)]
    return {
        "operator": name + _LOOP * is_loop,
        "maps": list(asked.maps),
        "host_ms": [median_estimate(rounds_ms[size]).to_dict() for size in asked.maps],
        "time_exponent": median_estimate(exponents).to_dict(),
        "peak_bytes": peaks,
        "memory_exponent": _exponent(pixels, peaks),
        "operations": operations,
        "leaving": leaving[-1],
    }


def _exponent(pixels: Sequence[int], amounts: Sequence[float]) -> float:
    """The power of the number of pixels that an amount grows with: the slope on logarithmic axes."""
    return float(np.polyfit([log(each) for each in pixels], [log(each) for each in amounts], 1)[0])
