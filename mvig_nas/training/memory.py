"""Memory between the steps of a training on a CPU."""

import contextlib
import ctypes
from collections.abc import Iterator

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
_MOST_MMAP = 32 * 2**20  # the largest that it takes
_USUAL_TRIM = 64 * 2**20


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """The C library does not hand back to the system what is freed, until the end.

    A step frees its activations and the next one takes as much: handed back in between, every page is cleared anew,
    which costs up to a third of a step. Does nothing where the C library is not glibc.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if tune is None or trim is None:
        yield
        return
    tune(_MMAP_THRESHOLD, _MOST_MMAP)
    tune(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        tune(_TRIM_THRESHOLD, _USUAL_TRIM)
        trim(0)
