"""Files written whole or line by line, so that a reader never takes half of one for all, and one writer at a time."""

import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from zipfile import ZipFile

from mvig_nas.errors import MvigNasError, StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_JSON_BYTES = 64 * 2**20
_MOST_ARRAY_BYTES = 256 * 2**20
_UNFINISHED = re.compile(r".+\.(?P<process>[1-9]\d{0,8})\.tmp", re.DOTALL)  # as `write_whole` names them
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what formulas of spreadsheets begin with


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Content of a regular file: no device or pipe, which might never end, and no file larger than expected.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"more than {most_bytes / 1e6:.0f} MB")
        return file.read()


def require_regular(path: str | Path) -> None:
    """Refuse what is no regular file: reading a device or a pipe might never end.

    Raises:
        OSError: there is no such file, or it is not regular.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def read_text(path: Path, what: str) -> str:
    """What a text file holds; it may be missing, which is for the caller to handle.

    Args:
        path: the file.
        what: what it is, with its article, for the error.

    Raises:
        FileNotFoundError: there is none.
        MvigNasError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return read_regular(path, _MOST_JSON_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MvigNasError(f"{what} must be readable text in UTF-8, got {reason} at {path}; check the file.") from error


def read_json(path: Path, what: str, advice: str) -> Any:
    """What a JSON file holds; it may be missing, which is for the caller to handle.

    Args:
        path: the file.
        what: what it is, with its article, for the error.
        advice: what to do where it is damaged, for the error.

    Raises:
        FileNotFoundError: there is none.
        MvigNasError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_regular(path, _MOST_JSON_BYTES))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MvigNasError(f"{what} must be readable JSON, got {reason} at {path}; {advice}.") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """What a TOML file holds; it may be missing, which is for the caller to handle.

    Args:
        path: the file.
        what: what it is, with its article, for the error.

    Raises:
        FileNotFoundError: there is none.
        MvigNasError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_text(path, what))
    except (ValueError, RecursionError) as error:
        raise MvigNasError(f"{what} must be TOML, got {error} in {path}; mend the file.") from error


def read_arrays(path: Path) -> "tuple[dict[str, NDArray[Any]], str]":
    """The arrays in an `.npz` file, nothing of which is unpickled, and the file's SHA-256.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large.
        ValueError: it is damaged, or too large once unpacked.
    """
    import numpy as np

    content = read_regular(path, _MOST_ARRAY_BYTES)
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 4 * _MOST_ARRAY_BYTES:
                raise ValueError(f"more than {4 * _MOST_ARRAY_BYTES / 1e6:.0f} MB of arrays")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}, hashlib.sha256(content).hexdigest()
    except Exception as error:  # wrong bytes make zipfile and numpy raise nearly anything
        raise ValueError(f"damaged arrays: {error}") from error


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


def remove_unfinished(path: Path) -> None:
    """Remove what a kill left of `write_whole` of this path; for the one process that writes there.

    Raises:
        OSError: the folder is read-only.
    """
    for beside in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        beside.unlink(missing_ok=True)


def remove_unfinished_below(folder: Path) -> None:
    """Remove what kills left of `write_whole` in a folder of ours and in those below it.

    A file that a process of this machine may still be writing stays. What cannot be removed stays too, as it only takes
    room.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            found = _UNFINISHED.fullmatch(name)
            if found is not None and not _is_another(int(found["process"])):
                with suppress(OSError):
                    os.unlink(os.path.join(parent, name))


def _is_another(process: int) -> bool:
    """Whether another process of this machine has this number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def save(path: Path, content: str | bytes) -> None:
    """`write_whole`, of UTF-8 where it is text, for a file that a user named.

    Raises:
        StorageError: the folder is missing, read-only or full.
    """
    try:
        write_whole(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise StorageError(
            f"{path} must be writable, got {error.strerror!r}; take another place or make room."
        ) from error


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells as CSV.

    A text that a spreadsheet would take for a formula, which may run programs, gets an apostrophe in front.
    """
    text = io.StringIO()
    usual = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [f"'{cell}" if isinstance(cell, str) and cell[:1] in _FORMULA else cell for cell in row]
        # a carriage return ends a line for readers, but is no reason to quote for Python 3.11's writer
        writer = quoting if any("\r" in str(cell) for cell in cells) else usual
        writer.writerow(cells)
    return text.getvalue()


def append(path: Path, lines: str, *, whole: Callable[[bytes], int] | None = None, is_synced: bool = True) -> int:
    """Add whole lines to a file, which is made if there is none. Several processes may append at once.

    A kill at any moment leaves all of `lines`, or a beginning of them that the next call cuts away. Where the disk is
    full, what stood there before stays as it was.

    Args:
        path: the file.
        lines: text that ends with a line's end.
        whole: is handed what the file holds, while no other process writes, and tells how many of its bytes are whole;
            it may refuse the file by raising. By default, all that ends with a line's end is whole.
        is_synced: whether the lines must be on the disk on return, not only on their way there.

    Returns:
        The number of bytes that were cut away.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file.fileno()).st_size
        is_ended = not size or os.pread(file.fileno(), 1, size - 1) == b"\n"
        kept = size
        if whole is not None or not is_ended:
            content = os.pread(file.fileno(), size, 0)
            kept = content.rfind(b"\n") + 1 if whole is None else whole(content)
            is_ended = not kept or content[kept - 1 : kept] == b"\n"
        if kept < size:
            file.truncate(kept)
        data = lines.encode() if is_ended else b"\n" + lines.encode()
        # One call for all of it: a kill leaves everything, or a beginning that readers recognise.
        if file.write(data) < len(data):
            file.truncate(kept)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if is_synced:
            os.fsync(file.fileno())
    return size - kept


def make_folder(folder: Path) -> None:
    """A folder that a user named, with those above it; one that is there stays as it is.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} must be writable, got {error.strerror!r}; take another place.") from error


@contextmanager
def claim(lock: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds the lock file; with `wait`, once it does. The claim ends with the process.

    Raises:
        MvigNasError: as `opened_lock`.
    """
    with opened_lock(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield True


def opened_lock(lock: Path) -> TextIO:
    """A lock's file, made if there is none, to read and to append to; what it holds stays.

    Raises:
        StorageError: it cannot be made, is no regular file, or is a link, which may lead to a file that is not ours.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        number = os.open(lock, flags, 0o666)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise OSError(errno.EINVAL, "not a regular file")
    except OSError as error:
        raise StorageError(f"{lock} must be writable, got {error.strerror!r}; take another folder.") from error
    return os.fdopen(number, "a+")


def holder(lock: Path) -> str:
    """Who has the lock file that `claim` could not have, in words: `process 123`."""
    try:
        number = read_text(lock, "a lock").strip()
    except (OSError, MvigNasError):
        number = ""
    return f"process {number}" if number.isdecimal() else "another process"
