"""Training a supernet from images to its file."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, seeded
from mvig_nas.recipes import Execution, Recipe
from mvig_nas.search_space import SearchSpace
from mvig_nas.supernet import FILE, Supernet, save_supernet
from mvig_nas.training.process import Process
from mvig_nas.training.step import images_of
from mvig_nas.training.subnetwork_sampling import LatencyRange, Sampling
from mvig_nas.training.supernet_step import SupernetStep, Teacher
from mvig_nas.training.training_log import Progress
from mvig_nas.training.training_loop import Outcome, train
from mvig_nas.values import plain

_WEIGHTS_SEED = 3


@dataclass(frozen=True)
class SupernetPlan:
    """What is particular to a supernet's training; the rest is the recipe's.

    Args:
        sampling: `sandwich` or `uniform`, see `Sampling`.
        random_networks: drawn in every step, besides the largest and the smallest.
        distillation: `kl` or `alpha`, in-place from the largest; None to learn from the labels.
        progressive: open kernels, depths and widths one after another.
        teacher_share: of the teacher, where there is one, in the largest network's loss.
    """

    sampling: str = "sandwich"
    random_networks: int = 2
    distillation: str | None = "kl"
    progressive: bool = False
    teacher_share: float = 0.5


def train_supernet(
    space: SearchSpace,
    images: LabelledImages,
    recipe: Recipe,
    folder: Path,
    *,
    plan: SupernetPlan | None = None,
    latency_range: LatencyRange | None = None,
    teacher: Teacher | None = None,
    labels: Mapping[str, Any] | None = None,
    process: Process | None = None,
    execution: Execution | None = None,
    workers: int = 0,
    in_memory: bool = False,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train a supernet of `space` and write `supernet.safetensors` into `folder`.

    Args:
        space: whose architectures it is to hold.
        images: to train on; what is held out must not be among them.
        recipe: optimiser, schedule, augmentation.
        folder: of the run.
        plan: sub-networks of a step and what they learn from.
        latency_range: that random sub-networks are drawn from.
        teacher: of the largest network.
        labels: plain values that name `latency_range` and `teacher`, as they are not part of the plan.
        process, execution, resume, on_progress: as in `training.train`.
        workers: processes that read images.
        in_memory: keep decoded images in memory.

    Raises:
        MvigNasError: see `training.train`; also where `folder` holds a supernet and `resume` is not set.
    """
    if not resume and (folder / FILE).exists():
        raise MvigNasError(f"{folder} holds a trained supernet already; take another folder.")
    plan = plan or SupernetPlan()
    stream = images_of(images, recipe, space.largest.resolution, workers=workers, in_memory=in_memory)
    with seeded(recipe.seed, _WEIGHTS_SEED):
        supernet = Supernet(space, len(images.classes), layer_scale_init=recipe.layer_scale_init)
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
    about = {"plan": asdict(plan), "labels": dict(labels or {})}
    outcome = train(
        step,
        stream,
        recipe,
        folder,
        identity={"space": space.to_dict(), **about},
        process=process,
        execution=execution,
        resume=resume,
        on_progress=on_progress,
    )
    if process is None or process.is_first:
        trained = cast(Supernet, outcome.model)
        training = {"recipe": plain(recipe), "images": images.digest, **about}
        save_supernet(folder / FILE, trained, images.classes, training)
    return outcome
