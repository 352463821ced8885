"""Experiment: a question, a base architecture, and a grid of named changes to it. Its files are TOML.

A change names what it sets: `resolution`, `head_width`, `stage2.graph_step`, `stages.activation` (of all four stages),
`graph_stages.graph_groups` (of the stages that have graph blocks in the base), or `width_factor`, which all widths are
multiplied by and then rounded to multiples of 4. What one change sets for one stage prevails over what it sets for
several. `docs/experiments.md` shows a file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from mvig_nas import scores, shipped, values
from mvig_nas.architecture import STAGES, Architecture, Stage
from mvig_nas.budget import Budget, parse_bytes
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import read_toml
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.kernels import BYTES_PER_ELEMENT
from mvig_nas.search_space import SearchSpace
from mvig_nas.values import about, check

SCHEMA = 1
WIDTH_FACTOR = "width_factor"
_FOLDER = "experiments"
_ROUNDED_TO = 4  # channels, where widths are multiplied
_NUMBERED = {f"stage{number}": (number,) for number in range(1, STAGES + 1)}
_STAGE_FIELDS = tuple(each.name for each in fields(Stage))
_DISTURBANCE = re.compile(r"(shift|shuffle) ([1-9]\d*)")

Change = dict[str, int | float | str | bool]  # what is set, and to which value


@dataclass(frozen=True)
class OperatorAlone:
    """Graph operators that are measured alone, on maps of several sizes, at batch 1.

    Raises:
        MvigNasError: a value is out of range, no such operator, or a map on which the step leaves no link.
    """

    operators: tuple[str, ...] = ("svga", "knn")
    maps: tuple[Annotated[int, about("Side of a map in pixels.", ge=2)], ...] = (7, 14, 28, 56)
    width: Annotated[int, about("Channels of the maps.", ge=1)] = 64
    step: Annotated[int, about("Graph step K in pixels, of the operators that take one.", ge=1)] = 2

    def __post_init__(self) -> None:
        check(self)
        for name in self.operators:
            if name not in OPERATORS:
                raise MvigNasError(f"`operators` must be of {tuple(OPERATORS)}, got {name!r}.")
        if not self.operators or len(self.maps) < 2 or min(self.maps) <= self.step:
            raise MvigNasError(
                f"an operator alone needs at least one operator and two maps larger than its step, got operators "
                f"{self.operators}, maps {self.maps} and step {self.step}; correct them."
            )


@dataclass(frozen=True)
class Fronts:
    """A search for each of several budgets of memory; see `fronts.traced`.

    A budget holds for the weights and for the activations at a time, each by itself, at one byte (int8) for every
    number. Biases, scales and what a runtime needs come on top and are not counted.

    Raises:
        MvigNasError: a value is out of range, there is no budget, or one is no size.
    """

    space: Annotated[str, about("Search space that is searched.")] = "mcu"
    budgets: tuple[Annotated[str, about("Most memory, e.g. 256KiB.")], ...] = ("256KiB", "512KiB", "1MiB", "2MiB")
    score: Annotated[str, about("Training-free score that is maximised.")] = scores.DEFAULT
    evaluations: Annotated[int, about("Scores computed for each budget.", ge=1)] = 200
    classes: Annotated[int, about("Classes that the networks tell apart.", ge=1)] = 10
    seed: Annotated[int, about("Seed of the searches.", ge=0)] = 0

    def __post_init__(self) -> None:
        check(self)
        sizes = [parse_bytes(each) for each in self.budgets]
        if not sizes or len(set(sizes)) != len(sizes):
            raise MvigNasError(f"`budgets` must be at least one size, each once, got {self.budgets}; correct them.")

    def budget(self, name: str) -> Budget:
        """One of the budgets as a search takes it, which counts bytes in fp16."""
        limit = BYTES_PER_ELEMENT * parse_bytes(name)
        return Budget(memory_bytes=limit, weight_bytes=limit)


@dataclass(frozen=True)
class Dense:
    """A dense task: cells of their own learn the classes of the pixels of shapes; see `dense.trained`.

    All cells are matched to the first one in MACs, and are compared with it.

    Raises:
        MvigNasError: a value is out of range, or there are fewer than two cells.
    """

    base: Architecture
    cells: dict[str, Change]
    images: Annotated[int, about("Images to train on.", ge=32)] = 768
    held_out: Annotated[int, about("Images to measure on.", ge=1)] = 256
    kinds: Annotated[int, about("Classes of shapes; the ground is one more.", ge=1, le=4)] = 4
    epochs: Annotated[int, about("Passes over the training images.", ge=1)] = 20
    seeds: Annotated[int, about("Trainings of each cell.", ge=1)] = 3

    def __post_init__(self) -> None:
        check(self)
        if len(self.cells) < 2:
            raise MvigNasError(f"the dense task must have at least two cells, got {list(self.cells)}; add one.")


@dataclass(frozen=True)
class Experiment:
    """What is asked, and the cells that answer it.

    Attributes:
        name: of the experiment, which is its file's.
        question: that it answers, a sentence.
        base: the architecture that all cells are changes of.
        axes: named axes of named changes; every combination of one change of each axis is a cell.
        cells: named changes that are cells besides the grid.
        leave_out: names of cells of the grid that are none.
        reference: name of the cell that all others are compared with and matched to; the first if it is None.
        unmatched: names of cells whose widths stay as they are where the others are matched.
        operator: graph operators that are measured alone, too; None for none.
        fronts: searches under budgets of memory, whose winners become cells; None for none.
        dense: a task on synthetic images, with cells of its own; None for none.
        disturbances: of the validation images, on which the trained cells are asked once more: `shift N`, `shuffle N`.

    Raises:
        MvigNasError: a value is out of range, there is no cell, or a name is of no cell.
    """

    name: str
    question: str
    base: Architecture
    axes: dict[str, dict[str, Change]] = field(default_factory=dict)
    cells: dict[str, Change] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    reference: str | None = None
    match: Annotated[Literal["latency", "macs"], about("What the cells are made equal in.")] | None = None
    unmatched: tuple[str, ...] = ()
    space: Annotated[str, about("Search space that every cell must be in.")] | None = None
    device: Annotated[str, about("Phone that latency is predicted for.")] = shipped.DEFAULT_DEVICE
    plan: Annotated[str, about("Plan of the trainings; none are trained without one.")] | None = None
    epochs: Annotated[int, about("Epochs of each training; the plan's if missing.", ge=1)] | None = None
    seeds: Annotated[int, about("Trainings of each cell.", ge=1)] = 3
    operator: OperatorAlone | None = None
    fronts: Fronts | None = None
    dense: Dense | None = None
    disturbances: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self)
        for each in self.disturbances:
            check_disturbance(each)
        if not self.question.strip():
            raise MvigNasError(f"experiment {self.name!r} must have a `question`, got none; write the sentence.")
        for axis, levels in self.axes.items():
            if not levels:
                raise MvigNasError(f"axis {axis!r} must have at least one change, got none; add one or drop the axis.")
        names = self.cell_names
        for each in self.leave_out:
            if each not in self._grid:
                raise MvigNasError(
                    f"`leave_out` must name cells of the grid, got {each!r}; {closest(each, self._grid)}"
                )
        if not names and all(each is None for each in (self.operator, self.fronts, self.dense)):
            raise MvigNasError(f"experiment {self.name!r} must have a cell, got none; add [axes] or [cells].")
        if self.match is not None and not names:
            raise MvigNasError(f"`match` needs cells, got {self.match!r} and none; add [cells], or leave it out.")
        for what, given in (
            ("reference", (self.reference or names[0],) if names else ()),
            ("unmatched", self.unmatched),
        ):
            for each in given:
                if each not in names:
                    raise MvigNasError(f"`{what}` must name a cell, got {each!r}; {closest(each, names)}")
        every = (*names, *self.winner_names.values())
        if len(set(every)) != len(every):
            raise MvigNasError(f"the names of cells must differ, got {every}; rename one.")

    @property
    def cell_names(self) -> tuple[str, ...]:
        """Names of all cells: those of the grid, then the others."""
        return (*(name for name in self._grid if name not in self.leave_out), *self.cells)

    @property
    def winner_names(self) -> dict[str, str]:
        """Names of the cells that searches find, by their budget."""
        return {} if self.fronts is None else {each: f"within {each}" for each in self.fronts.budgets}

    @property
    def reference_name(self) -> str:
        """Name of the cell that the others are compared with."""
        return self.reference or (*self.cell_names, *self.winner_names.values())[0]

    @property
    def _grid(self) -> dict[str, list[Change]]:
        if not self.axes:
            return {}
        named = [list(levels.items()) for levels in self.axes.values()]
        return {", ".join(name for name, _ in chosen): [change for _, change in chosen] for chosen in product(*named)}

    def changes_of(self, name: str) -> list[Change]:
        """The changes to the base that make a cell."""
        return self._grid[name] if name in self._grid else [self.cells[name]]

    @classmethod
    def load(cls, name: str) -> "Experiment":
        """An experiment that ships with the package by name, or the one in a TOML file.

        Raises:
            MvigNasError: there is no such experiment, or its file is wrong.
        """
        path = _path_of(name)
        try:
            data = read_toml(path, "an experiment file")
        except FileNotFoundError as error:
            raise MvigNasError(f"no experiment file at {path}; check the path.") from error
        schema = data.pop("schema", None)
        if schema != SCHEMA:
            raise MvigNasError(f"{path}: `schema` must be {SCHEMA}, got {schema!r}; write it, or upgrade mvig-nas.")
        base, resolution = data.get("base"), data.pop("resolution", None)
        if isinstance(base, str):
            data["base"] = values.plain(Architecture.load(base))
        if resolution is not None and isinstance(data.get("base"), Mapping):
            data["base"] = {**data["base"], "resolution": resolution}
        return values.read(cls, {"name": path.stem, **data}, str(path))


@dataclass(frozen=True)
class Cell:
    """One network of an experiment.

    Attributes:
        name: of the cell.
        architecture: with the widths that the cell is matched at.
        widths_before: of the four stages, before they were adjusted.
        matched: what the cell costs (milliseconds or MACs) over what the reference does; None where it is not matched.
    """

    name: str
    architecture: Architecture
    widths_before: tuple[int, ...]
    matched: float | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the four stages."""
        return tuple(stage.width for stage in self.architecture.stages)

    @property
    def adjustment(self) -> str:
        """What was done to the widths, for people; empty where nothing was."""
        if self.widths == self.widths_before:
            return ""
        return f"{'-'.join(map(str, self.widths_before))} to {'-'.join(map(str, self.widths))}"


