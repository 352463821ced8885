"""SHA-256 of what a package computes with: its program and its weights, stated in its metadata when it is written."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM, WEIGHTS = "program_sha256", "weights_sha256"  # entries of a package's metadata


def program_sha256(program: Any) -> str:
    """Of a program, a message of coremltools' protocol, by its fields and not by its bytes.

    The bytes of equal messages differ between versions of protobuf, and between processes.
    """
    digest = hashlib.sha256()
    for part in _parts(program):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def weights_sha256(files: dict[str, bytes]) -> str:
    """Of files by their names, in the names' order."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def read_weights(folder: Path) -> dict[str, bytes]:
    """Files in a package's folder of weights, by name; none where there is no folder."""
    return {file.name: file.read_bytes() for file in folder.glob("*")} if folder.is_dir() else {}


def _parts(value: Any) -> Iterator[str]:
    """The names and values of a message in an order that depends on them alone."""
    if hasattr(value, "ListFields"):
        yield "{"
        for field, inner in value.ListFields():
            yield field.name
            yield from _parts(inner)
        yield "}"
    elif hasattr(value, "items"):
        yield "<"
        for name in sorted(value):
            yield repr(name)
            yield from _parts(value[name])
        yield ">"
    elif isinstance(value, (str, bytes, int, float)):
        yield repr(value)
    else:
        yield "["
        for inner in value:
            yield from _parts(inner)
        yield "]"
