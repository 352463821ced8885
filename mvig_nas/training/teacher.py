"""The external teacher of distillation: a trained network of timm's, asked in our preprocessing and our classes.

A `TeacherCache` keeps its answers on disk, so that it is asked once for each micro-batch, whatever is trained on it
afterwards. Which images a micro-batch holds, how they are augmented and mixed depends on the recipe and the
micro-batch's number alone, so answers can be kept (fast distillation, TinyViT, arXiv 2207.10666, which stores the seeds
of the augmentation instead). Networks of one resolution, images, recipe and teacher share a cache.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from timm.data import ImageNetInfo, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import Preprocessing, TrainingImages
from mvig_nas.recipes import Distillation, Plan, Recipe, Sources, SupernetPlan
from mvig_nas.training.timm_networks import TimmClassifier, first_line, folder_of, load_network
from mvig_nas.values import plain

PlanKind = TypeVar("PlanKind", Plan, SupernetPlan)
_IMAGENET_CLASSES = 1000
_WORDNET_ID = re.compile(r"n\d{8}")
ANSWERS, PRESENT, ABOUT = "answers.bin", "present.bin", "about.json"
# what of a recipe makes the images; all else may differ
_OF_IMAGES = (
    "batch_size",
    "micro_batch_size",
    "mixup",
    "cutmix",
    "label_smoothing",
    "repeats",
    "seed",
    "preprocessing",
)


@dataclass(frozen=True, eq=False)
class Teacher:
    """Logits of a frozen network, for images as we normalise them and classes in our order.

    No nn.Module itself, so that a student that holds one neither trains nor saves it, nor puts it in training mode.
    """

    name: str
    network: nn.Module
    size: tuple[int, int]  # height and width that the network sees
    interpolation: str
    scale: Tensor  # (3, 1, 1), with shift from our normalised values to the teacher's
    shift: Tensor
    columns: Tensor | None  # of the network's logits, for each of our classes; None for all as they are
    classes: int  # logits that it answers with

    def __call__(self, images: Tensor, number: int = 0) -> Tensor:
        """Logits (B, classes), without gradient, of images (B, 3, R, R) in our normalisation, whatever their number."""
        del number
        with torch.no_grad():
            if images.shape[-2:] != self.size:
                images = F.interpolate(
                    images, size=self.size, mode=self.interpolation, antialias=True, align_corners=False
                )
            logits = cast(Tensor, self.network(images * self.scale + self.shift))
            return logits if self.columns is None else logits[:, self.columns]

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits over the weights."""
        hashed = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            hashed.update(name.encode())
            hashed.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that tell this teacher from another, for the record of a training."""
        return {"name": self.name, "size": list(self.size), "digest": self.digest}


class TeacherCache:
    """Answers of `teacher`, from disk where they are: classes for `hard` distillation, logits in fp16 for others.

    What is returned is what is stored, so that a training is the same whether the cache was full or empty. Several
    processes may use it at once.

    Args:
        teacher: asked for what is missing.
        folder: holds a folder for each combination of teacher, images, recipe and resolution.
        stream: the training's images.
        recipe: the training's.
        resolution: side in pixels of the images.
        micro_batches: of the whole training.
        distillation: what is learnt from the answers.

    Raises:
        MvigNasError: the folder cannot be written, or has too little room for the whole training.
    """

    def __init__(
        self,
        teacher: Teacher,
        folder: Path,
        *,
        stream: TrainingImages,
        recipe: Recipe,
        resolution: int,
        micro_batches: int,
        distillation: Distillation,
    ) -> None:
        self._ask: Callable[[Tensor], Tensor] = teacher
        self._classes = teacher.classes
        self._is_hard = distillation.kind == "hard"
        entries = plain(recipe)
        about = {
            "teacher": teacher.to_dict(),
            "images": stream.images.digest,
            "resolution": resolution,
            "kept": {"hard": "classes", "soft": "logits"}.get(distillation.kind, "logits of all classes"),
            "recipe": {name: entries[name] for name in _OF_IMAGES},
        }
        text = json.dumps(about, indent=1, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        dtype = np.dtype(np.int32 if self._is_hard else np.float16)
        shape = (stream.batch_size,) if self._is_hard else (stream.batch_size, self._classes)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ABOUT).write_text(text + "\n")
            needed = micro_batches * int(np.prod(shape)) * dtype.itemsize
            path = self.folder / ANSWERS
            lacking = needed - (path.stat().st_blocks * 512 if path.exists() else 0)
            free = shutil.disk_usage(self.folder).free
            if lacking > free:
                raise MvigNasError(
                    f"the teacher's answers need room, {needed / 1e9:.3g} GB for the whole training, got "
                    f"{free / 1e9:.3g} GB at {folder}; make room, learn classes only (hard), or leave the cache out."
                )
            _grow(path, needed)
            _grow(self.folder / PRESENT, micro_batches)
            self._answers = np.memmap(path, dtype, "r+", shape=(micro_batches, *shape))
            self._present = np.memmap(self.folder / PRESENT, np.uint8, "r+", shape=(micro_batches,))
        except OSError as error:
            raise MvigNasError(
                f"the teacher's answers must be writable, got {error.strerror!r} at {folder}; take another folder."
            ) from error

    def __call__(self, images: Tensor, number: int) -> Tensor:
        """Logits (B, classes) for micro-batch `number` of the training; of `hard` answers 1 for the class, else 0."""
        if not self._present[number]:
            logits = self._ask(images).float()
            kept = logits.argmax(dim=1).int() if self._is_hard else logits.half()
            self._answers[number] = kept.cpu().numpy()
            self._present[number] = 1
        stored = torch.from_numpy(np.array(self._answers[number])).to(images.device)
        return F.one_hot(stored.long(), self._classes).float() if self._is_hard else stored.float()


def load_teacher(
    name: str,
    classes: Sequence[str] | None,
    preprocessing: Preprocessing,
    *,
    checkpoint: Path | None = None,
    resolution: int | None = None,
    device: str | torch.device = "cpu",
) -> Teacher:
    """A network of timm's as a teacher.

    Args:
        name: as in `timm.list_models()`, with a tag such as ``.in1k`` if there are several sets of weights; or the
            folder of a network that was fine-tuned, as `mvig-nas teacher fit` or timm writes it.
        classes: names of ours, in the order of our logits. A checkpoint with as many classes is taken to be trained on
            the same sorted folders; of an ImageNet-1k network, classes named by WordNet ids are picked, and of a
            folder's those in its `label_names`. None for all of the teacher's, whatever ours are.
        preprocessing: how the images that it will be given are normalised.
        checkpoint: weights, .safetensors or what torch.save wrote; without it timm downloads them.
        resolution: side in pixels that the network sees, its own by default.
        device: where it runs.

    Raises:
        MvigNasError: no such model, no weights, weights of another model, other classes, or a resolution that the
            network does not take.
    """
    found = load_network(name, checkpoint)
    # the layout that a training gives its images
    network = found.network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    settings = resolve_model_data_config(network)
    size = tuple(settings["input_size"][-2:]) if resolution is None else (resolution, resolution)
    outputs = outputs_of(found, size, device)
    columns = None if classes is None else _columns(found, outputs, classes)
    std = torch.tensor(settings["std"], dtype=torch.float64)
    scale = torch.tensor(preprocessing.std, dtype=torch.float64) / std
    shift = (torch.tensor(preprocessing.mean, dtype=torch.float64) - torch.tensor(settings["mean"])) / std
    return Teacher(
        name=found.name,
        network=network,
        size=size,
        interpolation=settings["interpolation"],
        scale=scale.view(3, 1, 1).to(device, torch.float32),
        shift=shift.view(3, 1, 1).to(device, torch.float32),
        columns=None if columns is None else torch.tensor(columns, device=device),
        classes=outputs if columns is None else len(columns),
    )


def teacher_of(
    plan: Plan | SupernetPlan,
    sources: Sources,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    device: torch.device,
) -> Teacher | None:
    """The teacher that a plan names, as in `load_teacher`; None where it names none."""
    if plan.teacher is None:
        return None
    learns_all = isinstance(plan, Plan) and plan.distillation.kind == "logits"
    return load_teacher(
        plan.teacher,
        None if learns_all else classes,
        preprocessing,
        checkpoint=sources.teacher_checkpoint,
        resolution=sources.teacher_resolution,
        device=device,
    )


def outputs_of(found: TimmClassifier, size: tuple[int, int], device: str | torch.device) -> int:
    """Classes that a network has, tried on one image of a height and width in pixels.

    Raises:
        MvigNasError: it does not take images of that size.
    """
    try:
        if found.smallest is not None and min(size) < min(found.smallest):
            raise ValueError(f"at least {min(found.smallest)} px are needed")
        with torch.no_grad():
            return int(found.network(torch.zeros(1, 3, *size, device=device)).shape[1])
    except (AssertionError, RuntimeError, ValueError) as error:
        raise MvigNasError(
            f"teacher {found.name!r} must take images of {size[0]} px, got {first_line(error)!r}; leave out the "
            "resolution."
        ) from error


def with_absolute_teacher(plan: PlanKind) -> PlanKind:
    """The plan; a teacher that is the path to a folder stays the same from other folders."""
    return replace(plan, teacher=absolute_teacher(plan.teacher))


def absolute_teacher(name: str | None) -> str | None:
    """A teacher's name; the path to a fine-tuned one's folder becomes the same from other folders."""
    return name if name is None or folder_of(name) is None else str(Path(name).absolute())


def _columns(network: TimmClassifier, outputs: int, classes: Sequence[str]) -> list[int] | None:
    """For each class its index among the teacher's logits; None where they are ours already."""
    if network.classes is not None and set(classes) <= set(network.classes):
        return [network.classes.index(name) for name in classes]
    if outputs == _IMAGENET_CLASSES:
        indices = {synset: index for index, synset in enumerate(ImageNetInfo().label_names())}
        if all(class_name in indices for class_name in classes):
            return [indices[class_name] for class_name in classes]
    if network.is_ours and network.classes is None and outputs == len(classes):
        return None
    if network.classes is not None:
        other = next(name for name in classes if name not in network.classes)
        found = f"{outputs}, of which none is {other!r}"
    elif outputs == _IMAGENET_CLASSES:
        other = next(class_name for class_name in classes if class_name not in indices)
        what = "no class of ImageNet-1k" if _WORDNET_ID.fullmatch(other) else "no WordNet id such as n01440764"
        found = f"{outputs} of ImageNet-1k, and {other!r} is {what}"
    else:
        found = f"{outputs} for our {len(classes)}"
    raise MvigNasError(
        f"the teacher must know the classes of the images, got {found}, from {network.name!r}; fine-tune it on these "
        "images (mvig-nas teacher fit) and give its folder as --teacher, learn all of its classes (--distillation "
        "logits), or name the class folders by ImageNet-1k's WordNet ids."
    )


def _grow(path: Path, size: int) -> None:
    """At least so large, with zeros that take no room on most file systems."""
    with path.open("ab") as file:
        if file.tell() < size:
            file.truncate(size)
