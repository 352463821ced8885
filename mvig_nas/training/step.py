"""What the training loop is given: micro-batches, a step that takes one of them, a validation between epochs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mvig_nas.image_data import LabelledImages, TrainingImages
from mvig_nas.recipes import Recipe

Backward = Callable[[Tensor], None]


class Step(Protocol):
    """What one micro-batch does: forward and backward passes over `model`.

    It calls `backward` once for every loss, and returns detached scalars, among them `loss`, which the guard watches.
    """

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        """Called before a step's first micro-batch, and for a step that is left out.

        Whether another phase begins, in which weights have changed places or losses are of other networks: the moving
        average and the guard then begin anew.
        """

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int) -> dict[str, Tensor]:
        """Scalars of one micro-batch, the `number`th of the training; targets (B,) numbers or (B, classes) shares.

        Equal numbers have equal images, augmented and mixed, in all trainings of one recipe.
        """


@dataclass(frozen=True)
class Validated:
    """What a validation found: scalars for the log, under names other than the training's own, and a line to show."""

    values: Mapping[str, float]
    message: str


Validate = Callable[[nn.Module, int], Validated]  # the model, or its moving average, after so many whole epochs


def images_of(
    images: LabelledImages, recipe: Recipe, resolution: int, *, workers: int = 0, in_memory: bool = False
) -> TrainingImages:
    """A training's micro-batches at a resolution, as its recipe has them; `workers` and `in_memory` as there."""
    return TrainingImages(
        images,
        recipe.preprocessing,
        resolution,
        recipe.micro_batch_size or recipe.batch_size,
        recipe.seed,
        repeats=recipe.repeats,
        workers=workers,
        in_memory=in_memory,
    )


def steps_of(images: TrainingImages, recipe: Recipe) -> int:
    """Optimiser steps of a whole training."""
    return max(1, recipe.epochs * images.batches_per_epoch // recipe.micro_batches)
