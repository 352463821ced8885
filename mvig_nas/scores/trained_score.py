"""Score that is the top-1 of a short training: what it means, and on which images it is measured.

It is no function of an architecture alone that can be called: the search hands whole turns to Ray Tune, where weak
trainings are stopped early (`search.evaluators.tune_trainings`).
"""

from dataclasses import dataclass
from pathlib import Path

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import BadImage, LabelledImages, hold_out, read_split, usable, write_skipped
from mvig_nas.image_data.skipping import read_skipped
from mvig_nas.scores.meaning import HOLD_OUT, TRAIN, Meaning

_NOTE = (
    "The score is the top-1 of a short training on {count:,} held-out training images. One that was stopped early as "
    "weak has the top-1 at which it was stopped. As the best of many, the winner's is a little too high."
)


@dataclass(frozen=True)
class TrainedScore:
    """Top-1 in [0, 1] of a short training; `scores.load("train:PLAN", data=IMAGES)` makes it.

    Attributes:
        plan: name or file of the plan of the trainings.
        data: folder of the images, with the class folders in `train`.
        images: number of images to train on.
        held: number of images that top-1 is measured on.
        skipping_in: folder with the list of images that are left out; None where none are.
    """

    plan: str
    data: Path
    images: int
    held: int
    skipping_in: Path | None = None

    @property
    def name(self) -> str:
        """The name by which `load` finds it."""
        return f"{TRAIN}{self.plan}"

    @property
    def meaning(self) -> Meaning:
        """A top-1 with the standard error of the held-out images."""
        return Meaning(_NOTE.format(count=self.held), is_top1=True, images=self.held)

    def __call__(self, architecture: Architecture) -> float:
        """Nothing.

        Raises:
            MvigNasError: always.
        """
        raise MvigNasError(
            f"the score {self.name!r} must be trained by a search, got architecture {architecture.fingerprint} alone; "
            "train it by `mvig-nas retrain`."
        )


def load_trained_score(name: str, data: Path | None, skipping_in: Path | None = None) -> TrainedScore:
    """The score called `train:PLAN`.

    Raises:
        MvigNasError: no plan is named, or there are no such images or too few to hold any out.
    """
    plan = name.removeprefix(TRAIN)
    if not plan:
        raise MvigNasError("a score by training must name its plan, got none; write train:short, or a TOML file.")
    if data is None:
        raise MvigNasError(f"score {name!r} needs images to train on; give their folder with --data.")
    images, held, bad = training_parts(data, HOLD_OUT, skipping_in, skips=True)
    if skipping_in is not None and read_skipped(skipping_in) is None:
        write_skipped(bad, skipping_in)
    return TrainedScore(plan, data, len(images), len(held), skipping_in)


def training_parts(
    data: Path, share: float, skipping_in: Path | None, skips: bool
) -> tuple[LabelledImages, LabelledImages, tuple[BadImage, ...]]:
    """Images that short trainings train on, those held out to measure top-1 on, and those left out.

    Args:
        data: folder of the images.
        share: of them that is held out.
        skipping_in: folder of the run; what is listed there is left out. None to leave nothing out.
        skips: whether images that cannot be read are left out, where the folder has no list yet.

    Raises:
        MvigNasError: no such images, or too few to hold any out.
    """
    images, held = hold_out(read_split(data, "train"), share)
    if skipping_in is None:
        return images, held, ()
    (images, held), bad = usable((images, held), skipping_in, skips)
    return images, held, bad
