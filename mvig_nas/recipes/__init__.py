"""Recipes: how networks are trained, as values that are read from TOML files and changed by options, without torch."""

from mvig_nas.recipes.execution import Execution
from mvig_nas.recipes.plan import Distillation, Plan, Sources, SupernetPlan, TeacherPlan
from mvig_nas.recipes.preprocessing import Preprocessing
from mvig_nas.recipes.recipe import Recipe
from mvig_nas.recipes.recipe_files import (
    changed,
    changed_plan,
    description,
    for_processes,
    load,
    load_plan,
    names,
    path_of,
    short_recipe,
)

__all__ = [
    "Distillation",
    "Execution",
    "Plan",
    "Preprocessing",
    "Recipe",
    "Sources",
    "SupernetPlan",
    "TeacherPlan",
    "changed",
    "changed_plan",
    "description",
    "for_processes",
    "load",
    "load_plan",
    "names",
    "path_of",
    "short_recipe",
]
