"""The external teacher of distillation: a trained network of timm's, asked in our preprocessing and our classes.

A `TeacherCache` keeps its answers on disk, so that it is asked once for each micro-batch, whatever is trained on it
afterwards. Which images a micro-batch holds, how they are augmented and mixed depends on the recipe and the
micro-batch's number alone, so answers can be kept (fast distillation, TinyViT, arXiv 2207.10666, which stores the seeds
of the augmentation instead). Networks of one resolution, images, recipe and teacher share a cache.
"""

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import ImageNetInfo, resolve_model_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn
from torch.nn import functional as F

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.image_data import Preprocessing, TrainingImages, seeded
from mvig_nas.recipes import Distillation, Plan, Recipe, Sources, SupernetPlan
from mvig_nas.values import plain

_IMAGENET_CLASSES = 1000
_WORDNET_ID = re.compile(r"n\d{8}")
# names that training scripts put the weights under; the averaged ones first
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
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
        name: as in `timm.list_models()`, with a tag such as ``.in1k`` if there are several sets of weights.
        classes: names of ours, in the order of our logits. A checkpoint with as many classes is taken to be trained on
            the same sorted folders; of an ImageNet-1k network, classes named by WordNet ids are picked. None for
            all of the teacher's, whatever ours are.
        preprocessing: how the images that it will be given are normalised.
        checkpoint: weights, .safetensors or what torch.save wrote; without it timm downloads them.
        resolution: side in pixels that the network sees, its own by default.
        device: where it runs.

    Raises:
        MvigNasError: no such model, no weights, weights of another model, other classes, or a resolution that the
            network does not take.
    """
    config = _config(name)
    # building draws random weights, and the student's must not depend on that
    with seeded(0):
        network = _downloaded(name) if checkpoint is None else _built(name, config.classifier, checkpoint)
    # the layout that a training gives its images
    network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    settings = resolve_model_data_config(network)
    size = settings["input_size"][-2:] if resolution is None else (resolution, resolution)
    outputs = _outputs(name, network, size, config.min_input_size, device)
    columns = None if classes is None else _columns(name, outputs, classes, is_ours=checkpoint is not None)
    std = torch.tensor(settings["std"], dtype=torch.float64)
    scale = torch.tensor(preprocessing.std, dtype=torch.float64) / std
    shift = (torch.tensor(preprocessing.mean, dtype=torch.float64) - torch.tensor(settings["mean"])) / std
    return Teacher(
        name=name,
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


def _config(name: str) -> PretrainedCfg:
    """What timm knows of the model."""
    must = f"a teacher must be a classifier of timm's, got {name!r}"
    if not timm.is_model(name):
        near = closest(name, timm.list_models())
        # a list of more than a thousand is no help
        raise MvigNasError(f"{must}; {near if near.startswith('did') else 'timm.list_models() has their names.'}")
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise MvigNasError(f"{must}; leave out what follows the dot: {_first_line(error)}") from error
    if config is None or not config.classifier:
        raise MvigNasError(f"{must}, which has no last layer of classes; take another.")
    return cast(PretrainedCfg, config)


def _downloaded(name: str) -> nn.Module:
    try:
        return cast(nn.Module, timm.create_model(name, pretrained=True))
    except Exception as error:  # whatever the hub's client and its transport raise
        raise MvigNasError(
            f"the weights of teacher {name!r} must be there to download, got {_first_line(error)!r}; "
            "give a file of them: --teacher-checkpoint FILE."
        ) from error


def _built(name: str, classifier: str | tuple[str, ...], checkpoint: Path) -> nn.Module:
    """The network with as many classes as the checkpoint's last layer has."""
    weights = _read(checkpoint)
    key = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    if key not in weights:
        raise _other_weights(name, checkpoint, f"it has no {key!r}")
    network = cast(nn.Module, timm.create_model(name, num_classes=len(weights[key])))
    own = network.state_dict()
    # a count of batches, which safetensors of old lack
    needed = {entry for entry in own if not entry.endswith(".num_batches_tracked")}
    for entry in sorted(needed - weights.keys()):
        raise _other_weights(name, checkpoint, f"it has no {entry!r}")
    for entry in sorted(weights.keys() - own.keys()):
        raise _other_weights(name, checkpoint, f"it has {entry!r} besides")
    for entry, tensor in weights.items():
        if tensor.shape != own[entry].shape:
            found, asked = tuple(tensor.shape), tuple(own[entry].shape)
            raise _other_weights(name, checkpoint, f"its {entry!r} is {found}, not {asked}")
    network.load_state_dict(own | weights)
    return network


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise MvigNasError(
            f"a teacher's checkpoint must be a file of tensors, got {_first_line(error)!r} at {path}; "
            "write one with torch.save(model.state_dict(), FILE)."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise MvigNasError(
            f"a teacher's checkpoint must hold tensors by name, bare or under {' or '.join(map(repr, _WRAPPERS))}, "
            f"got something else in {path}; write one with torch.save(model.state_dict(), FILE)."
        )
    return {str(key).removeprefix("module."): tensor for key, tensor in content.items()}


def _outputs(
    name: str, network: nn.Module, size: tuple[int, int], smallest: Sequence[int] | None, device: str | torch.device
) -> int:
    """Classes that the network has, tried on one image of the size."""
    try:
        if smallest is not None and min(size) < min(smallest[-2:]):
            raise ValueError(f"at least {min(smallest[-2:])} px are needed")
        with torch.no_grad():
            return int(network(torch.zeros(1, 3, *size, device=device)).shape[1])
    except (AssertionError, RuntimeError, ValueError) as error:
        raise MvigNasError(
            f"teacher {name!r} must take images of {size[0]} px, got {_first_line(error)!r}; leave out the resolution."
        ) from error


def _columns(name: str, outputs: int, classes: Sequence[str], *, is_ours: bool) -> list[int] | None:
    """For each class its index among the teacher's logits; None where they are ours already."""
    if outputs == _IMAGENET_CLASSES:
        indices = {synset: index for index, synset in enumerate(ImageNetInfo().label_names())}
        if all(class_name in indices for class_name in classes):
            return [indices[class_name] for class_name in classes]
    if is_ours and outputs == len(classes):
        return None
    if outputs == _IMAGENET_CLASSES:
        other = next(class_name for class_name in classes if class_name not in indices)
        what = "no class of ImageNet-1k" if _WORDNET_ID.fullmatch(other) else "no WordNet id such as n01440764"
        found = f"{outputs} of ImageNet-1k, and {other!r} is {what}"
    else:
        found = f"{outputs} for our {len(classes)}"
    raise MvigNasError(
        f"the teacher must know the classes of the images, got {found}, from {name!r}; fine-tune it on these images "
        "and give --teacher-checkpoint FILE, learn all of its classes (--distillation logits), or name the class "
        "folders by ImageNet-1k's WordNet ids."
    )


def _other_weights(name: str, checkpoint: Path, what: str) -> MvigNasError:
    return MvigNasError(
        f"the checkpoint must hold the weights of teacher {name!r}, but {what}: {checkpoint}; "
        "give its own, or name the model that these are of."
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _grow(path: Path, size: int) -> None:
    """At least so large, with zeros that take no room on most file systems."""
    with path.open("ab") as file:
        if file.tell() < size:
            file.truncate(size)
