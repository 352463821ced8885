"""A plan: a recipe, and what is learnt from which teacher."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.training.distillation import Distillation
from mvig_nas.training.recipe import Recipe


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
        """Plain values, ready for JSON: the recipe's, and `distillation` with the teacher."""
        return {**self.recipe.to_dict(), "distillation": {"teacher": self.teacher, **asdict(self.distillation)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """The inverse of `to_dict`; what is missing takes its default.

        Raises:
            MvigNasError: an unknown entry, or a value out of range.
        """
        rest = dict(values)
        given = dict(rest.pop("distillation", {}))
        teacher = given.pop("teacher", None)
        known = [entry.name for entry in fields(Distillation)]
        for key in given:
            if key not in known:
                raise MvigNasError(f"a plan's distillation has no entry {key!r}; {closest(key, ['teacher', *known])}")
        return cls(Recipe.from_dict(rest), teacher, Distillation(**given))
