"""A teacher of one's own: a timm network whose last layer, or all of it, is fine-tuned on a folder of images.

What it leaves is a folder that timm loads, and that `retrain --teacher` learns from: its classes are the images' own.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors.torch import save as to_bytes
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from mvig_nas import run_folder
from mvig_nas.files import make_folder, save
from mvig_nas.image_data import (
    EvaluationImages,
    LabelledImages,
    Preprocessing,
    read_parts,
    seeded,
    usable,
    write_skipped,
)
from mvig_nas.recipes import Execution, Recipe, TeacherPlan
from mvig_nas.standard_error import standard_error
from mvig_nas.training.accuracy import top1
from mvig_nas.training.checkpoint import FILE
from mvig_nas.training.learning_curves import write_learning_curves
from mvig_nas.training.losses import classification
from mvig_nas.training.model_folder import CONFIG, SUBFOLDER, WEIGHTS
from mvig_nas.training.process import Process
from mvig_nas.training.steps import Backward, Validated, images_of
from mvig_nas.training.teacher import outputs_of
from mvig_nas.training.timm_networks import TIMM, TimmClassifier, load_network
from mvig_nas.training.training_log import Progress
from mvig_nas.training.training_loop import train

COMMAND = "teacher fit"
RECIPES = {False: "teacher-head", True: "teacher-whole"}  # by whether all weights are trained
_WEIGHTS_SEED = 4


@dataclass(frozen=True)
class TeacherRequest:
    """What `teacher fit` is asked for; it is kept in the run's `run.json`.

    Attributes:
        network: timm's name, with `timm:` before it or without, or the folder of a network that timm wrote.
        data: folder with train/CLASS/*.jpg and val/CLASS/*.jpg; kept absolute.
        recipe: optimiser, schedule, augmentation; the normalisation is the network's own.
        plan: what of the network is trained, and what it begins with.
        execution: how the training runs.
    """

    network: str
    data: Path
    recipe: Recipe
    plan: TeacherPlan = field(default_factory=TeacherPlan)
    execution: Execution = field(default_factory=Execution)

    MAY_DIFFER: ClassVar = ("data", "execution")  # in a resumed run

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Path(self.data).absolute())
        object.__setattr__(self, "network", self.network.removeprefix(TIMM))


@dataclass(frozen=True)
class FittedTeacher:
    """What `fit_teacher` left.

    Attributes:
        model: the folder to give as `--teacher`, which timm loads too.
        top1: on the validation images, a fraction.
        top1_standard_error: by the number of validation images, a fraction.
        images: number of validation images.
        seconds: that this run took.
    """

    model: Path
    top1: float
    top1_standard_error: float
    images: int
    seconds: float


def fit_teacher(
    request: TeacherRequest, folder: Path, *, on_progress: Callable[[Progress], None] | None = None
) -> FittedTeacher:
    """Fine-tune a network on the training images, and write `model` into the run's folder.

    Args:
        request: what to train, on what and how; with `execution.resume`, what the run began with.
        folder: of the run; what fails before the training has begun leaves nothing there.
        on_progress: called in the first process after every step, validation and rollback.

    Raises:
        MvigNasError: `folder` holds a run that is not to be resumed, or another one; images or weights cannot be read;
            the network does not take images of that size; see also `train`.
        StopTraining: a signal asked to stop; the state is saved.
    """
    began = time.monotonic()
    execution = request.execution
    goes_on = run_folder.inspected(folder, COMMAND, request, execution.resume, FILE)
    parts = read_parts(request.data, request.recipe.hold_out)
    (images, chosen_by, val_images), bad = usable(parts, folder, execution.skip_bad_images)
    process = Process.start(execution.torch_device)
    try:
        found = load_network(request.network, request.plan.checkpoint)
        pupil, recipe, resolution = _prepared(found, request, len(images.classes))
        validate = _Validation(chosen_by, recipe.preprocessing, resolution, execution.workers)
        with run_folder.entered(folder, COMMAND, request, execution.resume, FILE):
            if execution.skip_bad_images and process.is_first:
                write_skipped(bad, folder)
            outcome = train(
                _Step(pupil, recipe.label_smoothing),
                images_of(images, recipe, resolution, execution),
                recipe,
                folder,
                identity={"network": found.name, "whole": request.plan.whole, "resolution": resolution},
                execution=replace(execution, resume=goes_on),
                validate=validate,
                on_progress=on_progress,
            )
    finally:
        process.leave()
    model = folder / SUBFOLDER
    trained = cast(_Pupil, outcome.model)
    right = validate.found
    if chosen_by is not val_images:
        right = _Validation(val_images, recipe.preprocessing, resolution, execution.workers).measured(trained)
    if process.is_first:
        _write(model, found.name, trained.network, images.classes, (recipe.preprocessing, resolution))
        write_learning_curves(folder)
    error = standard_error(right, len(val_images))
    return FittedTeacher(model, right, error, len(val_images), time.monotonic() - began)


def _prepared(found: TimmClassifier, request: TeacherRequest, classes: int) -> "tuple[_Pupil, Recipe, int]":
    """The network with new classifiers, the recipe with its normalisation, and the side of its images in pixels."""
    network = cast(Any, found.network)
    settings = resolve_model_data_config(network)
    side = request.plan.resolution or int(settings["input_size"][-1])
    outputs_of(found, (side, side), "cpu")
    with seeded(request.recipe.seed, _WEIGHTS_SEED):
        network.reset_classifier(classes)
    preprocessing = replace(
        request.recipe.preprocessing,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation=settings["interpolation"],
    )
    return _Pupil(network, whole=request.plan.whole), replace(request.recipe, preprocessing=preprocessing), side


class _Pupil(nn.Module):
    """A network of which all is trained, or the classifiers alone: the rest then stays in evaluation mode."""

    def __init__(self, network: nn.Module, *, whole: bool) -> None:
        super().__init__()
        self.network, self.whole = network, whole
        if not whole:
            network.requires_grad_(False)
            heads = cast(Any, network).get_classifier()
            for head in heads if isinstance(heads, tuple) else (heads,):
                head.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> "_Pupil":
        super().train(mode)
        if not self.whole:
            self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        answer = self.network(images)
        # of networks that were distilled themselves, as timm's own answer in evaluation mode
        return cast(Tensor, sum(answer) / len(answer) if isinstance(answer, tuple) else answer)


class _Step:
    """The `Step` of a teacher: cross-entropy with the labels."""

    def __init__(self, pupil: _Pupil, label_smoothing: float) -> None:
        self.model = pupil
        self.label_smoothing = label_smoothing

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        """Nothing changes between steps."""
        del step, steps, optimizer
        return False

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int = 0) -> dict[str, Tensor]:
        """The backward pass of one micro-batch."""
        del number
        logits = self.model(images)
        loss = classification(logits, targets, self.label_smoothing)
        backward(loss)
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        return {"loss": loss.detach(), "top1": (logits.detach().argmax(dim=1) == labels).float().mean()}


class _Validation:
    """The `Validate` of a teacher: its top-1, which every process measures on all images."""

    def __init__(self, images: LabelledImages, preprocessing: Preprocessing, resolution: int, workers: int) -> None:
        self.found = 0.0
        self._batches = EvaluationImages(images, preprocessing, resolution, workers=workers)
        self._resolution = resolution

    def measured(self, model: nn.Module) -> float:
        """Top-1 of the network, a fraction."""
        return top1(model, self._batches, self._resolution)

    def __call__(self, model: nn.Module, epoch: int) -> Validated:
        """Top-1 of the network after so many epochs."""
        self.found = self.measured(model)
        return Validated({"epoch": epoch, "val_top1_mean": self.found}, f"epoch {epoch}: top-1 {self.found:.2%}")


def _write(
    folder: Path, name: str, network: nn.Module, classes: tuple[str, ...], images: tuple[Preprocessing, int]
) -> None:
    """`config.json` and `model.safetensors`, as timm writes and loads them."""
    preprocessing, side = images
    known = cast(Any, network).pretrained_cfg
    config = {
        "architecture": name.partition(".")[0],
        "num_classes": len(classes),
        "num_features": cast(Any, network).num_features,
        "label_names": list(classes),
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [3, side, side],
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_fraction,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
            "license": known.get("license"),
        },
    }
    make_folder(folder)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    save(folder / WEIGHTS, to_bytes(tensors, metadata={"format": "pt"}))
    save(folder / CONFIG, json.dumps(config, indent=1) + "\n")
