"""What a cell costs without being trained: predicted latency, memory, operations, connectivity."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvig_nas.architecture import Architecture
from mvig_nas.coreml.package import PROGRAM_KINDS
from mvig_nas.experiments.connectivity import connectivity
from mvig_nas.kernels import Kernel, of, totals
from mvig_nas.latency import ArchitectureLatency

COVERAGE = 0.8  # of predicted latencies, as everywhere
LEAVES = ("gather", "gather_along_axis")  # the Neural Engine runs none of these
UNCERTAIN = ("sign", "topk")  # whether it runs these is not known


@dataclass(frozen=True)
class Costs:
    """Costs of one cell at batch 1.

    Attributes:
        predicted_ms, interval_ms: latency on the phone, with the 80 % interval, as the package would run.
        outside: why the prediction rests on no measurement; empty where it rests on some.
        loop_ms: predicted for the authors' code, which rolls once a link; None without graph blocks.
        loop_operations: of that form.
        parameters, macs: of the network as it is built, both classifiers for 1,000 classes included.
        weight_bytes, peak_activation_bytes: of the package, in fp16.
        operations: of the package's program by kind.
        leaving: those of them that leave the Neural Engine, by kind.
        uncertain: those of which that is not known, by kind.
        connectivity: see `connectivity`.
    """

    predicted_ms: float
    interval_ms: tuple[float, float]
    outside: tuple[str, ...]
    loop_ms: float | None
    loop_operations: int | None
    parameters: int
    macs: int
    weight_bytes: int
    peak_activation_bytes: int
    operations: Mapping[str, int]
    leaving: Mapping[str, int]
    uncertain: Mapping[str, int]
    connectivity: Sequence[Mapping[str, Any]]


def costs_of(architectures: Sequence[Architecture], latency: ArchitectureLatency) -> list[Costs]:
    """Costs of several networks.

    Args:
        architectures: the networks.
        latency: predicts a phone's milliseconds.
    """
    predicted_ms = latency.predict_ms(architectures).tolist()
    low_ms, high_ms = latency.interval_ms(architectures, COVERAGE)
    loops_ms = latency.with_form("reference").predict_ms(architectures).tolist()
    rows = zip(
        architectures,
        predicted_ms,
        low_ms.tolist(),
        high_ms.tolist(),
        latency.outside(architectures),
        loops_ms,
        strict=True,
    )
    found = []
    for architecture, ms, low, high, outside, loop_ms in rows:
        exported, built = of(architecture, "exported"), totals(of(architecture))
        kinds = program_kinds(exported)
        has_graph = any(stage.graph_depth for stage in architecture.stages)
        found.append(
            Costs(
                predicted_ms=ms,
                interval_ms=(low, high),
                outside=tuple(outside),
                loop_ms=loop_ms if has_graph else None,
                loop_operations=len(of(architecture, "reference")) if has_graph else None,
                parameters=built.parameters,
                macs=built.macs,
                weight_bytes=totals(exported).weight_bytes,
                peak_activation_bytes=totals(exported).peak_activation_bytes,
                operations=kinds,
                leaving=among(kinds, LEAVES),
                uncertain=among(kinds, UNCERTAIN),
                connectivity=connectivity(architecture),
            )
        )
    return found


def program_kinds(kernels: Sequence[Kernel]) -> dict[str, int]:
    """Number of operations by their names in an ML program, the most frequent first."""
    return dict(Counter(PROGRAM_KINDS.get(kernel.kind, kernel.kind) for kernel in kernels).most_common())


def among(kinds: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Those kinds that are of the given names."""
    return {kind: count for kind, count in kinds.items() if kind in names}
