"""Training one architecture by itself."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, seeded
from mvig_nas.network import MobileViG, build
from mvig_nas.recipes import Distillation, Execution, Recipe
from mvig_nas.training.classification_step import AskTeacher, ClassificationStep
from mvig_nas.training.process import Process
from mvig_nas.training.step import Validate, images_of, steps_of
from mvig_nas.training.teacher import Teacher
from mvig_nas.training.teacher_cache import TeacherCache
from mvig_nas.training.training_log import Progress
from mvig_nas.training.training_loop import train

_WEIGHTS_SEED = 3
_CLASSIFIERS = ("head.", "head_dist.")


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training.

    Attributes:
        network: with the weights' moving average, if the recipe has one.
        last: with the weights of the last step; `network` itself where there is no average.
    """

    network: MobileViG
    last: MobileViG


def train_alone(
    architecture: Architecture,
    images: LabelledImages,
    recipe: Recipe,
    folder: Path,
    *,
    teacher: Teacher | None = None,
    distillation: Distillation | None = None,
    teacher_cache: Path | None = None,
    start: Mapping[str, Tensor] | None = None,
    labels: Mapping[str, Any] | None = None,
    process: Process | None = None,
    execution: Execution | None = None,
    workers: int = 0,
    in_memory: bool = False,
    resume: bool = False,
    validate: Validate | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train an architecture on images of its own resolution; other options as in `training.train`.

    Args:
        architecture: the network's; one with a teacher has a second classifier, which learns from it.
        images: to train on.
        recipe: what to do.
        folder: of the checkpoint and the log.
        teacher: its logits are learnt from; None for the labels alone.
        distillation: what is learnt from the teacher.
        teacher_cache: folder where its answers are kept for other trainings; see `TeacherCache`.
        start: a network's weights to begin with, such as a supernet's slices, in place of fresh ones. A second
            classifier that is missing there is a copy of the first; where both are, they begin afresh.
        labels: plain values that name `start`, so that a resumed training is the same.
        workers, in_memory: as in `training.images_of`.

    Raises:
        MvigNasError: see `training.train`; `start` holds other weights than the network's.
    """
    distillation = None if teacher is None else distillation or Distillation()
    stream = images_of(images, recipe, architecture.resolution, workers=workers, in_memory=in_memory)
    with seeded(recipe.seed, _WEIGHTS_SEED):
        network = build(
            architecture,
            len(images.classes),
            distillation=teacher is not None,
            layer_scale_init=recipe.layer_scale_init,
        )
    if start is not None:
        _start_from(network, start)
    identity: dict[str, Any] = {"architecture": architecture.to_dict()}
    if teacher is not None and distillation is not None:
        identity |= {"teacher": teacher.to_dict(), "distillation": asdict(distillation)}
    if labels:
        identity["labels"] = dict(labels)
    ask: AskTeacher | None = None
    if teacher is not None and distillation is not None:
        ask = _without_number(teacher)
        if teacher_cache is not None:
            ask = TeacherCache(
                teacher,
                teacher_cache,
                stream=stream,
                recipe=recipe,
                resolution=architecture.resolution,
                micro_batches=steps_of(stream, recipe) * recipe.micro_batches,
                distillation=distillation,
            )
            identity["teacher_cache"] = True  # its answers are rounded
    outcome = train(
        ClassificationStep(network, recipe.label_smoothing, ask, distillation),
        stream,
        recipe,
        folder,
        identity=identity,
        process=process,
        execution=execution,
        resume=resume,
        validate=validate,
        on_progress=on_progress,
    )
    trained = Trained(cast(MobileViG, outcome.model), cast(MobileViG, outcome.last))
    for each in (trained.network, trained.last):
        each.set_distilled_training(enable=False)
    return trained


def _without_number(teacher: Teacher) -> AskTeacher:
    def ask(images: Tensor, number: int) -> Tensor:
        del number
        return teacher(images)

    return ask


@torch.no_grad()
def _start_from(network: MobileViG, start: Mapping[str, Tensor]) -> None:
    weights: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        given = start.get(name)
        if given is None and name.startswith("head_dist."):
            given = start.get(name.replace("head_dist", "head", 1))
        if given is None and name.startswith(_CLASSIFIERS):
            given = tensor
        if given is None or given.shape != tensor.shape:
            found = "none" if given is None else f"one of shape {tuple(given.shape)}"
            raise MvigNasError(
                f"the weights to start from must be the architecture's, got {found} for `{name}` of shape "
                f"{tuple(tensor.shape)}; take those of a network or supernet that holds it, with as many classes."
            )
        weights[name] = given
    network.load_state_dict(weights)
