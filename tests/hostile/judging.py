"""One judgement of a reader for all: what it may do with a file that is wrong, in which time and memory."""

import os
import random
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvig_nas.errors import MvigNasError
from tests.hostile.readers import Reader

LONGEST_S = 2  # of the processor: a loaded machine takes its time, and a loop takes for ever
LONGEST_WAIT_S = 60  # by the clock: a pipe that nobody writes to takes none of the processor's
MOST_BYTES = 2**30
LONGEST_MESSAGE = 2000  # letters


class Hang(BaseException):
    """A reader took too long; no reader may catch it."""


@contextmanager
def limited() -> Iterator[None]:
    """A hang becomes an error."""

    def stop(number: int, frame: object) -> None:
        del frame
        limit = f"{LONGEST_WAIT_S} s" if number == signal.SIGALRM else f"{LONGEST_S} s of the processor"
        raise Hang(f"took longer than {limit}")

    kinds = ((signal.SIGALRM, signal.ITIMER_REAL, LONGEST_WAIT_S), (signal.SIGPROF, signal.ITIMER_PROF, LONGEST_S))
    before = [signal.signal(number, stop) for number, _, _ in kinds]
    for _, timer, seconds in kinds:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(kinds, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


class Work:
    """Good files of a reader in a folder, one of which is made wrong again and again.

    Args:
        reader: whose files they are.
        folder: an empty one; nothing but what is in `folder/work` may change in it.
    """

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader = reader
        self.outer = folder
        self.folder = folder / "work"
        self.folder.mkdir()
        reader.make(self.folder)
        assert refusal(reader, self.folder) is None
        self.file = self.folder / reader.file
        self.content = self.file.read_bytes()
        self.good = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def failure(self, seed: int) -> str | None:
        """What is wrong with how the reader takes the mutation of a seed; None if it is taken, or refused in a line."""
        self.file.write_bytes(self.reader.mutate(self.content, random.Random(f"{self.reader.name}/{seed}")))
        before = {path: os.stat(path).st_mtime_ns for path in self.good}
        start = _memory("VmRSS")
        try:
            said = refusal(self.reader, self.folder)
        except (Exception, Hang) as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        finally:
            self._restore(before)
        if said is not None and (not said.strip() or len(said) > LONGEST_MESSAGE):
            return f"a message of {len(said)} letters"
        taken = _memory("VmHWM") - start
        if taken > MOST_BYTES:
            return f"took {taken / 2**20:.0f} MiB of memory"
        outside = [path for path in self.outer.iterdir() if path != self.folder]
        return f"wrote {outside[0]} outside of its folder" if outside else None

    def _restore(self, before: dict[Path, int]) -> None:
        for path in self.folder.rglob("*"):
            if path not in self.good and not path.is_dir():
                path.unlink()
        for path, content in self.good.items():
            if path == self.file or not path.is_file() or os.stat(path).st_mtime_ns != before[path]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def refusal(reader: Reader, folder: Path) -> str | None:
    """What a reader says of the files in a folder; None if it takes them."""
    try:
        with limited():
            reader.read(folder)
    except MvigNasError as error:
        return str(error)
    return None


def _memory(name: str) -> int:
    """Bytes that this process has in memory (`VmRSS`), or had at most since that was asked for (`VmHWM`)."""
    if sys.platform != "linux":
        return 0 if name == "VmRSS" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5")  # the largest begins anew at what there is now
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
