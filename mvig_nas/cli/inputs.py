"""What commands read: a space, a predictor, an architecture."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvig_nas import shipped
from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.search_space import SearchSpace

if TYPE_CHECKING:
    from mvig_nas.latency import ArchitectureLatency
    from mvig_nas.training import Plan, Recipe


def load_space(name: str) -> SearchSpace:
    """A shipped space by name, or one from a file.

    Raises:
        MvigNasError: no such space, or its file is wrong.
    """
    return SearchSpace.from_toml(shipped.space_path(name))


def load_latency(device: str) -> "ArchitectureLatency":
    """A device's shipped predictor, or one from a folder, for the network as `export` writes it.

    Raises:
        MvigNasError: no such device, or its predictor is damaged.
    """
    from mvig_nas.latency import ArchitectureLatency, LatencyPredictor

    return ArchitectureLatency(LatencyPredictor.load(shipped.predictor_folder(device)))


def load_architecture(name: str) -> Architecture:
    """A preset by name, or the architecture in a JSON file: bare, or a run's `winner.json`.

    Raises:
        MvigNasError: neither a preset nor a readable file, or the file holds no architecture.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise MvigNasError(
            f"no preset and no file is called {name!r}; {closest(name, PRESETS)} A run has a winner.json."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MvigNasError(f"an architecture file must be readable text, got {error} for {path}.") from error
    try:
        values: Any = json.loads(text)
        return Architecture.from_dict(values.get("architecture", values) if isinstance(values, dict) else values)
    except json.JSONDecodeError as error:
        raise MvigNasError(
            f"{path}: an architecture must be JSON, got text that breaks off or errs: {error}."
        ) from error
    except MvigNasError as error:
        raise MvigNasError(f"{path}: {error}") from error


def load_architectures(path: Path) -> list[Architecture]:
    """The architectures of a .jsonl file, one a line, as `sample` writes it.

    Raises:
        MvigNasError: the file cannot be read, or a line holds no architecture.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MvigNasError(f"a file of architectures must be readable text, got {error} for {path}.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(Architecture.from_json(line))
            except MvigNasError as error:
                raise MvigNasError(f"{path}, line {number}: {error}") from error
    return found


def load_recipe(name: str, given: Mapping[str, Any]) -> "Recipe":
    """A shipped training recipe by name, or one from a TOML file, with the entries of `given` in place of its own.

    Entries that are `Preprocessing`'s may stand in `given` beside the recipe's.

    Raises:
        MvigNasError: no such recipe, its file is wrong, or a value is out of range.
    """
    path = shipped.recipe_path(name)
    values = _read_recipe(path)
    with _naming(path):
        if "distillation" in values:
            raise MvigNasError("a supernet's recipe must have no table `distillation`; it is a plan, for `retrain`.")
        changed_recipe(values, {})  # what is wrong in the file by itself is told with its name
    return changed_recipe(values, given)


def load_plan(name: str, given: Mapping[str, Any], taught: Mapping[str, Any]) -> "Plan":
    """A recipe that may have a table `distillation`, with the entries of `given` and `taught` in place of its own.

    `taught` may hold `teacher`, `kind`, `share` and `temperature`; the teacher `none` is none.

    Raises:
        MvigNasError: no such recipe, its file is wrong, or a value is out of range.
    """
    from mvig_nas.training import Plan

    path = shipped.recipe_path(name)
    values = _read_recipe(path)
    with _naming(path):
        Plan.from_dict(values)  # as for a recipe
    distillation = {**values.pop("distillation", {}), **taught}
    if distillation.get("teacher") == "none":
        distillation["teacher"] = None
    return Plan.from_dict({**changed_recipe(values, given).to_dict(), "distillation": distillation})


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MvigNasError(f"a recipe must be TOML, got {error} in {path}.") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about values name their file."""
    try:
        yield
    except TypeError as error:
        raise MvigNasError(f"{path}: a recipe's values must be of the right type, got: {error}.") from error
    except MvigNasError as error:
        raise MvigNasError(f"{path}: {error}") from error


def changed_recipe(values: Mapping[str, Any], given: Mapping[str, Any]) -> "Recipe":
    """The recipe of these values, with the entries of `given`, `Preprocessing`'s among them, in place of its own.

    A `rand_augment` of `none` and a `clip` of 0 are none.

    Raises:
        MvigNasError: an unknown entry, or a value out of range.
        TypeError: a value of the wrong type.
    """
    from dataclasses import fields

    from mvig_nas.image_data import Preprocessing
    from mvig_nas.training import Recipe

    none = {"rand_augment": "none", "clip": 0}
    given = {key: None if key in none and value == none[key] else value for key, value in given.items()}
    own = {field.name for field in fields(Preprocessing)}
    images = {key: value for key, value in given.items() if key in own}
    rest = {key: value for key, value in given.items() if key not in own}
    return Recipe.from_dict({**values, **rest, "preprocessing": {**values.get("preprocessing", {}), **images}})
