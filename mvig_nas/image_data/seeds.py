"""Random numbers that depend on a key alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import torch


def seed_of(*key: int) -> int:
    """63 bits that differ with every part of the key and with the order of the parts."""
    return int.from_bytes(sha256(repr(key).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, the global CPU generators of Python, NumPy and torch depend on `key` alone; afterwards, as before.

    For code that draws from the global generators and takes no other: timm's transforms and its Mixup.
    """
    with generators_kept():
        reseed(*key)
        yield


def reseed(*key: int) -> None:
    """From now on the global CPU generators depend on `key` alone; ten times as fast as `seeded`."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # torch.manual_seed would reseed the accelerators as well
    torch.default_generator.manual_seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Afterwards the global CPU generators are as before."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])
