"""What a search maximises: training-free proxies, which are no accuracies, or top-1 of a supernet's sub-networks."""

from typing import TYPE_CHECKING

from mvig_nas.lazy import attributes_of
from mvig_nas.scores.meaning import HOLD_OUT, TRAIN, Meaning, meaning_of
from mvig_nas.scores.named_scores import DEFAULT, NAMES, Score, load, takes_cores

if TYPE_CHECKING:
    from mvig_nas.scores.activation_proxies import naswot, zen
    from mvig_nas.scores.calibrated_score import CalibratedFit, CalibratedScore, fit_calibrated, save_calibrated
    from mvig_nas.scores.gradient_proxies import grad_norm, snip, synflow, zico
    from mvig_nas.scores.supernet_score import SupernetScore, training_split
    from mvig_nas.scores.trained_score import TrainedScore

__all__ = [
    "DEFAULT",
    "HOLD_OUT",
    "NAMES",
    "TRAIN",
    "CalibratedFit",
    "CalibratedScore",
    "Meaning",
    "Score",
    "SupernetScore",
    "TrainedScore",
    "fit_calibrated",
    "grad_norm",
    "load",
    "meaning_of",
    "naswot",
    "save_calibrated",
    "snip",
    "synflow",
    "takes_cores",
    "training_split",
    "zen",
    "zico",
]

# Importing torch takes seconds, and the baselines, the names and `load` do without it.
__getattr__ = attributes_of(
    __name__,
    {
        "naswot": "activation_proxies",
        "zen": "activation_proxies",
        "grad_norm": "gradient_proxies",
        "snip": "gradient_proxies",
        "synflow": "gradient_proxies",
        "zico": "gradient_proxies",
        "SupernetScore": "supernet_score",
        "training_split": "supernet_score",
        "TrainedScore": "trained_score",
        "CalibratedFit": "calibrated_score",
        "CalibratedScore": "calibrated_score",
        "fit_calibrated": "calibrated_score",
        "save_calibrated": "calibrated_score",
    },
)
