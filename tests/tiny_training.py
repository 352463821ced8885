"""Trainings that take seconds, for tests; run as a program, trainings that are killed or that share the work.

python -m tests.tiny_training killed supernet|alone|hard|soft|logits DATA FOLDER
torchrun --nproc-per-node 2 -m tests.tiny_training parallel DATA FOLDER
torchrun --nproc-per-node 2 -m tests.tiny_training taught hard|soft|logits DATA FOLDER
"""

import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvig_nas.image_data import LabelledImages, Preprocessing, TrainingImages, read_split, seeded
from mvig_nas.search_space import SearchSpace
from mvig_nas.supernet import Supernet
from mvig_nas.training import (
    Backward,
    Distillation,
    Execution,
    Knowledge,
    Outcome,
    Process,
    Progress,
    Recipe,
    Sampling,
    StopTraining,
    SupernetPlan,
    SupernetStep,
    Validation,
    train,
    train_alone,
    train_supernet,
)
from mvig_nas.training.teacher import Teacher, load_teacher
from tests.training.test_teacher import HALVES, TINY, saved

_STAGE: dict[str, list[Any]] = {
    "width": [16],
    "conv_depth": [0, 1],
    "graph_depth": [0],
    "conv_expansion": [2],
    "conv_kernel": [3],
    "ffn_expansion": [2],
    "graph_step": [1],
    "graph_operator": ["svga"],
    "graph_groups": [1],
    "activation": ["relu"],
}
SPACE = SearchSpace.from_dict(
    {
        "schema": 1,
        "name": "tiny",
        "resolution": [32],
        "head_width": [16, 32],
        "stage": [
            _STAGE | {"width": [8, 12], "conv_depth": [1, 2], "conv_kernel": [3, 5]},
            _STAGE | {"width": [12, 16], "graph_depth": [0, 1], "graph_groups": [1, 2], "conv_expansion": [2, 4]},
            _STAGE,
            _STAGE | {"conv_depth": [0]},
        ],
    }
)
RECIPE = Recipe(epochs=15, batch_size=12, learning_rate=5e-3, warmup_epochs=1)
ALONE_RECIPE = replace(RECIPE, micro_batch_size=6, mixup=0.2, cutmix=0.5, ema_decay=0.9)
PLAN = SupernetPlan(random_networks=1)
PARALLEL_RECIPE = replace(RECIPE, epochs=7, micro_batch_size=6, optimizer="sgd", learning_rate=0.02)


class PixelStep:
    """A `Step` that takes a millisecond: a linear classifier of 2 x 2 mean colours.

    `spoil` replaces the loss of a step, and `starts` holds the numbers of those that were begun.
    """

    def __init__(self, classes: int = 3, spoil: Callable[[int, Tensor], Tensor] | None = None) -> None:
        with seeded(0):
            self.model: nn.Module = nn.Sequential(
                nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, classes)
            )
        self.spoil = spoil
        self.starts: list[int] = []
        self.targets: list[Tensor] = []

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        del steps, optimizer
        self.starts.append(step)
        return False

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int = 0) -> dict[str, Tensor]:
        del number
        self.targets.append(targets)
        loss = nn.functional.cross_entropy(self.model(images), targets)
        if self.spoil is not None:
            loss = self.spoil(self.starts[-1], loss)
        backward(loss)
        return {"loss": loss.detach()}


def pixel_images(images: LabelledImages, recipe: Recipe) -> TrainingImages:
    return TrainingImages(images, recipe.preprocessing, 8, recipe.micro_batch_size or 0, recipe.seed)


def train_pixels(
    images: LabelledImages, recipe: Recipe, folder: Path, step: PixelStep | None = None, **options: Any
) -> Outcome:
    return train(step or PixelStep(), pixel_images(images, recipe), recipe, folder, identity={}, **options)


def train_tiny(kind: str, images: LabelledImages, folder: Path, **options: Any) -> None:
    if kind == "supernet":
        train_supernet(SPACE, images, RECIPE, folder, plan=PLAN, **options)
    elif kind == "alone":
        train_alone(SPACE.smallest, images, ALONE_RECIPE, folder, **options)
    else:
        val = read_split(Path(images.root).parent, "val")
        validation = Validation(val, ALONE_RECIPE.preprocessing, folder, {})
        known = tiny_knowledge(kind, images)
        train_alone(SPACE.smallest, images, ALONE_RECIPE, folder, knowledge=known, validate=validation, **options)


def tiny_teacher(images: LabelledImages) -> Teacher:
    """With random weights, always the same."""
    with tempfile.TemporaryDirectory() as home:
        checkpoint = saved(Path(home))[0]
        return load_teacher(TINY, images.classes, RECIPE.preprocessing, checkpoint=checkpoint, resolution=64)


def tiny_knowledge(kind: str, images: LabelledImages) -> Knowledge:
    """What is learnt from a tiny teacher, which has other classes than the images where it teaches all of its own."""
    if kind != "logits":
        return Knowledge(tiny_teacher(images), Distillation(kind))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as home:
        checkpoint = saved(Path(home), HALVES, classes=7)[0]
        teacher = load_teacher(HALVES, None, RECIPE.preprocessing, checkpoint=checkpoint, resolution=64)
    return Knowledge(teacher, Distillation("logits", loss="dist", full_detail=True))


