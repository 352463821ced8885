"""Training: one loop for supernets and single networks, their steps, teachers, validation and model folders."""

from mvig_nas.recipes import Distillation, Execution, Plan, Recipe, Sources, SupernetPlan
from mvig_nas.training.checkpoint import read_checkpoint
from mvig_nas.training.guard import Rollback
from mvig_nas.training.losses import DISTILLATIONS, alpha_divergence, classification, kl_divergence, teacher_loss
from mvig_nas.training.process import Process
from mvig_nas.training.retraining import Knowledge, Retrained, RetrainRequest, Trained, retrain, train_alone
from mvig_nas.training.steps import (
    Backward,
    ClassificationStep,
    Step,
    SupernetStep,
    Validate,
    Validated,
    images_of,
    steps_of,
)
from mvig_nas.training.subnetwork_sampling import PHASES, RULES, LatencyRange, Sampling
from mvig_nas.training.supernet_training import SupernetRequest, run_supernet_training, train_supernet
from mvig_nas.training.teacher import Teacher, TeacherCache
from mvig_nas.training.teacher_fitting import FittedTeacher, TeacherRequest, fit_teacher
from mvig_nas.training.training_log import Progress
from mvig_nas.training.training_loop import PRECISIONS, Outcome, StopTraining, train
from mvig_nas.training.validation import Validation

__all__ = [
    "DISTILLATIONS",
    "PHASES",
    "PRECISIONS",
    "RULES",
    "Backward",
    "ClassificationStep",
    "Distillation",
    "Execution",
    "FittedTeacher",
    "Knowledge",
    "LatencyRange",
    "Outcome",
    "Plan",
    "Process",
    "Progress",
    "Recipe",
    "RetrainRequest",
    "Retrained",
    "Rollback",
    "Sampling",
    "Sources",
    "Step",
    "StopTraining",
    "SupernetPlan",
    "SupernetRequest",
    "SupernetStep",
    "Teacher",
    "TeacherCache",
    "TeacherRequest",
    "Trained",
    "Validate",
    "Validated",
    "Validation",
    "alpha_divergence",
    "classification",
    "fit_teacher",
    "images_of",
    "kl_divergence",
    "read_checkpoint",
    "retrain",
    "run_supernet_training",
    "steps_of",
    "teacher_loss",
    "train",
    "train_alone",
    "train_supernet",
]
