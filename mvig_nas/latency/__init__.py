"""Latency from kernel lists: features, predictors of phones and of one's own device, evaluation."""

from mvig_nas.latency.device_fit import Fitted, fit_device
from mvig_nas.latency.features import FEATURES, kernel_features
from mvig_nas.latency.per_architecture import ArchitectureLatency
from mvig_nas.latency.predictor import CHIPS, Explanation, LatencyPredictor, chip_of, network_features

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
