"""Training a supernet, from images to its file."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from mvig_nas import run_folder
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, read_parts, read_skipped, seeded, usable, write_skipped
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.recipes import Execution, Recipe, Sources, SupernetPlan
from mvig_nas.search_space import SearchSpace
from mvig_nas.supernet import FILE, Supernet, save_supernet
from mvig_nas.training import checkpoint
from mvig_nas.training.learning_curves import write_learning_curves
from mvig_nas.training.process import Process
from mvig_nas.training.steps import SupernetStep, images_of
from mvig_nas.training.subnetwork_sampling import LatencyRange, Sampling
from mvig_nas.training.teacher import Teacher, teacher_of, with_absolute_teacher
from mvig_nas.training.training_log import Progress
from mvig_nas.training.training_loop import Outcome, train
from mvig_nas.values import plain

COMMAND = "supernet train"
_WEIGHTS_SEED = 3
# what names a plan in checkpoints and in a supernet's file; the rest is in `labels`
_OF_PLAN = ("sampling", "random_networks", "distillation", "progressive", "teacher_share")


@dataclass(frozen=True)
class SupernetRequest:
    """What a supernet's training is asked for; it is kept in the run's `run.json`.

    Attributes:
        space: whose architectures the supernet is to hold.
        data: folder with train/CLASS/*.jpg and val/CLASS/*.jpg; kept absolute.
        recipe: optimiser, schedule, augmentation.
        plan: sub-networks of a step and what they learn from.
        sources: where the teacher's weights come from.
        execution: how the training runs.
    """

    space: SearchSpace
    data: Path
    recipe: Recipe = field(default_factory=Recipe)
    plan: SupernetPlan = field(default_factory=SupernetPlan)
    sources: Sources = field(default_factory=Sources)
    execution: Execution = field(default_factory=Execution)

    MAY_DIFFER: ClassVar = ("data", "execution")  # in a resumed run

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Path(self.data).absolute())
        object.__setattr__(self, "plan", with_absolute_teacher(self.plan))


def run_supernet_training(
    request: SupernetRequest, folder: Path, *, on_progress: Callable[[Progress], None] | None = None
) -> Outcome:
    """Train a supernet on the training images, less those held out for choosing sub-networks later.

    Args:
        request: what to train, on what and how; with `execution.resume`, what the run began with.
        folder: of the run; what fails before the training has begun leaves nothing there.
        on_progress: called in the first process after every step and rollback.

    Raises:
        MvigNasError: `folder` holds a run that is not to be resumed, or another one; images or a teacher cannot be
            read or do not fit; see also `train`.
        StopTraining: a signal asked to stop; the state is saved.
    """
    plan, resume = request.plan, request.execution.resume
    goes_on = run_folder.inspected(folder, COMMAND, request, resume, checkpoint.FILE)
    # The validation split is for the networks that come of it; that it is missing had better be known before.
    parts, bad = usable(read_parts(request.data, request.recipe.hold_out), folder, request.execution.skip_bad_images)
    process = Process.start(request.execution.torch_device)
    try:
        teacher = teacher_of(plan, request.sources, parts[0].classes, request.recipe.preprocessing, process.device)
        with run_folder.entered(folder, COMMAND, request, resume, checkpoint.FILE):
            if request.execution.skip_bad_images and process.is_first:
                write_skipped(bad, folder)
            return train_supernet(
                request.space,
                parts[0],
                request.recipe,
                folder,
                plan=plan,
                teacher=teacher,
                execution=replace(request.execution, resume=goes_on),
                on_progress=on_progress,
            )
    finally:
        process.leave()


def train_supernet(
    space: SearchSpace,
    images: LabelledImages,
    recipe: Recipe,
    folder: Path,
    *,
    plan: SupernetPlan | None = None,
    teacher: Teacher | None = None,
    execution: Execution | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train a supernet of `space` and write `supernet.safetensors` and `learning_curves.png` into `folder`.

    Args:
        space: whose architectures it is to hold.
        images: to train on; what is held out must not be among them.
        recipe: optimiser, schedule, augmentation.
        folder: of the checkpoint, the log and the supernet.
        plan: sub-networks of a step and what they learn from.
        teacher: of the largest network, besides the labels.
        execution, on_progress: as in `train`.

    Raises:
        MvigNasError: see `train`; also where `folder` holds a supernet that is not to be resumed.
    """
    plan, execution = plan or SupernetPlan(), execution or Execution()
    if not execution.resume and (folder / FILE).exists():
        raise MvigNasError(f"{folder} holds a trained supernet already; take another folder.")
    stream = images_of(images, recipe, space.largest.resolution, execution)
    with seeded(recipe.seed, _WEIGHTS_SEED):
        supernet = Supernet(space, len(images.classes), layer_scale_init=recipe.layer_scale_init)
    labels: dict[str, Any] = {}
    latency_range = None
    if plan.latency_range_ms is not None:
        latency_range = LatencyRange(ArchitectureLatency.load(plan.device), *plan.latency_range_ms)
        labels |= {"latency_range_ms": list(plan.latency_range_ms), "device": plan.device}
    if teacher is not None:
        labels["teacher"] = teacher.to_dict()
    sampling = Sampling(
        space, plan.sampling, plan.random_networks, latency_range, progressive=plan.progressive, seed=recipe.seed
    )
    step = SupernetStep(
        supernet,
        sampling,
        distillation=plan.distillation,
        label_smoothing=recipe.label_smoothing,
        teacher=teacher,
        teacher_share=plan.teacher_share,
    )
    about = {"plan": {name: getattr(plan, name) for name in _OF_PLAN}, "labels": labels}
    outcome = train(
        step,
        stream,
        recipe,
        folder,
        identity={"space": space.to_dict(), **about},
        execution=execution,
        on_progress=on_progress,
    )
    if Process.start(execution.torch_device).is_first:
        training = {"recipe": plain(recipe), "images": images.digest, **about}
        if bad := read_skipped(folder):
            training["skipped"] = [each.image for each in bad]
        save_supernet(folder / FILE, cast(Supernet, outcome.model), images.classes, training)
        write_learning_curves(folder)
    return outcome
