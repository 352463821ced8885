"""Architecture: one MobileViG-like network on paper, as a frozen value.

MobileViG: Munir, Avery and Marculescu, arXiv 2307.00395; reference code SLDGroup/MobileViG. Its successors MobileViGv2
(arXiv 2406.05850) and GreedyViG (arXiv 2405.06849) are points of the same space. Feature maps are square; a stage's
`size` is the side of its map in pixels.
"""

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import read_text
from mvig_nas.graph_operators import OPERATORS, GraphOperator

SCHEMA = 1
STAGES = 4
STRIDE = 32  # pixels of the image to one of the coarsest map

ACTIVATIONS = ("relu", "relu6", "gelu", "hard_swish", "silu")
GRAPH_OPERATORS = tuple(OPERATORS)
CPE_KERNEL = 7  # pixels, of the depthwise convolution that encodes positions

# Which depth of a stage a choice needs: at 0 it is unused.
DEPTH_OF: Mapping[str, str] = {
    **dict.fromkeys(("conv_expansion", "conv_kernel"), "conv_depth"),
    **dict.fromkeys(("ffn_expansion", "graph_step", "graph_operator", "graph_groups"), "graph_depth"),
    **dict.fromkeys(("graph_cpe", "graph_scale"), "graph_depth"),
}
SWITCHES = ("graph_cpe", "graph_scale")  # None where they are off, so that architectures of old keep their JSON


@dataclass(frozen=True)
class Stage:
    """One of the four resolutions: `conv_depth` MBConv blocks, then `graph_depth` graph blocks, all `width` wide.

    Both depths may be 0: the stage is then its downsampling alone. A choice that no block of the stage uses is None,
    whatever was passed, so that equal networks are equal values: the MBConv choices at `conv_depth` 0, the graph
    choices at `graph_depth` 0, `graph_step` of an operator that takes none, such as `knn`.

    `graph_cpe` adds a conditional positional encoding, a depthwise 7x7 convolution, in front of each grapher, and
    `graph_scale` a layer scale on both branches of each graph block, as MobileViGv2 and GreedyViG have them. Each is
    True or None.

    Raises:
        MvigNasError: a value is of the wrong type or out of range, or `width` is not divisible by `graph_groups`.
    """

    width: int
    conv_depth: int = 0
    graph_depth: int = 0
    conv_expansion: int | None = 4
    conv_kernel: int | None = 3
    ffn_expansion: int | None = 4
    graph_step: int | None = 2
    graph_operator: str | None = "svga"
    graph_groups: int | None = 1
    activation: str = "gelu"
    graph_cpe: bool | None = None
    graph_scale: bool | None = None

    def __post_init__(self) -> None:
        _require_int("width", self.width, 1)
        _require_int("conv_depth", self.conv_depth, 0)
        _require_int("graph_depth", self.graph_depth, 0)
        _require_name("activation", self.activation, ACTIVATIONS)
        if self.conv_depth:
            _require_int("conv_expansion", self.conv_expansion, 1)
            if _require_int("conv_kernel", self.conv_kernel, 1) % 2 == 0:
                raise MvigNasError(f"`conv_kernel` must be odd, got {self.conv_kernel}; take 3, 5 or 7.")
        else:
            self._clear("conv_depth")
        if not self.graph_depth:
            self._clear("graph_depth")
            return
        _require_int("ffn_expansion", self.ffn_expansion, 1)
        _require_name("graph_operator", self.graph_operator, GRAPH_OPERATORS)
        least_step = self.operator.least_step
        if least_step is None:
            object.__setattr__(self, "graph_step", None)
        elif _require_int("graph_step", self.graph_step, 1) < least_step:
            raise MvigNasError(
                f"`graph_step` of {self.graph_operator} must be at least {least_step}, got {self.graph_step}: no pixel "
                "would have a link; take a larger step."
            )
        for name in SWITCHES:
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise MvigNasError(f"`{name}` must be true, false or null, got {value!r}.")
            object.__setattr__(self, name, value or None)
        groups = _require_int("graph_groups", self.graph_groups, 1)
        if self.width % groups:
            raise MvigNasError(
                f"`width` must be divisible by `graph_groups`, got width {self.width} and graph_groups {groups}; "
                "change one of them."
            )

    @property
    def operator(self) -> GraphOperator:
        """The graph operator; of a stage that has graph blocks only."""
        return OPERATORS[self.graph_operator or ""]

    def is_used(self, name: str) -> bool:
        """Whether a field means something in this stage; a switch that is off does where there are graph blocks."""
        return bool(self.graph_depth) if name in SWITCHES else getattr(self, name) is not None

    def _clear(self, depth: str) -> None:
        for name, needed in DEPTH_OF.items():
            if needed == depth:
                object.__setattr__(self, name, None)


_MOST, _MOST_BLOCKS = 16_384, 256  # far beyond any phone, and still built in seconds
_STAGE_FIELDS = tuple(field.name for field in fields(Stage))


