"""Checkpoints of the reference code (SLDGroup/MobileViG), read into our network and written back.

The reference keeps MBConv stages in `local_backbone` and graph stages in `backbone`, each a flat list in which a
downsampling (`conv`) opens the next stage. The graph step leaves no trace in the weights, hence an argument.
"""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mvig_nas.architecture import STAGES, Architecture, Stage
from mvig_nas.errors import MvigNasError
from mvig_nas.network.mobilevig import MobileViG

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def load_reference_checkpoint(path: str | Path, graph_step: int = 2, resolution: int = 224) -> MobileViG:
    """Network with the weights of one of the authors' checkpoints, its Architecture recovered from the shapes.

    Reads `.pth`, `.pth.tar` and `.pt` without unpickling code, and `.safetensors`; the weights may stand bare or under
    `model`, `state_dict` or `model_ema`, with or without a `module.` prefix. The activation is GELU, as the reference
    has no other.

    Args:
        path: the checkpoint.
        graph_step: K the weights were trained with (2 in every published network).
        resolution: side of the image in pixels they were trained at.

    Raises:
        MvigNasError: the file is missing, unreadable or would run code; its weights are not a MobileViG's; or
            `graph_step` leaves no link at a stage's size.
    """
    state = _read(Path(path))
    architecture = _architecture(state, graph_step, resolution)
    distillation = "dist_head.weight" in state
    network = MobileViG(architecture, int(state["head.weight"].shape[0]), distillation=distillation)
    names = _names(architecture, distillation)
    missing = sorted(theirs for ours, theirs in names.items() if theirs not in state and not _is_counter(ours))
    extra = sorted(set(state) - set(names.values()))
    if missing or extra:
        raise MvigNasError(
            f"a MobileViG checkpoint must hold exactly the reference code's weights, but {path} "
            f"lacks {missing[:3] or 'none'} and has {extra[:3] or 'none'} besides; check that it is of that code."
        )
    ours = {name: state[theirs] for name, theirs in names.items() if theirs in state}
    try:
        network.load_state_dict({**network.state_dict(), **ours})
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise MvigNasError(f"the weights in {path} must have MobileViG's shapes, but {first}") from error
    return network.eval()


def reference_state_dict(network: MobileViG) -> dict[str, Tensor]:
    """The network's weights under the reference code's names.

    Raises:
        MvigNasError: the reference code has no such network (another activation or operator, groups, or a graph block
            before an MBConv block).
    """
    stages = network.architecture.stages
    for number, stage in enumerate(stages, start=1):
        if stage.activation != "gelu" or stage.graph_operator == "knn" or (stage.graph_groups or 1) > 1:
            raise MvigNasError(
                f"the reference code knows GELU, SVGA and one group only, but `stage{number}` is {stage}; save it with "
                "safetensors instead."
            )
    first_graph = next((index for index, stage in enumerate(stages) if stage.graph_depth), STAGES)
    if any(stage.conv_depth for stage in stages[first_graph:]):
        raise MvigNasError("the reference code puts all MBConv stages before all graph stages; save with safetensors.")
    state = network.state_dict()
    return {theirs: state[ours] for ours, theirs in _names(network.architecture, network.head_dist is not None).items()}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MvigNasError(f"a checkpoint must be a file, but there is none at {path}; check the path.")
    try:
        values: Any
        if path.suffix == ".safetensors":
            values = load_file(path)
        else:
            # The authors' training script saves its command line beside the weights: plain values, no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                values = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MvigNasError(
            f"a checkpoint must be plain tensors, but {path} is damaged or needs code to be run: {reason}"
        ) from error
    for key in ("model", "state_dict", "model_ema"):
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
            break
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise MvigNasError(f"a checkpoint must hold a state dict, bare or under 'model', but {path} does not.")
    return {str(key).removeprefix("module."): value for key, value in values.items()}


