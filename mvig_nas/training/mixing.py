"""Mixup and CutMix of a recipe, also where some of the images have no label."""

from collections.abc import Callable

from timm.data import Mixup
from torch import Tensor

from mvig_nas.image_data import LabelledImages
from mvig_nas.recipes import Recipe

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mix_of(recipe: Recipe, images: LabelledImages) -> Mix | None:
    """What mixes images (B, 3, R, R) and class numbers (B,) into images and shares of classes (B, classes).

    Shares are smoothed as the recipe says, and add up to 1. Where some images have no label, shares are not smoothed,
    and add up to the labelled part of a mixed image. None where the recipe mixes nothing.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    classes = len(images.classes)
    partly = images.unlabelled > 0
    mixup: Mix = Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=0.0 if partly else recipe.label_smoothing,
        num_classes=classes + partly,
    )
    if not partly:
        return mixup

    def mix(batch: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed, shares = mixup(batch, targets)
        return mixed, shares[:, :classes]

    return mix