@dataclass(frozen=True)
class Architecture:
    """Four stages, the head's width and the side of the (square) image in pixels.

    The stem takes the first stage's activation, the head the last stage's.

    Raises:
        MvigNasError: a value is of the wrong type or out of range, the first width is odd (the stem makes half of it
            first), or a graph step leaves no link at its stage's size.
    """

    stages: tuple[Stage, Stage, Stage, Stage]
    head_width: int = 512
    resolution: int = 224

    def __post_init__(self) -> None:
        if not isinstance(self.stages, tuple) or not all(isinstance(stage, Stage) for stage in self.stages):
            raise MvigNasError(f"`stages` must be a tuple of Stage, got {self.stages!r}.")
        if len(self.stages) != STAGES:
            raise MvigNasError(f"`stages` must hold {STAGES} stages, got {len(self.stages)}.")
        _require_int("head_width", self.head_width, 1)
        _require_int("resolution", self.resolution, 1)
        if self.stages[0].width % 2:
            raise MvigNasError(
                f"`stage1.width` must be even, got {self.stages[0].width}: the stem's first half is half as wide."
            )
        for number, (stage, size) in enumerate(zip(self.stages, stage_sizes(self.resolution), strict=True), start=1):
            if stage.graph_step is not None and stage.graph_step >= size:
                raise MvigNasError(
                    f"`stage{number}.graph_step` must be below the stage's size, {size} pixels at resolution "
                    f"{self.resolution}, got {stage.graph_step}: no pixel would have a link; take a smaller step."
                )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Side of each stage's feature map in pixels."""
        return stage_sizes(self.resolution)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name this architecture in every process and version."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "schema": SCHEMA,
            "resolution": self.resolution,
            "head_width": self.head_width,
            "stages": [
                {
                    name: getattr(stage, name)
                    for name in _STAGE_FIELDS
                    if name not in SWITCHES or getattr(stage, name) is not None
                }
                for stage in self.stages
            ],
        }

    def to_json(self, indent: int | None = None) -> str:
        """One JSON object; `from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """Architecture from `to_dict`'s values.

        Raises:
            MvigNasError: an unknown or missing entry, a newer schema, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise MvigNasError(f"an architecture must be a JSON object, got {type(values).__name__}.")
        schema = values.get("schema")
        if schema is not None and (not isinstance(schema, int) or schema > SCHEMA):
            raise MvigNasError(
                f"architecture schema must be at most {SCHEMA}, got {schema!r}, of a newer mvig-nas: upgrade."
            )
        _require_keys("architecture", values, {"schema", "resolution", "head_width", "stages"})
        if not isinstance(values["stages"], list):
            raise MvigNasError(f"`stages` must be a list, got {values['stages']!r}.")
        stages = []
        for number, stage in enumerate(values["stages"], start=1):
            if not isinstance(stage, Mapping):
                raise MvigNasError(f"`stage{number}` must be an object, got {stage!r}.")
            _require_keys(f"stage{number}", stage, set(_STAGE_FIELDS), frozenset(SWITCHES))
            stages.append(Stage(**stage))
        return cls(tuple(stages), values["head_width"], values["resolution"])  # type: ignore[arg-type]

    @classmethod
    def load(cls, name: str) -> "Architecture":
        """A preset by name, or the architecture in a JSON file: bare, or inside a run's `winner.json`.

        Raises:
            MvigNasError: there is neither a preset nor a readable file of that name, or the file holds no architecture.
        """
        if name in FAMILY_PRESETS:
            return FAMILY_PRESETS[name]
        path = Path(name)
        if not path.is_file():
            raise MvigNasError(
                f"no preset and no file is called {name!r} (a run's own is its winner.json); "
                f"{closest(name, FAMILY_PRESETS)}"
            )
        try:
            values = json.loads(_text_of(path, "an architecture file"))
            return cls.from_dict(values.get("architecture", values) if isinstance(values, dict) else values)
        except (ValueError, RecursionError) as error:
            raise MvigNasError(
                f"{path}: an architecture must be JSON, got text that breaks off or errs: {error}."
            ) from error
        except MvigNasError as error:
            raise MvigNasError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """Architecture from `to_json`'s text.

        Raises:
            MvigNasError: the text is not JSON (truncated, say), or `from_dict` refuses its values.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MvigNasError(f"an architecture must be JSON, got text that breaks off or errs: {error}.") from error
        return cls.from_dict(values)


def read_architectures(path: Path) -> list[Architecture]:
    """The architectures of a .jsonl file, one a line, as `mvig-nas sample` writes them.

    Raises:
        MvigNasError: the file cannot be read, or a line holds no architecture.
    """
    found = []
    for number, line in enumerate(_text_of(path, "a file of architectures").splitlines(), start=1):
        if line.strip():
            try:
                found.append(Architecture.from_json(line))
            except MvigNasError as error:
                raise MvigNasError(f"{path}, line {number}: {error}") from error
    return found


def _text_of(path: Path, what: str) -> str:
    try:
        return read_text(path, what)
    except FileNotFoundError as error:
        raise MvigNasError(f"{what} must be readable text, got {error} for {path}.") from error


def stage_sizes(resolution: int) -> tuple[int, ...]:
    """Side of each stage's feature map: five 3x3 stride-2 convolutions halve it, rounding up; the stem has two."""
    sizes = []
    size = -(-resolution // 2)
    for _ in range(STAGES):
        size = -(-size // 2)
        sizes.append(size)
    return tuple(sizes)


def _require_int(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise MvigNasError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
    most = _MOST_BLOCKS if name in ("conv_depth", "graph_depth") else _MOST
    if value > most:
        raise MvigNasError(f"`{name}` must be an integer of at most {most:,}, got {value!r}; no phone runs that.")
    return value


def _require_name(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise MvigNasError(f"`{name}` must be one of {known}, got {value!r}.")
    if value not in known:
        raise MvigNasError(f"`{name}` must be one of {known}, got {value!r}; {closest(value, known)}")


def _require_keys(
    what: str, values: Mapping[str, Any], known: set[str], optional: Set[str] = frozenset({"schema"})
) -> None:
    for key in values:
        if key not in known:
            raise MvigNasError(f"{what} has no entry {key!r}; {closest(str(key), known)}")
    missing = sorted(known - set(values) - optional)
    if missing:
        raise MvigNasError(
            f"{what} lacks {', '.join(map(repr, missing))}; write all of {', '.join(sorted(known - optional))}."
        )


def _preset(
    depths: tuple[int, int, int], graph_depth: int, widths: tuple[int, int, int, int], head: int
) -> Architecture:
    conv = tuple(Stage(width, conv_depth=depth) for width, depth in zip(widths[:3], depths, strict=True))
    return Architecture((*conv, Stage(widths[3], graph_depth=graph_depth)), head_width=head)  # type: ignore[arg-type]


def _successor(operator: str, depths: str, widths: tuple[int, ...], steps: tuple[int, ...], head: int) -> Architecture:
    """MBConv and graph blocks in every stage, as in "2,0 2,2 6,2 2,2", with CPE and layer scale on graph blocks."""
    stages = []
    for width, step, pair in zip(widths, steps, depths.split(), strict=True):
        conv_depth, graph_depth = map(int, pair.split(","))
        extras = {"graph_step": step, "graph_operator": operator, "graph_cpe": True, "graph_scale": True}
        stages.append(Stage(width, conv_depth, graph_depth, **extras))  # type: ignore[arg-type]
    return Architecture(tuple(stages), head_width=head)  # type: ignore[arg-type]


# arXiv 2307.00395, table 1.
PRESETS: Mapping[str, Architecture] = {
    "mobilevig_ti": _preset((2, 2, 6), 2, (42, 84, 168, 256), 512),
    "mobilevig_s": _preset((3, 3, 9), 3, (42, 84, 176, 256), 512),
    "mobilevig_m": _preset((3, 3, 9), 3, (42, 84, 224, 400), 768),
    "mobilevig_b": _preset((5, 5, 15), 5, (42, 84, 240, 464), 768),
}

_V2_STEPS, _GREEDY_STEPS = (8, 8, 4, 2), (8, 4, 2, 1)  # the first of MobileViGv2 is unused
# The published networks of the whole family; sizes as the authors' code builds them.
FAMILY_PRESETS: Mapping[str, Architecture] = {
    **PRESETS,
    "mobilevigv2_ti": _successor("mgc", "2,0 2,2 6,2 2,2", (32, 64, 128, 256), _V2_STEPS, 512),
    "mobilevigv2_s": _successor("mgc", "3,0 3,3 9,3 3,3", (32, 64, 128, 256), _V2_STEPS, 512),
    "mobilevigv2_m": _successor("mgc", "3,0 3,3 9,3 3,3", (32, 64, 192, 384), _V2_STEPS, 512),
    "mobilevigv2_b": _successor("mgc", "3,0 3,3 9,3 3,3", (64, 128, 256, 512), _V2_STEPS, 768),
    "greedyvig_s": _successor("dagc", "2,2 2,2 6,2 2,2", (48, 96, 192, 384), _GREEDY_STEPS, 768),
    "greedyvig_m": _successor("dagc", "3,3 3,3 9,3 3,3", (56, 112, 224, 448), _GREEDY_STEPS, 768),
    "greedyvig_b": _successor("dagc", "4,4 4,4 12,4 3,3", (64, 128, 256, 512), _GREEDY_STEPS, 768),
}


def preset(name: str) -> Architecture:
    """A published network of the family by name, e.g. `mobilevig_ti` or `greedyvig_s`.

    Raises:
        MvigNasError: no preset of that name.
    """
    if name not in FAMILY_PRESETS:
        raise MvigNasError(f"no preset is called {name!r}; {closest(name, FAMILY_PRESETS)}")
    return FAMILY_PRESETS[name]
