"""Plans: what a single network's and a supernet's training does besides its recipe, and which files it begins from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from mvig_nas import values
from mvig_nas.errors import MvigNasError
from mvig_nas.recipes.recipe import Recipe
from mvig_nas.shipped import DEFAULT_DEVICE
from mvig_nas.values import about, check


@dataclass(frozen=True)
class Distillation:
    """How the second classifier learns; the loss is (1 - share) x the labels' + share x the teacher's.

    `hard` is the cross-entropy with the teacher's likeliest class (DeiT, arXiv 2012.12877, equation 3), `soft` the
    divergence from its probabilities of our classes (equation 2); the share is the paper's lambda, or 1/2. With
    `logits`, the second classifier has all classes of the teacher, whatever ours are, and is dropped after training.

    A share of 1 is the teacher alone (function matching, arXiv 2106.05237): with `hard` and `soft` the network has one
    classifier, which never sees a label; with `logits` labels train the first classifier and nothing before it.

    Raises:
        MvigNasError: a value out of range, or a loss that `hard` does not have.
    """

    TITLE: ClassVar[str] = "Learning from the teacher"

    kind: Annotated[
        Literal["hard", "soft", "logits"],
        about(
            "Learn the teacher's likeliest class (hard), its probabilities of the images' classes (soft), or, by a "
            "classifier that is dropped afterwards, those of all its classes (logits), which may be others.",
            flags=("--distillation",),
        ),
    ] = "hard"
    share: Annotated[
        float,
        about(
            "Share of the teacher in the loss, from 0 to 1; at 1 the labels train a classifier at most.",
            ge=0,
            le=1,
            flags=("--teacher-share",),
        ),
    ] = 0.5
    temperature: Annotated[
        float, about("Temperature that both networks' logits are divided by, unless the kind is hard.", gt=0)
    ] = 1.0
    loss: Annotated[
        Literal["kl", "dist"],
        about(
            "Measure how far the network is from the teacher's probabilities by the Kullback-Leibler divergence (kl), "
            "or by their correlations within and between images (dist).",
            flags=("--teacher-loss",),
        ),
    ] = "kl"
    standardised: Annotated[
        bool,
        about(
            "Bring both networks' logits of each image to mean 0 and deviation 1 before the temperature.",
            flags=("--standardised-logits",),
        ),
    ] = False
    full_detail: Annotated[
        bool,
        about(
            "Crop the images at the teacher's resolution and shrink them for the network, rather than crop them at the "
            "network's and enlarge them for the teacher.",
            flags=("--teacher-detail",),
        ),
    ] = False

    def __post_init__(self) -> None:
        check(self)
        if self.kind == "hard" and (self.loss != "kl" or self.standardised):
            raise MvigNasError(
                "`loss` must be kl and `standardised` false where the kind is hard, which has no probabilities, got "
                f"{self.loss} and {str(self.standardised).lower()}; take the kind soft or logits."
            )

    @property
    def is_alone(self) -> bool:
        """Whether the network's body learns from the teacher and from no label."""
        return self.share == 1


@dataclass(frozen=True)
class Plan:
    """How a network is trained for good.

    Attributes:
        recipe: optimiser, schedule, augmentation.
        teacher: timm's name of a network to learn from; None to learn from the labels alone.
        distillation: what is learnt from it.
    """

    recipe: Recipe = field(default_factory=Recipe)
    teacher: (
        Annotated[
            str,
            about(
                "Timm model that the network learns from, or the folder that `mvig-nas teacher fit` left; `none` for "
                "the labels alone.",
                metavar="NAME|FOLDER|none",
            ),
        ]
        | None
    ) = None
    distillation: Distillation = field(default_factory=Distillation)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as files of plans hold them: the recipe's entries, and `distillation` with the teacher."""
        distillation = {"teacher": self.teacher, **values.plain(self.distillation)}
        return {**values.plain(self.recipe), "distillation": distillation}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], what: str = "a plan") -> "Plan":
        """The inverse of `to_dict`; what is missing takes its default.

        Raises:
            MvigNasError: an unknown entry, or a value out of range; the message begins with `what`.
        """
        recipe = dict(data)
        distillation = recipe.pop("distillation", {})
        if not isinstance(distillation, Mapping):
            raise MvigNasError(f"{what}: `distillation` must be a table, got {distillation!r}.")
        distillation = dict(distillation)
        teacher = distillation.pop("teacher", None)
        if not isinstance(teacher, str | None):
            raise MvigNasError(f"{what}: `distillation.teacher` must be text or nothing, got {teacher!r}.")
        return cls(
            values.read(Recipe, recipe, what),
            teacher,
            values.read(Distillation, distillation, f"{what}, `distillation`"),
        )


