"""Latency from kernel lists: features, predictors of phones and of one's own device, evaluation."""

from mvig_nas.latency.features import FEATURES, kernel_features, network_features
from mvig_nas.latency.latency_predictor import Explanation, Fitted, LatencyPredictor, fit_device
from mvig_nas.latency.per_architecture import NUM_CLASSES, ArchitectureLatency, as_backbone, milliseconds_by_kind
from mvig_nas.latency.rows import CHIPS, chip_of

__all__ = [
    "CHIPS",
    "FEATURES",
    "NUM_CLASSES",
    "ArchitectureLatency",
    "Explanation",
    "Fitted",
    "LatencyPredictor",
    "as_backbone",
    "chip_of",
    "fit_device",
    "kernel_features",
    "milliseconds_by_kind",
    "network_features",
]
