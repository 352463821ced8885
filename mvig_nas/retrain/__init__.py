"""Training one architecture by itself, from labels and from a teacher."""

from mvig_nas.retrain._distillation import KINDS, Distillation, teacher_loss
from mvig_nas.retrain._plan import Plan
from mvig_nas.retrain._step import ClassificationStep
from mvig_nas.retrain._teacher_cache import TeacherCache
from mvig_nas.retrain._train import train_alone

__all__ = ["KINDS", "ClassificationStep", "Distillation", "Plan", "TeacherCache", "teacher_loss", "train_alone"]
