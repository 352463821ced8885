"""What scores and latencies are worth, in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.search.samplers.surrogate import PredictorError


def score_note(name: str) -> str:
    """One sentence on what the score of this name can be taken for."""
    if name.startswith("supernet:"):
        return (
            "The score is a sub-network's top-1 on held-out training images, with the supernet's weights: it orders "
            "networks, and is not what training the network by itself would reach."
        )
    return "The score is a training-free proxy: it orders networks and is no accuracy."


def predictor_note(error: "PredictorError") -> str:
    """One sentence on how far the score predictor can be relied on."""
    return (
        f"Score predictor (Gaussian process), each of {error.count} scored architectures left out in turn: mean "
        f"absolute error {error.mean_absolute_error:.3g}, Kendall's tau {error.kendall_tau:.2f}."
    )


def latency_note(latency: "ArchitectureLatency") -> str:
    """One sentence on where predicted latencies come from."""
    predictor = latency.predictor
    if not predictor.fit_summary:
        return "Latencies are predicted from published measurements of other networks, not measured on this one."
    rows = predictor.measurements_[predictor.device]
    return (
        f"Latencies are predicted by a fit to {rows} measurements on {predictor.device}, not measured on this network."
    )


def outside_note(device: str, reasons: Sequence[str]) -> str:
    """One sentence on a network that no measured one resembles; there must be reasons."""
    return f"unlike the networks measured on {device}, so that its latency is a guess: {'; '.join(reasons)}."
