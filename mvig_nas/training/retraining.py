"""Retraining: one architecture is trained by itself, from images to a model's folder."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from mvig_nas import run_folder
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, read_parts, seeded, usable, with_unlabelled, write_skipped
from mvig_nas.network import MobileViG, build
from mvig_nas.recipes import Distillation, Execution, Plan, Recipe, Sources
from mvig_nas.supernet import FirstWeights, Inheritance
from mvig_nas.training.accuracy import Accuracy, accuracies_on, shares
from mvig_nas.training.checkpoint import FILE
from mvig_nas.training.first_weights import read_first_weights
from mvig_nas.training.learning_curves import write_learning_curves
from mvig_nas.training.model_folder import SUBFOLDER, TrainedModel, write_model
from mvig_nas.training.process import Process
from mvig_nas.training.steps import AskTeacher, ClassificationStep, Validate, images_of, steps_of
from mvig_nas.training.teacher import Teacher, TeacherCache, teacher_of, with_absolute_teacher
from mvig_nas.training.training_log import Progress
from mvig_nas.training.training_loop import train
from mvig_nas.training.validation import Validation

COMMAND = "retrain"
LAST = "last"  # in a run's folder: weights of the last step, where the model's are an average
_WEIGHTS_SEED = 3
_TOLD = ("kind", "share", "temperature")


@dataclass(frozen=True)
class RetrainRequest:
    """What `retrain` is asked for; it is kept in the run's `run.json`.

    Attributes:
        architecture: the network's, with the resolution that it is trained at.
        data: folder with train/CLASS/*.jpg and val/CLASS/*.jpg; kept absolute.
        plan: recipe, teacher and distillation.
        sources: where the teacher's and the first weights and images without labels come from.
        execution: how the training runs.

    Raises:
        MvigNasError: there are images without labels, and no teacher to learn them from.
    """

    architecture: Architecture
    data: Path
    plan: Plan = field(default_factory=Plan)
    sources: Sources = field(default_factory=Sources)
    execution: Execution = field(default_factory=Execution)

    MAY_DIFFER: ClassVar = ("data", "execution")  # in a resumed run

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Path(self.data).absolute())
        object.__setattr__(self, "plan", with_absolute_teacher(self.plan))
        if self.sources.unlabelled is not None and self.plan.teacher is None:
            raise MvigNasError(
                "images without labels must be learnt from a teacher, got none; name one (--teacher NAME), or leave "
                "the images out."
            )


@dataclass(frozen=True, eq=False)
class Retrained:
    """What `retrain` left.

    Attributes:
        network: with the weights of the model's folder.
        accuracy: on the validation images, of each classifier and as the network answers (`mean`).
        model: the model's folder.
        seconds: that this run took.
    """

    network: MobileViG
    accuracy: Mapping[str, Accuracy]
    model: Path
    seconds: float


def retrain(
    request: RetrainRequest, folder: Path, *, on_progress: Callable[[Progress], None] | None = None
) -> Retrained:
    """Train a network for good; write `model`, `best`, perhaps `last`, and `learning_curves.png` into the run's folder.

    Args:
        request: what to train, on what and how; with `execution.resume`, what the run began with.
        folder: of the run; what fails before the training has begun leaves nothing there.
        on_progress: called in the first process after every step, validation and rollback.

    Raises:
        MvigNasError: `folder` holds a run that is not to be resumed, or another one; images, a teacher or weights
            cannot be read or do not fit; see also `train`.
        StopTraining: a signal asked to stop; the state is saved.
    """
    began = time.monotonic()
    plan, sources, execution = request.plan, request.sources, request.execution
    goes_on = run_folder.inspected(folder, COMMAND, request, execution.resume, FILE)
    images, chosen_by, val_images = read_parts(request.data, plan.recipe.hold_out)
    if sources.unlabelled is not None:
        images = with_unlabelled(images, sources.unlabelled)
    parts = (images, chosen_by, val_images)
    (images, chosen_by, val_images), bad = usable(parts, folder, execution.skip_bad_images)
    first = None
    if begin_with := sources.from_model or sources.from_supernet:
        first = read_first_weights(begin_with, request.architecture, images.classes)
    start = {} if first is None else dict(first.name)
    process = Process.start(execution.torch_device)
    try:
        teacher = teacher_of(plan, sources, images.classes, plan.recipe.preprocessing, process.device)
        about = {
            "plan": plan.to_dict(),
            "teacher": None if teacher is None else teacher.to_dict(),
            "start": start,
            "images": images.digest,
        }
        validation = Validation(
            chosen_by, plan.recipe.preprocessing, folder, about, process=process, workers=execution.workers
        )
        with run_folder.entered(folder, COMMAND, request, execution.resume, FILE):
            if execution.skip_bad_images and process.is_first:
                write_skipped(bad, folder)
            trained = train_alone(
                request.architecture,
                images,
                plan.recipe,
                folder,
                knowledge=Knowledge(teacher, plan.distillation, sources.teacher_cache, first),
                validate=validation,
                execution=replace(execution, resume=goes_on),
                on_progress=on_progress,
            )
    finally:
        process.leave()
    found = validation.found
    model = folder / SUBFOLDER
    if process.is_first:
        images_as = plan.recipe.preprocessing
        if chosen_by is not val_images:
            found = accuracies_on(trained.network, val_images, images_as, workers=execution.workers)
        begun = {} if trained.inherited is None else {"inherited": trained.inherited.share}
        data = {"name": request.data.name, "val_images": len(val_images)}
        about_model = about | {"accuracy": shares(found), "start": {**start, **begun}, "data": data}
        write_model(model, TrainedModel(trained.network, images.classes, images_as, about_model))
        if trained.last is not trained.network:
            write_model(folder / LAST, TrainedModel(trained.last, images.classes, images_as, about))
        write_learning_curves(folder)
    return Retrained(trained.network, found, model, time.monotonic() - began)


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a network is given besides images: a teacher to learn from, and weights to begin with.

    Attributes:
        teacher: the network learns from its logits; None for the labels alone.
        distillation: what is learnt from the teacher.
        teacher_cache: folder where the teacher's answers are kept for other trainings; see `TeacherCache`.
        first: weights to begin with, as far as both networks have them in common; None for fresh ones. Their name is
            kept, so that a resumed training is the same.
    """

    teacher: Teacher | None = None
    distillation: Distillation = field(default_factory=Distillation)
    teacher_cache: Path | None = None
    first: FirstWeights | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training.

    Attributes:
        network: with the weights' moving average, if the recipe has one.
        last: with the weights of the last step; `network` itself where there is no average.
        inherited: what the network began with of others' weights; None where all were fresh.
    """

    network: MobileViG
    last: MobileViG
    inherited: Inheritance | None = None


def train_alone(
    architecture: Architecture,
    images: LabelledImages,
    recipe: Recipe,
    folder: Path,
    *,
    knowledge: Knowledge | None = None,
    validate: Validate | None = None,
    execution: Execution | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train an architecture on images of its own resolution.

    Args:
        architecture: the network's; one with a teacher has a second classifier, which learns from it, as
            `Distillation` has it.
        images: to train on; those without a label are learnt from through the teacher.
        recipe: what to do.
        folder: of the checkpoint and the log.
        knowledge: a teacher, and weights to begin with.
        validate, execution, on_progress: as in `train`.

    Raises:
        MvigNasError: see `train`.
    """
    knowledge, execution = knowledge or Knowledge(), execution or Execution()
    teacher, distillation = knowledge.teacher, knowledge.distillation
    learns_all = teacher is not None and distillation.kind == "logits"
    resolution = architecture.resolution
    if teacher is not None and distillation.full_detail:
        resolution = max(resolution, *teacher.size)
    stream = images_of(images, recipe, resolution, execution)
    with seeded(recipe.seed, _WEIGHTS_SEED):
        network = build(
            architecture,
            len(images.classes),
            distillation=teacher is not None and not learns_all and not distillation.is_alone,
            layer_scale_init=recipe.layer_scale_init,
        )
        if teacher is not None and learns_all:
            network.set_teacher_classes(teacher.classes, labels_reach_body=not distillation.is_alone)
    inherited = None
    if knowledge.first is not None:
        inherited = knowledge.first.give_to(network)
        process = Process.start(execution.torch_device)
        if on_progress is not None and not execution.resume and process.is_first:
            of = (steps_of(stream, recipe), 0.0, recipe.epochs)
            on_progress(Progress(0, *of, math.nan, 0.0, 0.0, 0.0, process.device.type, f"{inherited}"))
    identity: dict[str, Any] = {"architecture": architecture.to_dict()}
    ask: AskTeacher | None = None
    if teacher is not None:
        identity |= {"teacher": teacher.to_dict(), "distillation": _told(distillation)}
        ask = teacher
        if knowledge.teacher_cache is not None:
            ask = TeacherCache(
                teacher,
                knowledge.teacher_cache,
                stream=stream,
                recipe=recipe,
                resolution=resolution,
                micro_batches=steps_of(stream, recipe) * recipe.micro_batches,
                distillation=distillation,
            )
            identity["teacher_cache"] = True  # its answers are rounded
    if knowledge.first is not None and knowledge.first.name:
        identity["labels"] = dict(knowledge.first.name)
    outcome = train(
        ClassificationStep(
            network,
            recipe.label_smoothing,
            ask,
            distillation,
            resolution=architecture.resolution,
            partly_labelled=images.unlabelled > 0,
        ),
        stream,
        recipe,
        folder,
        identity=identity,
        execution=execution,
        validate=validate,
        on_progress=on_progress,
    )
    trained = Trained(cast(MobileViG, outcome.model), cast(MobileViG, outcome.last), inherited)
    for each in (trained.network, trained.last):
        each.set_distilled_training(enable=False)
        each.set_teacher_classes(None)
    return trained


def _told(distillation: Distillation) -> dict[str, Any]:
    """Plain values that name what is learnt, as checkpoints before the newer entries have them."""
    usual = asdict(Distillation())
    entries = asdict(distillation)
    return {name: entry for name, entry in entries.items() if name in _TOLD or entry != usual[name]}