@dataclass(frozen=True)
class SupernetPlan:
    """What is particular to a supernet's training; the rest is the recipe's.

    Raises:
        MvigNasError: a value is out of range.
    """

    TITLE: ClassVar[str] = "Sub-networks"

    sampling: Annotated[
        Literal["sandwich", "uniform"],
        about("Sub-networks of a step: the largest, the smallest and random ones, or (uniform) random ones."),
    ] = "sandwich"
    random_networks: Annotated[int, about("Random sub-networks that are trained in every step.", ge=1)] = 2
    distillation: (
        Annotated[
            Literal["kl", "alpha"],
            about("Divergence by which the others learn the largest one's answers; `none` for the labels."),
        ]
        | None
    ) = "kl"
    progressive: Annotated[
        bool,
        about(
            "Let sub-networks differ in kernels first, then in depths and last in widths, rather than in all from the "
            "start."
        ),
    ] = False
    latency_range_ms: (
        Annotated[
            tuple[float, float],
            about(
                "Draw random sub-networks whose predicted latency is in this range, such as 0.8ms 1.2ms.",
                flags=("--latency-range",),
                metavar="LOW HIGH",
                unit="duration",
            ),
        ]
        | None
    ) = None
    device: Annotated[
        str,
        about(
            "Phone to predict latency for (see `mvig-nas devices`), or a folder with a fitted predictor.",
            metavar="NAME|FOLDER",
        ),
    ] = DEFAULT_DEVICE
    teacher: (
        Annotated[
            str,
            about(
                "Timm model that teaches the largest sub-network, or the folder of a fine-tuned one.",
                metavar="NAME|FOLDER",
            ),
        ]
        | None
    ) = None
    teacher_share: Annotated[
        float, about("Share of the teacher in the loss of the largest sub-network, from 0 to 1.", ge=0, le=1)
    ] = 0.5

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TeacherPlan:
    """What is particular to fine-tuning a teacher; the rest is the recipe's. Paths are kept absolute.

    Raises:
        MvigNasError: a value is out of range.
    """

    TITLE: ClassVar[str] = "Teacher"

    whole: Annotated[
        bool,
        about("Train all of the network's weights, which takes about three times as long, not the last layer alone."),
    ] = False
    checkpoint: (
        Annotated[
            Path, about("Weights that the network begins with; timm downloads them if not given.", metavar="FILE")
        ]
        | None
    ) = None
    resolution: (
        Annotated[
            int, about("Side in pixels at which the network sees the images; its own if this is not given.", ge=32)
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "checkpoint", None if self.checkpoint is None else self.checkpoint.resolve())


@dataclass(frozen=True)
class Sources:
    """Where a training's teacher, its unlabelled images and its first weights come from; paths are kept absolute.

    Raises:
        MvigNasError: the resolution is too low, or two kinds of first weights are given.
    """

    TITLE: ClassVar[str] = "Files"

    teacher_checkpoint: (
        Annotated[Path, about("Weights of the teacher; timm downloads them if this is not given.", metavar="FILE")]
        | None
    ) = None
    teacher_resolution: (
        Annotated[
            int, about("Side in pixels at which the teacher sees the images; its own if this is not given.", ge=32)
        ]
        | None
    ) = None
    teacher_cache: (
        Annotated[
            Path,
            about(
                "Folder where the teacher's answers are kept for other trainings of the same recipe.", metavar="FOLDER"
            ),
        ]
        | None
    ) = None
    unlabelled: (
        Annotated[
            Path,
            about(
                "Folder of images without labels, in it or in folders below it, that are learnt from through the "
                "teacher.",
                metavar="FOLDER",
            ),
        ]
        | None
    ) = None
    from_model: (
        Annotated[
            Path,
            about(
                "What the network begins with, as far as both have it in common: a model's folder, a supernet, or a "
                "checkpoint of the authors of MobileViG, MobileViGv2 or GreedyViG.",
                flags=("--from", "--from-supernet"),
                metavar="PATH",
            ),
        ]
        | None
    ) = None
    from_supernet: Annotated[Path, about("A supernet, as runs of older versions name it.")] | None = None

    def __post_init__(self) -> None:
        check(self)
        for name in ("teacher_checkpoint", "teacher_cache", "unlabelled", "from_supernet", "from_model"):
            path = getattr(self, name)
            object.__setattr__(self, name, None if path is None else path.resolve())
        if self.from_supernet is not None and self.from_model is not None:
            raise MvigNasError("the first weights must be a supernet's or a model's, got both; leave one out.")
