"""Training one architecture by itself, from labels and from a teacher."""

from mvig_nas.retrain._distillation import KINDS, Distillation, teacher_loss
from mvig_nas.retrain._plan import Plan
from mvig_nas.retrain._step import ClassificationStep
from mvig_nas.retrain._teacher_cache import TeacherCache
from mvig_nas.retrain._train import Trained, train_alone
from mvig_nas.retrain._validation import Validation

__all__ = [
    "KINDS",
    "ClassificationStep",
    "Distillation",
    "Plan",
    "TeacherCache",
    "Trained",
    "Validation",
    "teacher_loss",
    "train_alone",
]
