"""Training one architecture by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from mvig_nas.architecture import Architecture
from mvig_nas.image_data import LabelledImages, TrainingImages, seeded
from mvig_nas.network import MobileViG, build
from mvig_nas.train_supernet import classification
from mvig_nas.training_loop import Backward, Execution, Process, Progress, Recipe, train

_WEIGHTS_SEED = 3


class ClassificationStep:
    """The `Step` of a single network: cross-entropy with label smoothing."""

    def __init__(self, network: MobileViG, label_smoothing: float) -> None:
        self.model = network
        self.label_smoothing = label_smoothing

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        """All steps are of one kind."""
        del step, steps, optimizer
        return False

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward) -> dict[str, Tensor]:
        """The backward pass of one micro-batch."""
        logits = cast(Tensor, self.model(images))
        loss = classification(logits, targets, self.label_smoothing)
        backward(loss)
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        return {"loss": loss.detach(), "top1": (logits.detach().argmax(dim=1) == labels).float().mean()}


def train_alone(
    architecture: Architecture,
    images: LabelledImages,
    recipe: Recipe,
    folder: Path,
    *,
    process: Process | None = None,
    execution: Execution | None = None,
    workers: int = 0,
    in_memory: bool = False,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> MobileViG:
    """Train an architecture from fresh weights, on images of its own resolution; options as in `train_supernet`.

    Raises:
        MvigNasError: see `training_loop.train`.
    """
    stream = TrainingImages(
        images,
        recipe.preprocessing,
        architecture.resolution,
        recipe.micro_batch_size or recipe.batch_size,
        recipe.seed,
        workers=workers,
        in_memory=in_memory,
    )
    with seeded(recipe.seed, _WEIGHTS_SEED):
        network = build(architecture, len(images.classes), distillation=False, layer_scale_init=recipe.layer_scale_init)
    outcome = train(
        ClassificationStep(network, recipe.label_smoothing),
        stream,
        recipe,
        folder,
        identity={"architecture": architecture.to_dict()},
        process=process,
        execution=execution,
        resume=resume,
        on_progress=on_progress,
    )
    return cast(MobileViG, outcome.model)
