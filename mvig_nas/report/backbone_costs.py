"""What a network costs as the backbone of a detector or a segmenter: without its classifier, at another size."""

from dataclasses import dataclass

from mvig_nas.architecture import Architecture
from mvig_nas.kernels import Kernel
from mvig_nas.latency import ArchitectureLatency, as_backbone

_COVERAGE = 0.8


@dataclass(frozen=True)
class BackbonePart:
    """The stem or a stage.

    Attributes:
        name: `stem`, `stage1` to `stage4`.
        shape: of its output, (channels, height, width).
        kernels: fused operations, as exported.
        macs: multiply-accumulates, at batch 1.
        latency_ms: its share of the prediction.
    """

    name: str
    shape: tuple[int, ...]
    kernels: int
    macs: int
    latency_ms: float


@dataclass(frozen=True)
class BackboneCosts:
    """A backbone's predicted latency at batch 1 and where it goes.

    Attributes:
        architecture: with the backbone's resolution.
        parts: the stem and the four stages; their milliseconds and `fixed_ms` sum to `latency_ms`.
        fixed_ms: of the call itself.
        latency_ms: predicted, never measured.
        interval_ms: 80 % of measurements should lie in it; it is calibrated mostly on classifiers at 224 pixels.
        parameters: without the classifiers.
        outside: why the backbone is unlike all that were measured.
    """

    architecture: Architecture
    parts: tuple[BackbonePart, ...]
    fixed_ms: float
    latency_ms: float
    interval_ms: tuple[float, float]
    parameters: int
    outside: tuple[str, ...]


def backbone_costs(architecture: Architecture, side: int, latency: ArchitectureLatency) -> BackboneCosts:
    """Predict the network without pooling and classifiers on images of `side` x `side` pixels.

    Args:
        architecture: of the network; its own resolution is passed over.
        side: in pixels, a multiple of 32.
        latency: of the device.

    Raises:
        MvigNasError: `side` is no multiple of 32, or the architecture cannot have it.
    """
    sized = as_backbone(architecture, side)
    backbone = ArchitectureLatency(latency.predictor, latency.form, latency.num_classes, side)
    exported = backbone.sections(architecture, latency.form)
    built = {part.name: part.kernels for part in backbone.sections(architecture)}
    network: list[Kernel] = [kernel for part in exported for kernel in part.kernels]
    explained = latency.predictor.explain_ms(network)
    parts, start = [], 0
    for part in exported:
        end = start + len(part.kernels)
        shape = part.kernels[-1].shape[1:]
        macs = sum(kernel.macs for kernel in built[part.name])
        parts.append(BackbonePart(part.name, shape, end - start, macs, float(explained.kernels_ms[start:end].sum())))
        start = end
    low, high = latency.predictor.interval_ms([network], _COVERAGE)
    return BackboneCosts(
        architecture=sized,
        parts=tuple(parts),
        fixed_ms=float(explained.fixed_ms),
        latency_ms=float(latency.predictor.predict_ms([network])[0]),
        interval_ms=(float(low[0]), float(high[0])),
        parameters=backbone.totals(architecture).parameters,
        outside=tuple(latency.predictor.outside([network])[0]),
    )
