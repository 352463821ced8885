"""Checkpoints of the authors' code (MobileViG, MobileViGv2, GreedyViG), read into our network and written back.

The graph step leaves no trace in the weights, hence an argument.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mvig_nas.architecture import STAGES, Architecture, Stage
from mvig_nas.errors import MvigNasError
from mvig_nas.network.mobilevig import MobileViG
from mvig_nas.network.reference_names import GREEDYVIG, MOBILEVIG, MOBILEVIGV2, ReferenceFormat, format_of
from mvig_nas.network.weight_files import read_weights


def load_reference_checkpoint(
    path: str | Path, graph_step: int | Sequence[int] | None = None, resolution: int = 224
) -> MobileViG:
    """Network with the weights of one of the authors' checkpoints, its Architecture recovered from names and shapes.

    Reads `.pth`, `.pth.tar` and `.pt` without unpickling code, and `.safetensors`; the weights may stand bare or under
    `model`, `state_dict` or `model_ema`, with or without a `module.` prefix. The activation is GELU, as the reference
    has no other.

    Args:
        path: a checkpoint of MobileViG, MobileViGv2 or GreedyViG.
        graph_step: K that the weights were trained with, one for all stages or four; None for that of the published
            networks: 2 in MobileViG, 8, 4, 2 in the last stages of MobileViGv2, and 8, 4, 2, 1 in GreedyViG.
        resolution: side of the image in pixels they were trained at.

    Raises:
        MvigNasError: the file is missing, unreadable or would run code; its weights are of none of the three; or
            `graph_step` leaves no link at a stage's size.
    """
    state = _read(Path(path))
    written_by = _format(state)
    architecture = _architecture(state, written_by, _steps(graph_step, written_by), resolution)
    distillation = "dist_head.weight" in state
    network = MobileViG(architecture, int(state["head.weight"].shape[0]), distillation=distillation)
    names = written_by.names(architecture, distillation)
    missing = sorted(theirs for ours, theirs in names.items() if theirs not in state and not _is_counter(ours))
    extra = sorted(set(state) - set(names.values()))
    if missing or extra:
        raise MvigNasError(
            f"a {written_by.family} checkpoint must hold exactly the reference code's weights, but {path} "
            f"lacks {missing[:3] or 'none'} and has {extra[:3] or 'none'} besides; check that it is of that code."
        )
    ours = {name: _ours(name, state[theirs]) for name, theirs in names.items() if theirs in state}
    try:
        network.load_state_dict({**network.state_dict(), **ours})
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise MvigNasError(f"the weights in {path} must have {written_by.family}'s shapes, but {first}") from error
    return network.eval()


def reference_state_dict(network: MobileViG) -> dict[str, Tensor]:
    """The network's weights under the names of the authors' code.

    Raises:
        MvigNasError: no repository of theirs has such a network (another activation or operator, groups, or in
            MobileViG a graph block before an MBConv block).
    """
    stages = network.architecture.stages
    written_by = format_of(network.architecture)
    if written_by is None:
        raise MvigNasError(
            "the authors' code knows GELU, one group and one operator in all graph blocks only (svga alone, mgc or "
            f"dagc with positional encoding and layer scale), but architecture {network.architecture.fingerprint} is "
            "none of these; save it with safetensors instead."
        )
    first_graph = next((index for index, stage in enumerate(stages) if stage.graph_depth), STAGES)
    if written_by is MOBILEVIG and any(stage.conv_depth for stage in stages[first_graph:]):
        raise MvigNasError("the reference code puts all MBConv stages before all graph stages; save with safetensors.")
    state = network.state_dict()
    names = written_by.names(network.architecture, network.head_dist is not None)
    axes = (1,) * written_by.scale_axes if written_by.is_successor else (1, 1)
    return {
        theirs: state[ours].reshape(-1, *axes) if _is_scale(ours) else state[ours] for ours, theirs in names.items()
    }


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MvigNasError(f"a checkpoint must be a file, but there is none at {path}; check the path.")
    try:
        # The authors' training script saves its command line beside the weights: plain values, no code.
        values = read_weights(path, allowed=[argparse.Namespace])
    except ValueError as error:
        raise MvigNasError(
            f"a checkpoint must be plain tensors, but {path} is damaged or needs code to be run: {error}"
        ) from error
    for key in ("model", "state_dict", "model_ema"):
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
            break
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise MvigNasError(f"a checkpoint must hold a state dict, bare or under 'model', but {path} does not.")
    return {str(key).removeprefix("module."): value for key, value in values.items()}


def _format(state: Mapping[str, Tensor]) -> ReferenceFormat:
    """The repository that wrote the checkpoint."""
    if any(key.startswith("high_res_branch.") for key in state):
        raise MvigNasError(
            "a checkpoint must be of a network without branches, got LogViG's, whose second branch no architecture "
            "has; take one of MobileViG, MobileViGv2 or GreedyViG."
        )
    if not any(re.match(r"backbone\.\d+\.\d+\.(dws|mixer)\.", key) for key in state):
        return MOBILEVIG
    is_v2 = any(re.match(r"backbone\.\d+\.\d+\.layer_scale_1", key) and state[key].ndim == 3 for key in state)
    return MOBILEVIGV2 if is_v2 else GREEDYVIG


def _architecture(
    state: Mapping[str, Tensor], written_by: ReferenceFormat, steps: Sequence[int], resolution: int
) -> Architecture:
    try:
        widths = [int(state["stem.stem.3.weight"].shape[0])]
        stages: list[dict[str, Any]] = [{}]
        for kind, prefix in _successor_items(state) if written_by.is_successor else _items(state):
            stage = stages[-1]
            if kind == "downsample":
                widths.append(int(state[f"{prefix}.conv.0.weight"].shape[0]))
                stages.append({})
            elif kind == "mbconv":
                expand, depthwise = ("dws.pw1", "dws.dw") if written_by.is_successor else ("mlp.fc1", "mlp.mid")
                stage["conv_depth"] = stage.get("conv_depth", 0) + 1
                stage["conv_expansion"] = int(state[f"{prefix}.{expand}.weight"].shape[0]) // widths[-1]
                stage["conv_kernel"] = int(state[f"{prefix}.{depthwise}.weight"].shape[-1])
            else:
                expand = "ffn.0" if written_by.is_successor else "1.fc1.0"
                stage["graph_depth"] = stage.get("graph_depth", 0) + 1
                stage["graph_step"] = steps[len(stages) - 1] if len(stages) <= STAGES else 1
                stage["ffn_expansion"] = int(state[f"{prefix}.{expand}.weight"].shape[0]) // widths[-1]
                stage["graph_operator"] = written_by.operator
                stage["graph_cpe"] = stage["graph_scale"] = written_by.is_successor
        head_width = int(state["prediction.1.weight"].shape[0])
        _ = state["head.weight"]
    except KeyError as error:
        raise MvigNasError(
            f"a checkpoint of the reference {written_by.family} must hold {error}, this one lacks it; check its origin."
        ) from error
    if len(stages) != STAGES:
        raise MvigNasError(f"a {written_by.family} must have {STAGES} stages, but the checkpoint has {len(stages)}.")
    parts = tuple(Stage(width, **stage) for width, stage in zip(widths, stages, strict=True))
    return Architecture(parts, head_width, resolution)  # type: ignore[arg-type]


def _items(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(kind, prefix) of every entry of MobileViG's two lists, in order."""
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


def _successor_items(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(kind, prefix) of every entry of the lists of a successor's stages, in order."""
    matches = (re.match(r"backbone\.(\d+)\.(\d+)\.", key) for key in state)
    for stage, block in sorted({(int(match[1]), int(match[2])) for match in matches if match}):
        prefix = f"backbone.{stage}.{block}"
        if f"{prefix}.conv.0.weight" in state:
            yield "downsample", prefix
        elif f"{prefix}.dws.pw1.weight" in state:
            yield "mbconv", prefix
        else:
            yield "graph", prefix


def _steps(graph_step: int | Sequence[int] | None, written_by: ReferenceFormat) -> Sequence[int]:
    if graph_step is None:
        return written_by.published_steps
    if isinstance(graph_step, int):
        return (graph_step,) * STAGES
    if len(graph_step) != STAGES:
        raise MvigNasError(f"`graph_step` must be one number or {STAGES}, one a stage, got {tuple(graph_step)}.")
    return graph_step


def _ours(name: str, tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, 1, 1) if _is_scale(name) else tensor


def _is_scale(name: str) -> bool:
    return name.endswith("layer_scale")


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
