"""Latency on iPhones from kernel lists: features, predictor, evaluation."""

from mvig_nas.latency.architectures import ArchitectureLatency
from mvig_nas.latency.features import FEATURES, kernel_features
from mvig_nas.latency.predictor import CHIPS, Explanation, LatencyPredictor, chip_of, network_features

__all__ = [
    "CHIPS",
    "FEATURES",
    "ArchitectureLatency",
    "Explanation",
    "LatencyPredictor",
    "chip_of",
    "kernel_features",
    "network_features",
]
