"""The supernet: one set of weights for every architecture of a space."""

from mvig_nas.supernet.inheritance import CLASSIFIERS, FirstWeights, Inheritance
from mvig_nas.supernet.shared_weights import LAYER_SCALE_INIT, Supernet
from mvig_nas.supernet.trained import FILE, TrainedSupernet, check_covers, is_supernet, load_supernet, save_supernet

__all__ = [
    "CLASSIFIERS",
    "FILE",
    "LAYER_SCALE_INIT",
    "FirstWeights",
    "Inheritance",
    "Supernet",
    "TrainedSupernet",
    "check_covers",
    "is_supernet",
    "load_supernet",
    "save_supernet",
]
