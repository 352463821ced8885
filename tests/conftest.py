"""What every test process begins with."""

import os
import signal
from collections.abc import Iterator

import pytest

# A shell that starts the suite in the background has it ignore Ctrl-C, which some tests are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The suite runs several processes, and their thread pools would fight over the cores.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# The test runner gives its workers a terminal's width; piped output has none, wherever the suite runs.
os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True)
def _interrupts_as_before() -> Iterator[None]:
    """Give Ctrl-C back to Python after each test: Ray Tune keeps it after a run, and later tests would not hear it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
