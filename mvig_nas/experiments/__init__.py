"""Experiments: a base architecture, a grid of named changes to it, and what each change costs and gains."""

from typing import TYPE_CHECKING

from mvig_nas.experiments.ablate_request import AblateRequest
from mvig_nas.experiments.connectivity import reached
from mvig_nas.experiments.experiment import Cell, Dense, Experiment, Fronts, OperatorAlone, cells_of, experiment_names
from mvig_nas.lazy import attributes_of

if TYPE_CHECKING:
    from mvig_nas.experiments.ablation import Ablation, AblationProgress, ablate, prepare

__all__ = [
    "AblateRequest",
    "Ablation",
    "AblationProgress",
    "Cell",
    "Dense",
    "Experiment",
    "Fronts",
    "OperatorAlone",
    "ablate",
    "cells_of",
    "experiment_names",
    "prepare",
    "reached",
]

# The options of the command do without torch.
__getattr__ = attributes_of(__name__, dict.fromkeys(("Ablation", "AblationProgress", "ablate", "prepare"), "ablation"))
