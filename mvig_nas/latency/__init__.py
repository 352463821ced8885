"""Latency from kernel lists: features, predictors of phones and of one's own device, evaluation."""

from mvig_nas.latency.features import FEATURES, kernel_features, network_features
from mvig_nas.latency.latency_predictor import Explanation, Fitted, LatencyPredictor, fit_device
from mvig_nas.latency.per_architecture import ArchitectureLatency
from mvig_nas.latency.rows import CHIPS, chip_of

__all__ = [
    "CHIPS",
    "FEATURES",
    "ArchitectureLatency",
    "Explanation",
    "Fitted",
    "LatencyPredictor",
    "chip_of",
    "fit_device",
    "kernel_features",
    "network_features",
]
