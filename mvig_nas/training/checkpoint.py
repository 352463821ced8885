"""Checkpoints: one file with everything that a training needs to go on as if it had never stopped."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from mvig_nas.errors import MvigNasError
from mvig_nas.files import save

SCHEMA = 1
FILE = "state.pt"


def write_checkpoint(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the state whole, or leave the one before.

    Raises:
        MvigNasError: the folder is missing, read-only or full; the checkpoint before is still there.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, **values}, buffer)
    save(folder / FILE, buffer.getvalue())


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left: as much as a whole checkpoint each time."""
    for path in folder.glob(f"{FILE}.*.tmp"):
        path.unlink(missing_ok=True)


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
