"""How much of everything fits into the time there is: a plan is made once, from measured speed, and then kept."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from mvig_nas.errors import MvigNasError
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.standard_error import standard_error
from mvig_nas.values import about, check

SCORE = "naswot"
HOLD_OUT = 0.15
_EVALUATIONS = 80
_SCORE_S = 0.15  # of one score; a slow core takes twice as long
_SPARE_S = 60.0  # for reading images, the export and its check
_FINALIST_S = 8.0  # in which a training begins
_FINALISTS_SHARE = 0.4  # of the time for trainings
_ASHA_SHARE = 0.6  # of all epochs that are trained, as weak networks are stopped early
_FINALISTS, _FEWEST_FINALISTS = 12, 3
_FEWEST_HELD_OUT = 1000  # images; with fewer, choosing by top-1 costs more than it brings (results/ranking)
_FINALIST_EPOCHS = (5, 30)
_FEWEST_EPOCHS = 5
_MIXING_FROM = 50  # epochs of the winner's training; results/first_hour has what it brings
_PASSES = 1.1  # an epoch and its validation, in epochs


@dataclass(frozen=True)
class RunRequest:
    """What `run` is asked for.

    Raises:
        MvigNasError: a value out of range.
    """

    TITLE: ClassVar = "Run"
    MAY_DIFFER: ClassVar = ("images",)  # in a resumed run, as they may have moved

    images: Annotated[Path, about("Folder with a folder of images for each class, or with `train` and `val`.")]
    latency_ms: Annotated[
        float,
        about(
            "Most milliseconds that the network may be predicted to take, at batch 1, e.g. 1.0ms.",
            gt=0,
            unit="duration",
            flags=("--latency-budget",),
            metavar="DURATION",
        ),
    ]
    device: Annotated[
        str, about("Phone to predict latency for, or a folder with a fitted predictor.", metavar="NAME|FOLDER")
    ] = DEFAULT_DEVICE
    space: (
        Annotated[
            str,
            about(
                "Search space, a name or a file; if left out, `mobilevig` on a GPU and `micro`, whose networks a CPU "
                "trains in minutes, elsewhere.",
                metavar="NAME|FILE.toml",
            ),
        ]
        | None
    ) = None
    hours: Annotated[float, about("Hours that the whole run may take; they set the numbers of epochs.", gt=0)] = 2.0
    finalists: (
        Annotated[
            int,
            about(
                f"Most networks that are trained as finalists; 0 leaves them out. If not given, {_FINALISTS}, but none "
                f"where the {HOLD_OUT:.0%} of the training images that they are measured on are fewer than "
                f"{_FEWEST_HELD_OUT:,}.",
                ge=0,
            ),
        ]
        | None
    ) = None
    max_epochs: Annotated[int, about("Most epochs that the winner is trained for.", ge=1)] = 300
    skip_bad_images: Annotated[
        bool,
        about(
            "Leave out images of `train` and `val` that cannot be read, and list them in skipped_images.json; if not "
            "given, the first of them is named and refused. Of a folder of classes they are always left out."
        ),
    ] = False
    teacher: (
        Annotated[
            str,
            about(
                "Trained network that the winner learns from besides the labels, which pays where images are few: one "
                "of timm's, e.g. tf_efficientnet_lite0.in1k, or the folder of a fine-tuned one. None if left out.",
                metavar="NAME|FOLDER",
            ),
        ]
        | None
    ) = None
    teacher_checkpoint: (
        Annotated[Path, about("Weights of the teacher; timm downloads them if this is not given.", metavar="FILE")]
        | None
    ) = None
    seed: Annotated[int, about("Seed of every step.", ge=0)] = 0

    def __post_init__(self) -> None:
        check(self)
        if self.teacher is None and self.teacher_checkpoint is not None:
            raise MvigNasError(
                f"`--teacher-checkpoint` must come with a teacher, got {self.teacher_checkpoint} alone; name the "
                "network by `--teacher`."
            )
        if self.teacher_checkpoint is not None:  # a resumed run may be started in another folder
            object.__setattr__(self, "teacher_checkpoint", self.teacher_checkpoint.absolute())


@dataclass(frozen=True)
class Speed:
    """Training images per second, measured on this machine on a network of medium size, and what computed them.

    `taught` counts those of a training that also asks the teacher, where there is one.
    """

    images_per_second: Annotated[float, about("Training images per second.", gt=0)]
    resolution: Annotated[int, about("Side of the images in pixels.", ge=1)]
    torch_device: str
    taught: Annotated[float, about("Training images per second with the teacher.", gt=0)] | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.torch_device != "cpu"


@dataclass(frozen=True)
class RunPlan:
    """What the steps of a run do, and how long each should take.

    Attributes:
        space: name or file of the search space.
        score: that the search maximises.
        evaluations: scores that the search computes.
        finalists: networks that are trained briefly; 0 leaves the finalists out.
        finalist_epochs, epochs: of a finalist's training and of the winner's.
        speed: the measured speed that the plan rests on.
        seconds: expected duration of every step, by its name.
        why_none: why there are no finalists; empty where there are some.
        teacher: that the winner learns from; None for the labels alone.
    """

    space: str
    score: str
    evaluations: int
    finalists: int
    finalist_epochs: int
    epochs: int
    speed: Speed
    seconds: dict[str, float]
    why_none: str = ""
    teacher: str | None = None

    @property
    def finalists_told(self) -> str:
        """The finalists, in words."""
        if not self.finalists:
            return f"none: {self.why_none}" if self.why_none else "none"
        return f"{self.finalists} networks for up to {self.finalist_epochs} epochs"

    @property
    def is_mixing(self) -> bool:
        """Whether Mixup and CutMix are on: a winner that sees the same images often would learn them by heart."""
        return self.epochs >= _MIXING_FROM

    @property
    def training(self) -> str:
        """The winner's training, in words."""
        taught = "no teacher" if self.teacher is None else f"taught by {self.teacher}"
        return f"{self.epochs} epochs{', Mixup and CutMix' if self.is_mixing else ''}, {taught}"

    @property
    def total_seconds(self) -> float:
        """Expected duration of the whole run."""
        return sum(self.seconds.values())


