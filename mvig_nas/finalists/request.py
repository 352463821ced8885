"""What is asked of the finalists of a search."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from mvig_nas import recipes
from mvig_nas.recipes import Recipe
from mvig_nas.values import about, check

COMMAND = "finalists"
FOLDER = "finalists"  # in the folder of the search


@dataclass(frozen=True)
class FinalistsRequest:
    """Which search's best architectures are trained, on which images, by which plan and for how long.

    Raises:
        MvigNasError: a value out of range.
    """

    TITLE: ClassVar = "Finalists"
    MAY_DIFFER: ClassVar = ("run", "data")  # in a resumed run, as both may have moved

    run: Annotated[Path, about("Run folder of the finished search.")]
    data: Annotated[Path, about("Folder of the images, with the class folders in `train`.")]
    count: Annotated[int, about("Number of architectures to train.", ge=2)] = 12
    plan: Annotated[str, about("Plan of the trainings: a shipped name, or a TOML file.", metavar="NAME|FILE")] = "short"
    max_epochs: (
        Annotated[int, about("Epochs of a training that is not stopped early; the plan's if left out.", ge=1)] | None
    ) = None
    hold_out: Annotated[
        float, about("Share of the training images that is held out, and that top-1 is measured on.", gt=0, lt=1)
    ] = 0.15
    supernet: (
        Annotated[Path, about("Folder of a supernet whose slices the trainings begin with; fresh weights if left out.")]
        | None
    ) = None
    skip_bad_images: Annotated[
        bool,
        about(
            "Read every training image once before the start, leave out those that cannot be read, and list them in "
            "finalists/skipped_images.json; if not given, the first of them is named and refused."
        ),
    ] = False
    seed: Annotated[int, about("Seed of weights, images' order and what is held out.", ge=0)] = 0

    def __post_init__(self) -> None:
        check(self)


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
    recipe = recipes.load_plan(plan).recipe
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


@dataclass(frozen=True)
class Resources:
    """Where the trainings run; a resumed run may have others.

    Raises:
        MvigNasError: a value out of range.
    """

    TITLE: ClassVar = "Ray"

    address: Annotated[str, about("Ray cluster to train on: `auto` or HOST:PORT; this machine if left out.")] | None = (
        None
    )
    trainings: Annotated[int, about("Trainings at a time; as many as there is room for if left out.", ge=1)] | None = (
        None
    )
    cpus: Annotated[float, about("CPUs that a training takes.", gt=0)] = 1.0
    gpus: Annotated[float, about("GPUs that a training takes; may be a fraction.", ge=0)] = 0.0
    in_memory: Annotated[bool, about("Decode the images once and keep them in memory.")] = False

    def __post_init__(self) -> None:
        check(self)
