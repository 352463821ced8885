"""A teacher's answers on disk: it is asked once for each micro-batch, whatever is trained on it afterwards.

Which images a micro-batch holds, how they are augmented and mixed depends on the recipe and the micro-batch's number
alone, so its answers can be kept (fast distillation, TinyViT, arXiv 2207.10666, which stores the seeds of the
augmentation instead). Networks of one resolution, images, recipe and teacher share a cache.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import TrainingImages
from mvig_nas.recipes import Distillation, Recipe
from mvig_nas.training.teacher import Teacher
from mvig_nas.values import plain

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


class TeacherCache:
    """Answers of `teacher`, from disk where they are: logits in fp16 for `soft`, classes for `hard` distillation.

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
        self._classes = len(stream.images.classes)
        self._is_hard = distillation.kind == "hard"
        entries = plain(recipe)
        about = {
            "teacher": teacher.to_dict(),
            "images": stream.images.digest,
            "resolution": resolution,
            "kept": "classes" if self._is_hard else "logits",
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


def _grow(path: Path, size: int) -> None:
    """At least so large, with zeros that take no room on most file systems."""
    with path.open("ab") as file:
        if file.tell() < size:
            file.truncate(size)
