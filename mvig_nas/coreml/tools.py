"""coremltools, imported and run without its log lines, progress bars and known warnings."""

import io
import logging
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import Any

from mvig_nas.errors import MvigNasError

# Of coremltools 9 itself: its own deprecated registry, and temporary folders that it leaves to the garbage collector.
_KNOWN_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (DeprecationWarning, "Function _TORCH_OPS_REGISTRY"),
    (ResourceWarning, "Implicitly cleaning up <TemporaryDirectory"),
)


def load() -> Any:
    """The coremltools module.

    Raises:
        MvigNasError: it is not installed.
    """
    try:
        with quiet():
            import coremltools
    except ImportError as error:
        raise MvigNasError(
            f"Core ML packages need coremltools, got {error}; run `pip install coremltools` (Linux or macOS)."
        ) from error
    return coremltools


class _Quiet:
    """One silence for all threads: what it changes is the process's, so the last to leave restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._changes = ExitStack()

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._begin()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._changes.close()

    def _begin(self) -> None:
        logger = logging.getLogger("coremltools")
        self._changes.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        self._changes.enter_context(warnings.catch_warnings())
        self._changes.enter_context(redirect_stderr(io.StringIO()))
        for category, message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)


_QUIET = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what coremltools writes to stderr (untested versions, progress bars) and its own known warnings."""
    _QUIET.enter()
    try:
        yield
    except Exception as error:
        # else the error would keep those temporary folders, and their warning would come later
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        _QUIET.leave()