class ParallelStep(SupernetStep):
    """A supernet's step, and something that happens before a step or to its images."""

    def __init__(self) -> None:
        with seeded(7):
            supernet = Supernet(SPACE, 3)
        super().__init__(supernet, Sampling(SPACE, random_networks=1))
        self.at = -1
        self.before: Callable[[int], None] = lambda _: None
        self.spoil: Callable[[int, Tensor], Tensor] = lambda _, images: images

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        self.at = step
        self.before(step)
        return super().start(step, steps, optimizer)

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int = 0) -> dict[str, Tensor]:
        return super().__call__(self.spoil(self.at, images), targets, backward, number)


def train_parallel(step: ParallelStep, images: LabelledImages, folder: Path, **options: Any) -> Outcome:
    stream = TrainingImages(images, Preprocessing(), 32, 6, 0)
    return train(step, stream, PARALLEL_RECIPE, folder, identity={}, **options)


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after_step(options: dict[str, Any]) -> None:
    def on_progress(progress: Progress) -> None:
        if progress.step == 13:
            _die()

    options["on_progress"] = on_progress


def _in_a_backward_pass(_: dict[str, Any]) -> None:
    calls, original = iter(range(10**6)), torch.Tensor.backward

    def backward(self: Tensor, *args: Any) -> None:
        original(self, *args)  # type: ignore[no-untyped-call]
        if next(calls) == 25:
            _die()

    torch.Tensor.backward = backward  # type: ignore[assignment]


def _in_a_checkpoint(_: dict[str, Any]) -> None:
    """With the new file written, and the old one not yet replaced."""
    calls, original = iter(range(10**6)), Path.replace

    def replace_(self: Path, target: Any) -> Path:
        if self.name.startswith("state.pt") and next(calls) == 2:
            _die()
        return original(self, target)

    Path.replace = replace_  # type: ignore[method-assign]


def killed(kind: str, data: str, folder: str) -> None:
    """A training that is never disturbed, in `whole`, and one that is killed three times, in `killed`."""
    images = read_split(Path(data), "train")
    fates = (_after_step, _in_a_backward_pass, _in_a_checkpoint)
    for number, fate in enumerate((*fates, None, None)):
        child = os.fork()  # spares it the imports
        if not child:
            resumed = 0 < number <= len(fates)
            options: dict[str, Any] = {"execution": Execution(checkpoint_minutes=0.002, resume=resumed)}
            if fate is not None:
                fate(options)
            whole = number > len(fates)
            train_tiny(
                kind,
                images,
                Path(folder) / ("whole" if whole else "killed"),
                **options,
            )
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if fate is not None:
            print("killed" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else status)
        elif status:
            sys.exit(1)


def parallel(data: str, folder: str) -> None:
    """Two processes: an undisturbed training, one of which only the second is asked to stop, a poisoned one."""
    images, process = read_split(Path(data), "train"), Process.start("cpu")
    home = Path(folder)
    told = []

    def run(name: str, step: ParallelStep, **options: Any) -> Any:
        outcome = train_parallel(step, images, home / name, **options)
        torch.save(outcome.model.state_dict(), home / f"{name}-{process.rank}.pt")
        return outcome

    def stop(at: int) -> None:
        if process.rank == 1 and at == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    def poison(at: int, batch: Tensor) -> Tensor:
        return batch * float("nan") if process.rank == 1 and at == 6 else batch

    run("two", ParallelStep())
    step = ParallelStep()
    step.before = stop
    try:
        run("stopped", step)
    except StopTraining as error:
        told.append(str(error))
        if process.is_first:
            shutil.copy(home / "stopped" / "state.pt", home / "early.pt")
    process.wait()
    run("stopped", ParallelStep(), execution=Execution(resume=True))
    step = ParallelStep()
    step.spoil = poison
    rollbacks = run("poisoned", step).rollbacks
    told.append(str([(rollback.step, rollback.to_step) for rollback in rollbacks]))
    (home / f"told-{process.rank}.txt").write_text("\n".join(told))
    process.leave()


def taught(kind: str, data: str, folder: str) -> None:
    """A training with a teacher and validation, by one process or two; how many images all of them looked at."""
    images, process = read_split(Path(data), "train"), Process.start("cpu")
    recipe = replace(PARALLEL_RECIPE, epochs=2)
    validation = Validation(read_split(Path(data), "val"), recipe.preprocessing, Path(folder), {}, process=process)
    known = tiny_knowledge(kind, images)
    train_alone(SPACE.largest, images, recipe, Path(folder), knowledge=known, validate=validation)
    if process.is_first:
        counted = int(validation.found["mean"].confusion.sum())
        (Path(folder) / "counted.json").write_text(str(counted))
    process.leave()


if __name__ == "__main__":
    warnings.simplefilter("error")
    {"killed": killed, "parallel": parallel, "taught": taught}[sys.argv[1]](*sys.argv[2:])