def experiment_names() -> tuple[str, ...]:
    """Names of the experiments that ship with the package."""
    return tuple(sorted(path.stem for path in (shipped.folder("search_spaces") / _FOLDER).glob("*.toml")))


def cells_of(experiment: Experiment, only: Sequence[str] = ()) -> tuple[Cell, ...]:
    """The cells of an experiment, before they are matched.

    Args:
        experiment: whose grid it is.
        only: texts of which a cell's name must hold one, unless it is the reference; all cells if there are none.

    Raises:
        MvigNasError: a cell is no valid architecture, or lies outside the experiment's space; the message names it.
            Or one of the texts is in no name.
    """
    space = None if experiment.space is None else SearchSpace.load(experiment.space)
    names = experiment.cell_names
    for text in only:
        if not any(text in name for name in names):
            raise MvigNasError(
                f"--cell must be text that a cell's name holds, got {text!r}; the cells of {experiment.name!r} are "
                f"{', '.join(map(repr, names)) or 'none'}."
            )
    cells = []
    for name in names:
        if only and name != experiment.reference_name and not any(text in name for text in only):
            continue
        try:
            architecture = changed_architecture(experiment.base, experiment.changes_of(name))
            if space is not None:
                space.encode(architecture)
        except MvigNasError as error:
            raise MvigNasError(f"cell {name!r} of experiment {experiment.name!r}: {error}") from error
        cells.append(Cell(name, architecture, tuple(stage.width for stage in architecture.stages)))
    return tuple(cells)


