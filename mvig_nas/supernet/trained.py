"""A trained supernet as one safetensors file: weights, and as metadata space, classes and how it was trained."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from mvig_nas.errors import MvigNasError
from mvig_nas.files import save
from mvig_nas.search_space import SearchSpace
from mvig_nas.supernet.shared_weights import Supernet

SCHEMA = 1
FILE = "supernet.safetensors"


@dataclass(frozen=True)
class TrainedSupernet:
    """A supernet in evaluation mode, the classes of its logits, how it was trained, and a digest of its weights."""

    supernet: Supernet
    classes: tuple[str, ...]
    training: Mapping[str, Any]
    digest: str


def save_supernet(path: Path, supernet: Supernet, classes: Sequence[str], training: Mapping[str, Any]) -> None:
    """Write the file whole, or leave the one before; `training` holds plain values.

    Raises:
        MvigNasError: the folder is missing, read-only or full.
    """
    about = {
        "schema": SCHEMA,
        "space": supernet.space.to_dict(),
        "classes": list(classes),
        "distillation": supernet.distillation,
        "training": dict(training),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in supernet.state_dict().items()}
    save(path, to_bytes(tensors, {"mvig_nas": json.dumps(about)}))


def is_supernet(path: Path) -> bool:
    """Whether a file is a supernet's, rather than other weights; a damaged one is none."""
    try:
        with safe_open(path, "pt") as file:
            return "mvig_nas" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_supernet(path: Path) -> TrainedSupernet:
    """Supernet from `save_supernet`'s file, or from the folder that holds one.

    Raises:
        MvigNasError: there is none, it is damaged, or it is of a newer version.
    """
    if path.is_dir():
        path = path / FILE
    if not path.is_file():
        unfinished = (path.parent / "state.pt").is_file()
        what = "its training has not ended, go on with --resume" if unfinished else "train one: mvig-nas supernet train"
        raise MvigNasError(f"a supernet must be a file, but there is none at {path}; {what}.")
    try:
        digest = sha256(path.read_bytes()).hexdigest()[:16]
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("mvig_nas", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        if not isinstance(about, dict) or "schema" not in about:
            raise MvigNasError(f"{path} must be a supernet as `supernet train` writes it, but holds other weights.")
        if about["schema"] != SCHEMA:
            raise MvigNasError(
                f"a supernet's schema must be {SCHEMA}, got {about['schema']!r} in {path}; upgrade mvig-nas."
            )
        space, classes = SearchSpace.from_dict(about["space"]), tuple(about["classes"])
        with torch.device("meta"):
            supernet = Supernet(space, len(classes), distillation=about["distillation"])
        supernet.to_empty(device="cpu").load_state_dict(tensors)
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MvigNasError(f"{path} must be a supernet as `supernet train` writes it, but: {reason}") from error
    return TrainedSupernet(supernet.eval(), classes, about["training"], digest)


def check_covers(supernet: Supernet, space: SearchSpace, path: Path) -> None:
    """That every architecture of `space` is one of the supernet's.

    Raises:
        MvigNasError: a choice is not; the message names the first.
    """
    if not supernet.space.constraints.is_implied_by(space.constraints):
        raise MvigNasError(
            f"the supernet must hold all of space {space.name!r}, but the one in {path} was trained for "
            f"{supernet.space.name!r}, which asks for more: {supernet.space.constraints}; search that one."
        )
    held = supernet.space.choices
    for key in dict.fromkeys((*space.choices, *held)):  # a switch that a space has not is off
        missing = [choice for choice in space.choices.get(key, (False,)) if choice not in held.get(key, (False,))]
        if missing:
            raise MvigNasError(
                f"the supernet must hold all of space {space.name!r}, but the one in {path} was trained for "
                f"{supernet.space.name!r}, which has no `{key}` of {missing[0]!r}; search that one, or train another."
            )
