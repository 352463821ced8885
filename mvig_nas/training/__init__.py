"""Training: one loop for supernets and single networks, their steps, teachers, validation and model folders."""

from mvig_nas.recipes import Distillation, Execution, Plan, Recipe
from mvig_nas.training.checkpoint import check_same, read_checkpoint
from mvig_nas.training.classification_step import ClassificationStep
from mvig_nas.training.guard import Rollback
from mvig_nas.training.losses import DISTILLATIONS, alpha_divergence, classification, kl_divergence, teacher_loss
from mvig_nas.training.process import Process
from mvig_nas.training.retraining import Trained, train_alone
from mvig_nas.training.step import Backward, Step, Validate, Validated, images_of, steps_of
from mvig_nas.training.subnetwork_sampling import PHASES, RULES, LatencyRange, Sampling
from mvig_nas.training.supernet_step import SupernetStep, Teacher
from mvig_nas.training.supernet_training import SupernetPlan, train_supernet
from mvig_nas.training.teacher_cache import TeacherCache
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
    "LatencyRange",
    "Outcome",
    "Plan",
    "Process",
    "Progress",
    "Recipe",
    "Rollback",
    "Sampling",
    "Step",
    "StopTraining",
    "SupernetPlan",
    "SupernetStep",
    "Teacher",
    "TeacherCache",
    "Trained",
    "Validate",
    "Validated",
    "Validation",
    "alpha_divergence",
    "check_same",
    "classification",
    "images_of",
    "kl_divergence",
    "read_checkpoint",
    "steps_of",
    "teacher_loss",
    "train",
    "train_alone",
    "train_supernet",
]