def check_disturbance(name: str) -> None:
    """Refuse what is no disturbance.

    Raises:
        MvigNasError: the name is not `shift N` or `shuffle N` with N of at least 2.
    """
    found = _DISTURBANCE.fullmatch(name)
    if found is None or int(found[2]) < 2:
        raise MvigNasError(f"a disturbance must be `shift N` or `shuffle N` with N from 2, got {name!r}.")


def changed_architecture(base: Architecture, changes: list[Change]) -> Architecture:
    """The base with all changes at once.

    Raises:
        MvigNasError: a change sets what no architecture has, two changes set the same to different values, or what
            they make together is no architecture.
    """
    merged: Change = {}
    for change in changes:
        own: Change = {}
        for name in sorted(change, key=lambda name: name.partition(".")[0] in _NUMBERED):  # what is of one stage last
            own |= dict.fromkeys(_parameters(base, name), change[name])
        for parameter, value in own.items():
            if merged.get(parameter, value) != value:
                raise MvigNasError(
                    f"changes must not contradict each other, got {merged[parameter]!r} and {value!r} for "
                    f"`{parameter}`; put them in one axis."
                )
        merged |= own
    factor = merged.pop(WIDTH_FACTOR, 1)
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or factor <= 0:
        raise MvigNasError(f"`{WIDTH_FACTOR}` must be a number above 0, got {factor!r}.")
    stages = []
    for number, stage in enumerate(base.stages, start=1):
        known: dict[str, Any] = {
            name: getattr(stage, name) for name in _STAGE_FIELDS if getattr(stage, name) is not None
        }
        if factor != 1:
            known["width"] = max(1, round(stage.width * factor / _ROUNDED_TO)) * _ROUNDED_TO
        prefix = f"stage{number}."
        known |= {name.removeprefix(prefix): value for name, value in merged.items() if name.startswith(prefix)}
        stages.append(Stage(**known))
    whole: dict[str, Any] = {name: merged[name] for name in ("resolution", "head_width") if name in merged}
    return replace(base, stages=tuple(stages), **whole)  # type: ignore[arg-type]


def _parameters(base: Architecture, name: str) -> list[str]:
    """The parameters that one entry of a change sets."""
    if name in ("resolution", "head_width", WIDTH_FACTOR):
        return [name]
    stages, _, entry = name.partition(".")
    groups = {
        **_NUMBERED,
        "stages": tuple(range(1, STAGES + 1)),
        "graph_stages": tuple(number for number, stage in enumerate(base.stages, start=1) if stage.graph_depth),
    }
    if stages not in groups or entry not in _STAGE_FIELDS:
        known = [
            "resolution",
            "head_width",
            WIDTH_FACTOR,
            *(f"{group}.{each}" for group in groups for each in _STAGE_FIELDS),
        ]
        near = closest(name, known)
        advice = near if near.startswith("did") else "write stage1.width, stages.activation or resolution."
        raise MvigNasError(f"a change cannot set {name!r}; {advice}")
    return [f"stage{number}.{entry}" for number in groups[stages]]


def _path_of(name: str) -> Path:
    if name in experiment_names():
        return shipped.folder("search_spaces") / _FOLDER / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    raise MvigNasError(
        f"no experiment is called {name!r}; {closest(name, experiment_names())} A file must end in .toml."
    )
