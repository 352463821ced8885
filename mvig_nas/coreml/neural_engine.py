"""What of a saved program a phone's Neural Engine does not run, or may compute wrongly, by rule.

The rules are what others published of the engine (operations that it lacks, types, ranks, extents, a clamp in slices).
Nothing here has run on one: Xcode's tab Performance shows where each operation of a package really ran.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from mvig_nas.coreml.package import FP16, SavedProgram

# Of MIL, Core ML's language of programs: operations that read where values say, sort, or loop.
_MISSING = frozenset(
    (
        *("argsort", "topk", "non_maximum_suppression", "non_zero", "one_hot", "cumsum"),
        *("gather", "gather_along_axis", "gather_nd", "scatter", "scatter_along_axis", "scatter_nd"),
        *("cond", "while_loop", "gru", "lstm", "rnn", "list_gather", "list_scatter", "resample"),
    )
)
_BORDER = ("cast", "classify")  # at the input and the output, on the CPU in any case
_MOST_AXES = 4
_MOST_EXTENT = 16_384
SLICE_LIMIT = 4_094.0  # on M1 and M2, a slice along the width that begins beyond 0 makes more than this infinite


@dataclass(frozen=True, slots=True)
class Departure:
    """Operations of one kind that leave the Neural Engine for one reason."""

    kind: str
    count: int
    reason: str


def departures(*programs: SavedProgram) -> tuple[Departure, ...]:
    """Operations that the Neural Engine does not run, most frequent first; none of a network of SVGA and convolutions.

    Those of several programs, as of a package's functions, are counted together. Casts and the labels at the border are
    not counted: they run on the CPU of every package.
    """
    found: Counter[tuple[str, str]] = Counter()
    for program in programs:
        for node, operation in zip(program.nodes, program.operations, strict=True):
            if operation.kind in _BORDER:
                continue
            reason = _reason(program, node, operation.kind, operation.shape, operation.precision)
            if reason:
                found[operation.kind, reason] += 1
    return tuple(Departure(kind, count, reason) for (kind, reason), count in found.most_common())


def width_slices(program: SavedProgram) -> dict[str, str]:
    """Of each slice along the width that begins beyond its first column: its name, and the name of what it slices."""
    return {
        node.outputs[0].name: node.inputs["x"].arguments[0].name
        for node in program.nodes
        if node.type == "slice_by_index" and _begins_inside(program, node)
    }


def _begins_inside(program: SavedProgram, node: Any) -> bool:
    begin, mask = program.argument(node, "begin"), program.argument(node, "begin_mask")
    is_masked = mask is not None and bool(mask[-1])
    return begin is not None and len(begin) == _MOST_AXES and not is_masked and int(begin[-1]) != 0


def _reason(program: SavedProgram, node: Any, kind: str, shape: tuple[int, ...], precision: str) -> str:
    if kind in _MISSING:
        return "the engine has no such operation"
    if precision != FP16:
        return f"the engine computes in fp16, not in {precision or 'other types'}"
    if len(shape) > _MOST_AXES:
        return f"its result has {len(shape)} axes, the engine's have at most {_MOST_AXES}"
    if max(shape, default=0) > _MOST_EXTENT:
        return f"an axis of {max(shape)} is longer than the engine's {_MOST_EXTENT}"
    dilations = program.argument(node, "dilations") if "dilations" in node.inputs else None
    if dilations is not None and (dilations != 1).any():
        return "the engine does not run dilated convolutions"
    return ""
