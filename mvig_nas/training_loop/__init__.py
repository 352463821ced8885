"""The training loop that supernets and single networks share."""

from mvig_nas.training_loop._checkpoint import check_same, read_checkpoint
from mvig_nas.training_loop._guard import Rollback
from mvig_nas.training_loop._log import Progress
from mvig_nas.training_loop._loop import (
    PRECISIONS,
    Backward,
    Execution,
    Outcome,
    Step,
    StopTraining,
    Validate,
    Validated,
    images_of,
    steps_of,
    train,
)
from mvig_nas.training_loop._process import Process
from mvig_nas.training_loop._recipe import Recipe

__all__ = [
    "PRECISIONS",
    "Backward",
    "Execution",
    "Outcome",
    "Process",
    "Progress",
    "Recipe",
    "Rollback",
    "Step",
    "StopTraining",
    "Validate",
    "Validated",
    "check_same",
    "images_of",
    "read_checkpoint",
    "steps_of",
    "train",
]
