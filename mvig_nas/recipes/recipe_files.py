"""Recipes and plans from TOML files, those that ship with the package and a user's own, with some entries changed."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from mvig_nas import values
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import read_toml
from mvig_nas.recipes.plan import Plan
from mvig_nas.recipes.recipe import Recipe

_FOLDER = Path(__file__).resolve().parent


def names() -> tuple[str, ...]:
    """Names of the shipped training recipes."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def description(name: str) -> str:
    """What a shipped recipe is for: the comment that its file begins with."""
    lines = path_of(name).read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ") for line in comment)


def path_of(name: str) -> Path:
    """File of a shipped recipe, or `name` itself where it is a path to a file of the user's.

    Raises:
        MvigNasError: neither a shipped recipe nor a file.
    """
    if name in names():
        return _FOLDER / f"{name}.toml"
    if Path(name).is_file():
        return Path(name)
    raise MvigNasError(f"no recipe is called {name!r}; {closest(name, names())} Or give a TOML file.")


def load(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a file, with some of its entries changed.

    Args:
        name: a shipped recipe's, or a path to a TOML file.
        changes: as in `changed`.

    Raises:
        MvigNasError: no such recipe, its file is wrong, or a value is out of range.
    """
    path = path_of(name)
    data = _read(path)
    if "distillation" in data:
        raise MvigNasError(
            f"{path}: a supernet's recipe must have no table `distillation`; it is a plan, for `retrain`."
        )
    values.read(Recipe, data, str(path))  # what is wrong in the file by itself is told with its name
    return changed(data, changes or {})


def load_plan(
    name: str, changes: Mapping[str, Any] | None = None, distillation: Mapping[str, Any] | None = None
) -> Plan:
    """A plan from a file, which is a recipe that may have a table `distillation`, with some of its entries changed.

    Args:
        name: a shipped recipe's, or a path to a TOML file.
        changes: of the recipe, as in `changed`.
        distillation: entries of the table `distillation`; the teacher `none` is none.

    Raises:
        MvigNasError: no such recipe, its file is wrong, or a value is out of range.
    """
    path = path_of(name)
    data = _read(path)
    Plan.from_dict(data, str(path))
    return changed_plan(data, changes or {}, distillation or {})


def changed_plan(data: Mapping[str, Any], changes: Mapping[str, Any], distillation: Mapping[str, Any]) -> Plan:
    """The plan of plain data, such as `Plan.to_dict` gives, with some entries changed as in `load_plan`.

    Raises:
        MvigNasError: an unknown entry, or a value out of range.
    """
    recipe = {name: entry for name, entry in data.items() if name != "distillation"}
    table = {**data.get("distillation", {}), **distillation}
    if table.get("teacher") == "none":
        table["teacher"] = None
    return Plan.from_dict({**values.plain(changed(recipe, changes)), "distillation": table}, "the training plan")


def changed(data: Mapping[str, Any], changes: Mapping[str, Any]) -> Recipe:
    """The recipe of plain data, with the entries of `changes` in place of its own; they may be nested.

    A micro-batch that is the whole batch, or that the data does not state, follows a changed batch size. A `clip` of 0
    is no clipping, and a `rand_augment` of `none` no RandAugment.

    Raises:
        MvigNasError: an unknown entry, or a value out of range.
    """
    images = {**data.get("preprocessing", {}), **changes.get("preprocessing", {})}
    if images.get("rand_augment") == "none":
        images["rand_augment"] = None
    merged = {**data, **changes, "preprocessing": images}
    if "micro_batch_size" not in changes and data.get("micro_batch_size") == data.get("batch_size"):
        merged.pop("micro_batch_size", None)
    if merged.get("clip") == 0:
        merged["clip"] = None
    return values.read(Recipe, merged, "the training recipe")


def for_processes(recipe: Recipe, processes: int) -> Recipe:
    """The recipe, its micro-batches smaller where so many processes could not share those of a step equally.

    Args:
        recipe: of a training.
        processes: that share it, such as torchrun starts.

    Raises:
        MvigNasError: the processes cannot share its batch at all; the message says which batch size they can.
    """
    if recipe.micro_batches % processes == 0:
        return recipe
    least = 2 * processes  # micro-batches that Mixup may pair the images of
    if recipe.batch_size % least:
        nearest = max(1, round(recipe.batch_size / least)) * least
        raise MvigNasError(
            f"a batch must divide among the processes, two images at least to each, got {recipe.batch_size} images for "
            f"{processes} processes; give --batch-size {nearest}."
        )
    most = recipe.micro_batch_size or recipe.batch_size
    sizes = (size for size in range(most, 1, -1) if size % 2 == 0 and recipe.batch_size % (size * processes) == 0)
    return replace(recipe, micro_batch_size=next(sizes))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path, "a recipe")
    except FileNotFoundError as error:
        raise MvigNasError(f"a recipe must be TOML, got {error} in {path}.") from error


def short_recipe(plan: str, epochs: int | None, seed: int, images: int) -> Recipe:
    """A plan's recipe of other length, for this many training images, none of which it holds out by itself.

    Args:
        plan: a shipped plan's name or a TOML file; a teacher that it names is left out.
        epochs: of the training; the plan's if None.
        seed: of the training.
        images: number of training images; a batch is no larger than that.

    Raises:
        MvigNasError: no such plan.
    """
    recipe = load_plan(plan).recipe
    epochs = epochs or recipe.epochs
    if images < recipe.batch_size:
        recipe = replace(recipe, batch_size=images, micro_batch_size=None)
    return replace(
        recipe,
        epochs=epochs,
        warmup_epochs=min(recipe.warmup_epochs, epochs - 1),
        seed=seed,
        hold_out=0.0,
    )