def _architecture(state: Mapping[str, Tensor], graph_step: int, resolution: int) -> Architecture:
    try:
        widths = [int(state["stem.stem.3.weight"].shape[0])]
        stages: list[dict[str, Any]] = [{}]
        for kind, prefix in _items(state):
            stage = stages[-1]
            if kind == "downsample":
                widths.append(int(state[f"{prefix}.conv.0.weight"].shape[0]))
                stages.append({})
            elif kind == "mbconv":
                stage["conv_depth"] = stage.get("conv_depth", 0) + 1
                stage["conv_expansion"] = int(state[f"{prefix}.mlp.fc1.weight"].shape[0]) // widths[-1]
                stage["conv_kernel"] = int(state[f"{prefix}.mlp.mid.weight"].shape[-1])
            else:
                stage["graph_depth"] = stage.get("graph_depth", 0) + 1
                stage["graph_step"] = graph_step
                stage["ffn_expansion"] = int(state[f"{prefix}.1.fc1.0.weight"].shape[0]) // widths[-1]
        head_width = int(state["prediction.1.weight"].shape[0])
        _ = state["head.weight"]
    except KeyError as error:
        raise MvigNasError(
            f"a checkpoint of the reference MobileViG must hold {error}, this one lacks it; check its origin."
        ) from error
    if len(stages) != STAGES:
        raise MvigNasError(f"a MobileViG must have {STAGES} stages, but the checkpoint has {len(stages)}.")
    parts = tuple(Stage(width, **stage) for width, stage in zip(widths, stages, strict=True))
    return Architecture(parts, head_width, resolution)  # type: ignore[arg-type]


def _items(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(kind, prefix) of every entry of the two lists, in order."""
    for part in ("local_backbone", "backbone"):
        positions = {int(match[1]) for key in state if (match := re.match(rf"{part}\.(\d+)\.", key))}
        for position in sorted(positions):
            prefix = f"{part}.{position}"
            if f"{prefix}.conv.0.weight" in state:
                yield "downsample", prefix
            elif f"{prefix}.mlp.fc1.weight" in state:
                yield "mbconv", prefix
            else:
                yield "graph", prefix


def _names(architecture: Architecture, distillation: bool) -> dict[str, str]:
    """Our name of every weight to the reference's."""
    names = _conv_norm("stem.conv1", "stem.stem.0", "stem.stem.1") | _conv_norm(
        "stem.conv2", "stem.stem.3", "stem.stem.4"
    )
    stages = architecture.stages
    # The downsampling before the first graph stage still belongs to the first list, as do all those before it.
    first_graph = next((index for index, stage in enumerate(stages) if stage.graph_depth), STAGES)
    counts = {"local_backbone": 0, "backbone": 0}

    def next_position(part: str) -> str:
        counts[part] += 1
        return f"{part}.{counts[part] - 1}"

    for index, stage in enumerate(stages):
        ours = f"stages.{index}"
        if index:
            theirs = next_position("local_backbone" if index <= first_graph else "backbone")
            names |= _conv_norm(f"{ours}.downsample", f"{theirs}.conv.0", f"{theirs}.conv.1")
        for block in range(stage.conv_depth):
            theirs = next_position("local_backbone")
            names |= _mbconv(f"{ours}.blocks.{block}", theirs)
        for block in range(stage.conv_depth, stage.conv_depth + stage.graph_depth):
            names |= _graph_block(f"{ours}.blocks.{block}", next_position("backbone"))
    names |= _conv_norm("head_conv", "prediction.1", "prediction.2") | _conv("head", "head")
    return names | _conv("head_dist", "dist_head") if distillation else names


def _mbconv(ours: str, theirs: str) -> dict[str, str]:
    names = {f"{ours}.layer_scale": f"{theirs}.layer_scale_2"}
    for our_part, conv, norm in (
        ("conv_pw", "fc1", "norm1"),
        ("conv_dw", "mid", "mid_norm"),
        ("conv_pwl", "fc2", "norm2"),
    ):
        names |= _conv_norm(f"{ours}.{our_part}", f"{theirs}.mlp.{conv}", f"{theirs}.mlp.{norm}")
    return names


def _graph_block(ours: str, theirs: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for our_part, their_part in (
        ("fc1", "0.fc1"),
        ("graph_conv", "0.graph_conv.nn"),
        ("fc2", "0.fc2"),
        ("ffn_fc1", "1.fc1"),
        ("ffn_fc2", "1.fc2"),
    ):
        names |= _conv_norm(f"{ours}.{our_part}", f"{theirs}.{their_part}.0", f"{theirs}.{their_part}.1")
    return names


def _conv_norm(ours: str, conv: str, norm: str) -> dict[str, str]:
    return _conv(f"{ours}.conv", conv) | {f"{ours}.bn.{name}": f"{norm}.{name}" for name in _BATCH_NORM}


def _conv(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.{name}" for name in ("weight", "bias")}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
