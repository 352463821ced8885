"""Experiments: a base architecture, a grid of named changes to it, and what each change costs and gains."""

from typing import TYPE_CHECKING, Any

from mvig_nas.experiments.ablate_request import AblateRequest
from mvig_nas.experiments.connectivity import reached
from mvig_nas.experiments.experiment import Cell, Experiment, OperatorAlone, cells_of, experiment_names

if TYPE_CHECKING:
    from mvig_nas.experiments.ablation import Ablation, AblationProgress, ablate, prepare

__all__ = [
    "AblateRequest",
    "Ablation",
    "AblationProgress",
    "Cell",
    "Experiment",
    "OperatorAlone",
    "ablate",
    "cells_of",
    "experiment_names",
    "prepare",
    "reached",
]


def __getattr__(name: str) -> Any:
    # The options of the command do without torch.
    if name in ("Ablation", "AblationProgress", "ablate", "prepare"):
        from importlib import import_module

        return getattr(import_module("mvig_nas.experiments.ablation"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