def make_plan(request: RunRequest, space: str, images: int, speed: Speed) -> RunPlan:
    """The largest plan that fits into the request's hours.

    Two fifths of the time for trainings go to the finalists, the rest to the winner. Where fewer than three finalists
    of five epochs would fit, or the images that they would be measured on are too few to tell networks apart, there are
    none, and the score alone picks the winner. A finalist is trained for no more epochs than the winner may be.

    Args:
        request: whose hours are planned.
        space: name or file of the search space.
        images: number of training images.
        speed: as measured.

    Raises:
        MvigNasError: not even the shortest training fits.
    """
    search_s = _EVALUATIONS * _SCORE_S
    left_s = 3600 * request.hours - search_s - _SPARE_S
    rate = speed.taught or speed.images_per_second
    epoch_s = _PASSES * images / rate
    finalist_epoch_s = (1 - HOLD_OUT) * _PASSES * images / speed.images_per_second * _ASHA_SHARE
    fewest, most = (min(epochs, request.max_epochs) for epochs in _FINALIST_EPOCHS)
    count, epochs = 0, 0
    asked, why_none = _finalists_of(request, images)
    for number in range(asked, _FEWEST_FINALISTS - 1, -1):
        fitting = int((_FINALISTS_SHARE * left_s - number * _FINALIST_S) / (number * finalist_epoch_s))
        if fitting >= fewest:
            count, epochs, why_none = number, min(fitting, most), ""
            break
    finalists_s = count * (_FINALIST_S + epochs * finalist_epoch_s)
    shortest = min(_FEWEST_EPOCHS, request.max_epochs)
    final = min(int((left_s - finalists_s) / epoch_s), request.max_epochs)
    if final < shortest:
        needed = math.ceil(1000 * (search_s + _SPARE_S + shortest * epoch_s) / 3600) / 1000  # advice that holds
        raise MvigNasError(
            f"a run must have time for a search, {shortest} epochs of {images:,} images and an export, which take "
            f"{needed:,.3f} hours at the {rate:.0f} images a second of this machine, got --hours "
            f"{request.hours:g}; give more hours, or fewer images."
        )
    return RunPlan(
        space=space,
        score=SCORE,
        evaluations=_EVALUATIONS,
        finalists=count,
        finalist_epochs=epochs,
        epochs=final,
        speed=speed,
        seconds={
            "search": search_s,
            "finalists": finalists_s,
            "retrain": final * epoch_s,
            "export": _SPARE_S,
        },
        why_none=why_none,
        teacher=request.teacher,
    )


def _finalists_of(request: RunRequest, images: int) -> tuple[int, str]:
    """The most finalists there may be, and why there are none if none turn out to fit."""
    held_out = int(HOLD_OUT * images)
    if request.finalists is None and held_out < _FEWEST_HELD_OUT:
        error = 100 * standard_error(0.5, max(1, held_out))
        return 0, f"{held_out} held-out images measure top-1 to ± {error:.0f} points only"
    asked = _FINALISTS if request.finalists is None else request.finalists
    return asked, "too little time" if asked >= _FEWEST_FINALISTS else "as asked"
