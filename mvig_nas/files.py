"""Writing files so that a reader never sees half of one, and one writer at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvig_nas.errors import MvigNasError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there with all of its content, or as it was before.

    Raises:
        OSError: the folder is missing, read-only or full.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def save(path: Path, content: str | bytes) -> None:
    """`write_whole`, of UTF-8 where it is text, for a file that a user named.

    Raises:
        MvigNasError: the folder is missing, read-only or full.
    """
    try:
        write_whole(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise MvigNasError(
            f"{path} must be writable, got {error.strerror!r}; take another place or make room."
        ) from error


def make_folder(folder: Path) -> None:
    """A folder that a user named, with those above it; one that is there stays as it is.

    Raises:
        MvigNasError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MvigNasError(f"{folder} must be writable, got {error.strerror!r}; take another place.") from error


@contextmanager
def claim(lock: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds the lock file; with `wait`, once it does. The claim ends with the process.

    Raises:
        OSError: the file cannot be made.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
