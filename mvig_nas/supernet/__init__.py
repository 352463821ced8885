"""The supernet: one set of weights for every architecture of a space."""

from mvig_nas.supernet.shared_weights import LAYER_SCALE_INIT, Supernet
from mvig_nas.supernet.trained import FILE, TrainedSupernet, check_covers, load_supernet, save_supernet

__all__ = [
    "FILE",
    "LAYER_SCALE_INIT",
    "Supernet",
    "TrainedSupernet",
    "check_covers",
    "load_supernet",
    "save_supernet",
]
