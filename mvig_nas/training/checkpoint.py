"""Checkpoints: one file with everything that a training needs to go on as if it had never stopped."""

import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from mvig_nas.errors import MvigNasError
from mvig_nas.files import opened_lock, save

SCHEMA = 1
FILE = "state.pt"
LOCK = "training.lock"  # holds the number of the process that trains


def write_checkpoint(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the state whole, or leave the one before.

    Raises:
        MvigNasError: the folder is missing, read-only or full; the checkpoint before is still there.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, **values}, buffer)
    save(folder / FILE, buffer.getvalue())


@contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """While this process trains in the folder, no other may.

    The lock is the kind that processes forked by this one do not hold: a training that is killed can be resumed at
    once, though its workers may live for some seconds longer.

    Raises:
        MvigNasError: another process trains there, or the folder cannot be written.
    """
    with opened_lock(folder / LOCK) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise MvigNasError(
                f"only one process may train in {folder}, but process {file.read().strip()} is at it; wait until it "
                "has ended, or stop it."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """State written by `write_checkpoint`, on the CPU.

    Raises:
        MvigNasError: there is none, it is damaged, or it is of a newer version.
    """
    path = folder / FILE
    if not path.is_file():
        raise MvigNasError(f"a training to go on with must have a checkpoint, but there is none at {path}.")
    try:
        # Torch does not look at the checksums that it writes.
        with ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise BadZipFile(f"{damaged} has another checksum")
        values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # wrong bytes make zipfile and torch raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MvigNasError(f"a checkpoint must be whole, but {path} is damaged: {reason}; start anew.") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise MvigNasError(f"a checkpoint's schema must be {SCHEMA}, got {schema!r} in {path}; upgrade mvig-nas.")
    return dict(values)
