"""A plan: a recipe, and what is learnt from which teacher."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mvig_nas import values
from mvig_nas.errors import MvigNasError
from mvig_nas.recipes.recipe import Recipe
from mvig_nas.values import about, check


@dataclass(frozen=True)
class Distillation:
    """How the second classifier learns; the loss is (1 - share) x the labels' + share x the teacher's.

    `hard` is the cross-entropy with the teacher's likeliest class (DeiT, arXiv 2012.12877, equation 3), `soft` the
    divergence from its probabilities (equation 2). The share is the paper's lambda, or 1/2.

    Raises:
        MvigNasError: a value out of range.
    """

    kind: Annotated[
        Literal["hard", "soft"],
        about("Learn the teacher's likeliest class (hard) or its probabilities (soft).", flags=("--distillation",)),
    ] = "hard"
    share: Annotated[
        float, about("Share of the teacher in the loss, from 0 to 1.", ge=0, le=1, flags=("--teacher-share",))
    ] = 0.5
    temperature: Annotated[
        float, about("Temperature that soft distillation divides both networks' logits by.", gt=0)
    ] = 1.0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Plan:
    """How a network is trained for good.

    Attributes:
        recipe: optimiser, schedule, augmentation.
        teacher: timm's name of a network to learn from; None to learn from the labels alone.
        distillation: what is learnt from it.
    """

    recipe: Recipe = field(default_factory=Recipe)
    teacher: str | None = None
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
