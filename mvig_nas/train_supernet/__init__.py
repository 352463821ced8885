"""Training a supernet: the sandwich rule with in-place distillation."""

from mvig_nas.train_supernet._losses import DISTILLATIONS, alpha_divergence, classification, kl_divergence
from mvig_nas.train_supernet._sampling import PHASES, RULES, LatencyRange, Sampling
from mvig_nas.train_supernet._step import SupernetStep, Teacher
from mvig_nas.train_supernet._train import SupernetPlan, train_supernet

__all__ = [
    "DISTILLATIONS",
    "PHASES",
    "RULES",
    "LatencyRange",
    "Sampling",
    "SupernetPlan",
    "SupernetStep",
    "Teacher",
    "alpha_divergence",
    "classification",
    "kl_divergence",
    "train_supernet",
]
