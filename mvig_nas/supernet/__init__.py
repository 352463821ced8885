"""The supernet: one set of weights for every architecture of a space."""

from mvig_nas.supernet._files import FILE, TrainedSupernet, check_covers, load_supernet, save_supernet
from mvig_nas.supernet._supernet import LAYER_SCALE_INIT, Supernet

__all__ = [
    "FILE",
    "LAYER_SCALE_INIT",
    "Supernet",
    "TrainedSupernet",
    "check_covers",
    "load_supernet",
    "save_supernet",
]
