"""Files of weights: safetensors, or torch's own, of which only plain values are unpickled."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mvig_nas.files import require_regular


def read_weights(path: Path, *, allowed: Sequence[Callable[..., Any]] = ()) -> Any:
    """What a file of weights holds, on the CPU; nothing in it is run.

    Args:
        path: a `.safetensors`, or any other name for what `torch.save` wrote.
        allowed: classes besides tensors and plain values whose instances the file may hold.

    Raises:
        ValueError: it cannot be read, is no regular file, is damaged, or holds what would have to be run; one line.
    """
    try:
        require_regular(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([*allowed]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # wrong bytes make torch raise nearly anything
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
        raise ValueError(reason or type(error).__name__) from error
