"""What is asked of the finalists of a search."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from mvig_nas.scores.meaning import HOLD_OUT
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
    ] = HOLD_OUT
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
