"""Batches of images: an endless numbered sequence to train on, a fixed one to evaluate on.

Random numbers depend on a key alone, see `seeded`. Shapes: B images a batch, R pixels a side.
"""

import random
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data.folders import LabelledImages
from mvig_nas.image_data.transforms import Transform, evaluation_transform, read_image, training_transform
from mvig_nas.recipes import Preprocessing

Batch = tuple[Tensor, Tensor]  # (B, 3, R, R) float32, (B,) int64
Key = tuple[int, int, int]  # epoch, index in the list of images, copy

# the key parts which keep apart the two uses of one seed
_ORDER, _AUGMENTATION = 0, 1


def seed_of(*key: int) -> int:
    """63 bits that differ with every part of the key and with the order of the parts."""
    return int.from_bytes(sha256(repr(key).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, the global CPU generators of Python, NumPy and torch depend on `key` alone; afterwards, as before.

    For code that draws from the global generators and takes no other: timm's transforms and its Mixup.
    """
    with generators_kept():
        reseed(*key)
        yield


def reseed(*key: int) -> None:
    """From now on the global CPU generators depend on `key` alone; ten times as fast as `seeded`."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # torch.manual_seed would reseed the accelerators as well
    torch.default_generator.manual_seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Afterwards the global CPU generators are as before."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


class TrainingImages:
    """An endless, numbered sequence of augmented batches.

    Batch j belongs to epoch ``j // batches_per_epoch``; an epoch is a permutation of the images less the last, partial
    batch. With `repeats`, an image stands there so many times in a row, each time augmented anew, and the epoch, no
    longer than without, holds fewer different ones (repeated augmentation, arXiv 1901.09335). How an image is augmented
    depends on the seed, the epoch, its index in the list and which of its copies it is alone.

    Raises:
        MvigNasError: there are fewer images than one batch.
    """

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        resolution: int,
        batch_size: int,
        seed: int,
        *,
        repeats: int = 1,
        workers: int = 0,
        in_memory: bool = False,
    ) -> None:
        """`in_memory` keeps every decoded image after its first use, in each worker."""
        self.images = images
        self.batch_size = batch_size
        self.batches_per_epoch = len(images) // batch_size
        if not self.batches_per_epoch:
            raise MvigNasError(
                f"Training must have at least one batch of images, got {len(images)} images for batches of "
                f"{batch_size}; lower the batch size or add images."
            )
        self._seed = seed
        self._repeats = repeats
        self._workers = workers
        self._samples = _TrainingSamples(images, training_transform(preprocessing, resolution), seed, in_memory)

    def batches(self, numbers: Iterable[int]) -> Iterator[Batch]:
        """The batches of these numbers, in the order given: images (B, 3, R, R) float32, targets (B,) int64.

        `numbers` may be endless; workers read a few of them ahead.

        Raises:
            MvigNasError: an image cannot be read.
        """
        return _load(self._samples, self._keys(numbers), self._workers)

    def _keys(self, numbers: Iterable[int]) -> Iterator[list[Key]]:
        order_of, order = -1, torch.empty(0)
        for number in numbers:
            epoch, position = divmod(number, self.batches_per_epoch)
            if epoch != order_of:
                generator = torch.Generator().manual_seed(seed_of(_ORDER, self._seed, epoch))
                order_of, order = epoch, torch.randperm(len(self.images), generator=generator)
            first = position * self.batch_size
            slots = range(first, first + self.batch_size)
            yield [(epoch, int(order[slot // self._repeats]), slot % self._repeats) for slot in slots]


class EvaluationImages:
    """Batches of the images in their order, never augmented; may be walked many times.

    After the first whole walk the batches stay in memory if they take at most `KEPT_BYTES`.
    """

    KEPT_BYTES = 2**30

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        resolution: int,
        batch_size: int = 128,
        *,
        workers: int = 0,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self._workers = workers
        self._samples = _EvaluationSamples(images, evaluation_transform(preprocessing, resolution))
        self._keeps = len(images) * 3 * resolution**2 * 4 <= self.KEPT_BYTES
        self._kept: list[Batch] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Batch]:
        """Images (B, 3, R, R) float32 and targets (B,) int64; the last batch may be smaller.

        Raises:
            MvigNasError: an image cannot be read.
        """
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Batch] = []
        starts = range(0, len(self.images), self.batch_size)
        keys = (
            [(0, index, 0) for index in range(len(self.images))[start : start + self.batch_size]] for start in starts
        )
        for images, targets in _load(self._samples, keys, self._workers):
            if self._keeps:
                # a worker's tensor holds a file descriptor for as long as it lives
                kept.append((images.clone(), targets.clone()) if self._workers else (images, targets))
            yield images, targets
        if self._keeps:
            self._kept = kept


Sample = tuple[Tensor, int]


class _TrainingSamples(Dataset[Sample | MvigNasError]):
    def __init__(self, images: LabelledImages, transform: Transform, seed: int, in_memory: bool) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.decoded: dict[int, Image.Image] | None = {} if in_memory else None

    def __getitem__(self, key: Key) -> Sample | MvigNasError:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample | MvigNasError]:
        with generators_kept():
            return [self._augmented(*key) for key in keys]

    def _augmented(self, epoch: int, index: int, copy: int) -> Sample | MvigNasError:
        try:
            image = self._image(index)
        except MvigNasError as error:
            return error
        reseed(_AUGMENTATION, self.seed, epoch, index, *([copy] if copy else []))
        return self.transform(image), self.images.targets[index]

    def _image(self, index: int) -> Image.Image:
        if self.decoded is None:
            return read_image(self.images.paths[index])
        if index not in self.decoded:
            self.decoded[index] = read_image(self.images.paths[index])
        return self.decoded[index]


class _EvaluationSamples(Dataset[Sample | MvigNasError]):
    def __init__(self, images: LabelledImages, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, key: Key) -> Sample | MvigNasError:
        _, index, _ = key
        try:
            return self.transform(read_image(self.images.paths[index])), self.images.targets[index]
        except MvigNasError as error:
            return error


def _load(samples: Dataset[Any], keys: Iterable[list[Key]], workers: int) -> Iterator[Batch]:
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=torch.cuda.is_available(),
        # without one, a loader draws from the global generator
        generator=torch.Generator(),
    )
    for batch in loader:
        # errors travel as values: a loader turns an exception of a worker into many lines
        if isinstance(batch, MvigNasError):
            raise batch
        images, targets = batch
        yield images, targets


def _collate(samples: Sequence[Sample | MvigNasError]) -> Batch | MvigNasError:
    images: list[Tensor] = []
    targets: list[int] = []
    for sample in samples:
        if isinstance(sample, MvigNasError):
            return sample
        images.append(sample[0])
        targets.append(sample[1])
    return torch.stack(images), torch.tensor(targets)


def _leave_signals_to_parent(_worker: int) -> None:
    # Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP reach the whole process group, and the parent still
    # wants to save its state
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
