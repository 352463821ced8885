"""SearchSpace: the choices a search has, and the only codec between an Architecture and named parameters.

A space is a product of parameters: `resolution`, `head_width`, and per stage `stage1.width` to `stage4.activation`.
A choice that no block uses (see `Stage`) makes several parameter settings one architecture, which `size` counts
once. Numbers are put in ascending order; names stand in the file from the cheapest to the dearest. The switches
`graph_cpe` and `graph_scale` may be left out of a stage, where they are then off.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from mvig_nas import shipped
from mvig_nas.architecture import DEPTH_OF, STAGES, SWITCHES, Architecture, Stage, stage_sizes
from mvig_nas.constraints import UNCONSTRAINED, Constraints
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import read_toml
from mvig_nas.graph_operators import OPERATORS
from mvig_nas.values import plain, read

SCHEMA = 1
Value = int | str

STAGE_CHOICES = tuple(field.name for field in fields(Stage))
_CONV_CHOICES = tuple(name for name, depth in DEPTH_OF.items() if depth == "conv_depth")
_GRAPH_CHOICES = tuple(name for name, depth in DEPTH_OF.items() if depth == "graph_depth")
_CHEAPER_WHEN_LARGER = ("graph_step", "graph_groups")

_DRAWS = 100  # of a sample, before one is repaired

PARAMETER_NAMES: tuple[str, ...] = (
    "resolution",
    "head_width",
    *(f"stage{number}.{name}" for number in range(1, STAGES + 1) for name in STAGE_CHOICES),
)


@dataclass(frozen=True)
class SearchSpace:
    """Named parameters and their choices; every combination is a valid Architecture.

    `constraints` leave out some of them. Each setting of the parameters still means an architecture: one that breaks a
    constraint means a near one that does not.

    Raises:
        MvigNasError: a parameter is missing or unknown, has no choice or a repeated one, or a combination makes no
            valid network (a width not divisible by its groups, a graph step that leaves no link), or no combination
            keeps the constraints.
    """

    name: str
    choices: Mapping[str, tuple[Value, ...]]
    description: str = ""
    constraints: Constraints = UNCONSTRAINED

    def __post_init__(self) -> None:
        for key in self.choices:
            if key not in PARAMETER_NAMES:
                raise MvigNasError(f"space {self.name!r} has no parameter {key!r}; {closest(key, PARAMETER_NAMES)}")
        for key in PARAMETER_NAMES:
            values = self.choices.get(key)
            if values is None:
                if _is_switch(key):
                    continue
                raise MvigNasError(f"space {self.name!r} lacks `{key}`; list its choices.")
            if not values:
                raise MvigNasError(f"space {self.name!r}: `{key}` must have at least one choice, got none; add one.")
            if len(set(values)) != len(values):
                raise MvigNasError(f"space {self.name!r}: `{key}` repeats a choice, got {values}; list each once.")
        object.__setattr__(
            self, "choices", {key: _in_order(self.choices[key]) for key in PARAMETER_NAMES if key in self.choices}
        )
        self._check_combinations()
        try:
            self.constraints.check_possible(self.choices)
        except MvigNasError as error:
            raise MvigNasError(f"space {self.name!r}: {error}") from error

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.choices.items())))

    def stage_choices(self, number: int) -> dict[str, tuple[Value, ...]]:
        """Choices of one stage, 1 to 4, by the names of `Stage`'s fields; without the switches that it has not."""
        return {name: self.choices[key] for name, key in self._stage_keys[number - 1]}

    @cached_property
    def _stage_keys(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Of each stage the fields of `Stage` that the space has choices for, with the parameters' names."""
        numbered = ([(name, f"stage{number}.{name}") for name in STAGE_CHOICES] for number in range(1, STAGES + 1))
        return tuple(tuple((name, key) for name, key in stage if key in self.choices) for stage in numbered)

    @cached_property
    def size(self) -> int:
        """Number of different architectures that keep the constraints; exact."""
        least = self.constraints.least_graph_blocks
        counts = {0: 1}  # of the stages so far, by graph blocks up to `least`
        for number in range(1, STAGES + 1):
            own = _stage_counts(self.stage_choices(number), self.constraints.least_blocks)
            grown: dict[int, int] = {}
            for (before, ways), (depth, other) in product(counts.items(), own.items()):
                blocks = min(before + depth, least)
                grown[blocks] = grown.get(blocks, 0) + ways * other
            counts = grown
        return len(self.choices["resolution"]) * len(self.choices["head_width"]) * self._widths * counts.get(least, 0)

    @property
    def _widths(self) -> int:
        """Number of ways to choose the stages' widths."""
        choices = [self.choices[f"stage{number}.width"] for number in range(1, STAGES + 1)]
        if self.constraints.widths_may_fall:
            return prod(len(widths) for widths in choices)
        ways = {0: 1}  # of the stages so far, by the last width
        for widths in choices:
            ways = {int(width): sum(n for last, n in ways.items() if last <= int(width)) for width in widths}
        return sum(ways.values())

    def encode(self, architecture: Architecture) -> dict[str, Value]:
        """Value of every parameter; one that the architecture does not use takes its first choice.

        Raises:
            MvigNasError: the architecture is not of this space; the message names the first parameter that is not, or
                the constraint that it breaks.
        """
        values: dict[str, Value] = {"resolution": architecture.resolution, "head_width": architecture.head_width}
        for number, stage in enumerate(architecture.stages, start=1):
            for name in STAGE_CHOICES:
                value = getattr(stage, name)
                key = f"stage{number}.{name}"
                if name in SWITCHES and stage.graph_depth:
                    value = bool(value)
                if key in self.choices:
                    values[key] = self.choices[key][0] if value is None else value
                elif value:
                    raise MvigNasError(f"space {self.name!r} has no `{key}`, got {value!r}; take another space.")
        for key, value in values.items():
            if value not in self.choices[key]:
                raise MvigNasError(
                    f"`{key}` must be one of {self.choices[key]} in space {self.name!r}, got {value!r}; "
                    "take one of them or another space."
                )
        broken = self.constraints.broken_by(architecture) if self._is_constrained else None
        if broken is not None:
            raise MvigNasError(f"an architecture of space {self.name!r} must keep its constraints: {broken}.")
        return values

    def decode(self, values: Mapping[str, Value]) -> Architecture:
        """Architecture of these parameter values; `encode`'s inverse.

        Values that break a constraint give a near architecture that keeps it.

        Raises:
            MvigNasError: a parameter is unknown or missing, or has a value that is not among its choices.
        """
        for key in values:
            if key not in self.choices:
                raise MvigNasError(f"space {self.name!r} has no parameter {key!r}; {closest(key, self.choices)}")
        for key, choices in self.choices.items():
            if key not in values:
                raise MvigNasError(f"a value for `{key}` is missing; give one of {choices}.")
            if values[key] not in choices:
                raise MvigNasError(f"`{key}` must be one of {choices} in space {self.name!r}, got {values[key]!r}.")
        return self._built(self._repaired(values))

    def _repaired(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        return self.constraints.repaired(values, self.choices) if self._is_constrained else values

    @cached_property
    def _is_constrained(self) -> bool:
        return self.constraints != UNCONSTRAINED

    def _built(self, values: Mapping[str, Value]) -> Architecture:
        stages = tuple(
            Stage(**{name: values[key] for name, key in keys})  # type: ignore[arg-type]
            for keys in self._stage_keys
        )
        return Architecture(stages, values["head_width"], values["resolution"])  # type: ignore[arg-type]

    def __contains__(self, architecture: object) -> bool:
        if not isinstance(architecture, Architecture):
            return False
        try:
            self.encode(architecture)
        except MvigNasError:
            return False
        return True

    @property
    def smallest(self) -> Architecture:
        """The cheapest choice of every parameter: least depth, width and resolution, fewest links, most groups."""
        return self.decode({key: self._by_cost(key)[0] for key in self.choices})

    @property
    def largest(self) -> Architecture:
        """The dearest choice of every parameter."""
        return self.decode({key: self._by_cost(key)[-1] for key in self.choices})

    def sample(self, rng: random.Random) -> Architecture:
        """An architecture with every parameter drawn uniformly, again until the constraints are kept."""
        for _ in range(_DRAWS):
            values = {key: rng.choice(choices) for key, choices in self.choices.items()}
            if self._repaired(values) == values:
                break
        return self.decode(values)

    def mutate(self, architecture: Architecture, rng: random.Random, probability: float = 0.1) -> Architecture:
        """A different architecture: every parameter is drawn anew with `probability`, again until one change shows.

        Where the space holds only one architecture, that one is returned.

        Raises:
            MvigNasError: the architecture is not of this space, or `probability` is not in (0, 1].
        """
        if not 0 < probability <= 1:
            raise MvigNasError(f"`probability` must be in (0, 1], got {probability}.")
        values = self.encode(architecture)
        if self.size == 1:
            return architecture
        while True:
            changed = {
                key: rng.choice(choices) if rng.random() < probability else values[key]
                for key, choices in self.choices.items()
            }
            child = self.decode(changed)
            if child != architecture:
                return child

    def crossover(self, one: Architecture, other: Architecture, rng: random.Random) -> Architecture:
        """An architecture that takes each parameter from either parent with equal chance.

        Raises:
            MvigNasError: a parent is not of this space.
        """
        first, second = self.encode(one), self.encode(other)
        return self.decode({key: rng.choice((first[key], second[key])) for key in self.choices})

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """All architectures that differ in one parameter, without repetition.

        Raises:
            MvigNasError: the architecture is not of this space.
        """
        values = self.encode(architecture)
        found = {
            self.decode(values | {key: choice})
            for key, choices in self.choices.items()
            for choice in choices
            if choice != values[key]
        }
        return sorted(found - {architecture}, key=lambda neighbour: neighbour.fingerprint)

    @classmethod
    def load(cls, name: str) -> "SearchSpace":
        """A space that ships with the package by name, or the one in a file whose name ends in .toml.

        Raises:
            MvigNasError: there is no such space, or its file is wrong.
        """
        return cls.from_toml(shipped.space_path(name))

    @classmethod
    def from_toml(cls, path: Path) -> "SearchSpace":
        """Space from a file in the format of docs/search_spaces.md.

        Raises:
            MvigNasError: the file is missing, is not TOML, is of a newer schema, or holds no valid space.
        """
        try:
            values = read_toml(path, "a search space file")
        except FileNotFoundError as error:
            raise MvigNasError(f"no search space file at {path}; check the path.") from error
        try:
            return cls.from_dict(values)
        except MvigNasError as error:
            raise MvigNasError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SearchSpace":
        """Space from the values of a space file, or of `to_dict`.

        Raises:
            MvigNasError: see the class; also for a newer schema or a wrong number of stages.
        """
        known = ("schema", "name", "description", "resolution", "head_width", "stage", "constraints")
        for key in values:
            if key not in known:
                raise MvigNasError(f"a search space has no entry {key!r}; {closest(key, known)}")
        schema = values.get("schema")
        if schema != SCHEMA:
            raise MvigNasError(
                f"search space `schema` must be {SCHEMA}, got {schema!r}; write it, or upgrade mvig-nas."
            )
        stages = values.get("stage")
        if not isinstance(stages, list) or len(stages) != STAGES or not all(isinstance(s, Mapping) for s in stages):
            raise MvigNasError(f"a search space must have {STAGES} [[stage]] tables; write one per stage.")
        choices = {key: values[key] for key in ("resolution", "head_width") if key in values}
        for number, stage in enumerate(stages, start=1):
            choices |= {f"stage{number}.{key}": value for key, value in stage.items()}
        for key, value in choices.items():
            if not isinstance(value, list):
                raise MvigNasError(f"`{key}` must be a list of choices, got {value!r}; write [{value!r}].")
            if not all(isinstance(choice, (int, float, str)) for choice in value):
                raise MvigNasError(f"`{key}` must list numbers or names, got {str(value)[:100]}; mend the list.")
        name = values.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w. -]{0,63}", name):
            raise MvigNasError(
                f"a search space must have a `name` of at most 64 letters, digits, dots, dashes and blanks, as folders "
                f"are called after it, got {name!r}."
            )
        constraints = read(Constraints, values.get("constraints", {}), "the table [constraints]")
        tuples = {key: tuple(value) for key, value in choices.items()}
        return cls(name, tuples, str(values.get("description", "")), constraints)

    def to_dict(self) -> dict[str, Any]:
        """The values of a space file."""
        constraints = {} if self.constraints == UNCONSTRAINED else {"constraints": plain(self.constraints)}
        return {
            "schema": SCHEMA,
            "name": self.name,
            "description": self.description,
            "resolution": list(self.choices["resolution"]),
            "head_width": list(self.choices["head_width"]),
            "stage": [
                {name: list(values) for name, values in self.stage_choices(number).items()}
                for number in range(1, STAGES + 1)
            ],
            **constraints,
        }

    def _by_cost(self, key: str) -> tuple[Value, ...]:
        values = self.choices[key]
        return values[::-1] if key.rpartition(".")[2] in _CHEAPER_WHEN_LARGER else values

    # Choices clash only in pairs (width with groups, step with resolution), so pairs are enough.
    def _check_combinations(self) -> None:
        for resolution in self.choices["resolution"]:
            for head_width in self.choices["head_width"]:
                self._check(Architecture, stages=(Stage(2),) * STAGES, head_width=head_width, resolution=resolution)
        for number in range(1, STAGES + 1):
            self._check_widths(number)
            self._check_steps(number)

    def _check_widths(self, number: int) -> None:
        choices = self.stage_choices(number)
        # As deep as it gets, so that no choice goes unseen; undivided, so that no other choice clashes.
        depths = {name: choices[name][-1] for name in ("conv_depth", "graph_depth")}
        base = {name: values[0] for name, values in choices.items()} | depths | {"graph_groups": 1}
        for name, values in choices.items():
            for value in values if name != "graph_groups" else ():
                self._check(Stage, f"stage{number}: ", **(base | {name: value}))
        for width in choices["width"]:
            if number == 1 and int(width) % 2:
                raise MvigNasError(
                    f"space {self.name!r}: `stage1.width` must be even, got {width}; the stem halves it."
                )
            for groups in choices["graph_groups"]:
                self._check(Stage, f"stage{number}: ", **(base | {"width": width, "graph_groups": groups}))

    def _check_steps(self, number: int) -> None:
        choices = self.stage_choices(number)
        for name in choices["graph_operator"]:  # a stage without graph blocks looks at none of them
            if str(name) not in OPERATORS:
                raise MvigNasError(
                    f"space {self.name!r}: `stage{number}.graph_operator` must be one of {tuple(OPERATORS)}, got "
                    f"{name!r}; {closest(str(name), OPERATORS)}"
                )
        takes_step = any(OPERATORS[str(name)].least_step is not None for name in choices["graph_operator"])
        if not choices["graph_depth"][-1] or not takes_step:
            return
        for resolution in self.choices["resolution"]:
            size = stage_sizes(int(resolution))[number - 1]
            for step in choices["graph_step"]:
                if int(step) >= size:
                    raise MvigNasError(
                        f"space {self.name!r}: `stage{number}.graph_step` must be below the stage's size, {size} "
                        f"pixels at resolution {resolution}, got {step}; take a smaller step or a larger resolution."
                    )

    def _check(self, kind: type[Stage] | type[Architecture], where: str = "", **values: Any) -> None:
        try:
            kind(**values)
        except MvigNasError as error:
            raise MvigNasError(f"space {self.name!r}: {where}{error}") from error


def _in_order(values: tuple[Value, ...]) -> tuple[Value, ...]:
    return tuple(sorted(values)) if all(isinstance(value, int) for value in values) else values


def _is_switch(key: str) -> bool:
    return key.rpartition(".")[2] in SWITCHES


def _stage_counts(choices: Mapping[str, tuple[Value, ...]], least_blocks: int) -> dict[int, int]:
    """Number of different Stage values but for the width, by number of graph blocks.

    Choices of absent blocks do not count, nor a step that no operator takes.
    """
    counts = {name: len(values) for name, values in choices.items()}
    steps = counts["graph_step"]
    counts["graph_operator"] = sum(
        1 if OPERATORS[str(name)].least_step is None else steps for name in choices["graph_operator"]
    )
    per_conv_depth = prod(counts[name] for name in _CONV_CHOICES)
    per_graph_depth = prod(counts.get(name, 1) for name in _GRAPH_CHOICES if name != "graph_step")
    found: dict[int, int] = {}
    for conv_depth, graph_depth in product(choices["conv_depth"], choices["graph_depth"]):
        if int(conv_depth) + int(graph_depth) >= least_blocks:
            ways = (per_conv_depth if conv_depth else 1) * (per_graph_depth if graph_depth else 1)
            found[int(graph_depth)] = found.get(int(graph_depth), 0) + ways * counts["activation"]
    return found
