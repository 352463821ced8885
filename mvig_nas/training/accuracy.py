"""How good trained weights are on images: batch-norm recalibration, top-1, and the whole confusion of classes.

The running statistics that a supernet gathers mix those of all its sub-networks, so a sub-network's are measured anew
before it is evaluated. Shapes: images (B, 3, R, R), targets (B,).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mvig_nas.image_data import EvaluationImages, LabelledImages, Preprocessing, TrainingImages, resized, subset
from mvig_nas.network import MobileViG
from mvig_nas.training.guard import DivergedError

CALIBRATION_IMAGES = 2048
_BATCH = 128


class Calibration:
    """A fixed sample of training images, augmented as in training but without erasing, for `recalibrate`.

    The sample stays in memory.

    Args:
        images: training images to draw from.
        preprocessing: the training's.
        resolution: side of the images in pixels; sub-networks of a lower one see them shrunk.
        count: number of images.
        seed: of the sample and its augmentation.
    """

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        resolution: int,
        *,
        count: int = CALIBRATION_IMAGES,
        seed: int = 0,
    ) -> None:
        chosen = subset(images, count, seed)
        size = min(_BATCH, len(chosen))
        sample = TrainingImages(chosen, replace(preprocessing, random_erasing=0.0), resolution, size, seed)
        self.batches: tuple[Tensor, ...] = tuple(batch for batch, _ in sample.batches(range(sample.batches_per_epoch)))


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor], resolution: int) -> None:
    """Batch norms' running statistics become the mean of those of these batches; all else stays as it is."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    device = next(network.parameters()).device
    for batch in batches:
        network(resized(batch.to(device), resolution))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def top1(network: nn.Module, images: Iterable[tuple[Tensor, Tensor]], resolution: int) -> float:
    """Share of the images whose class has the largest logit, in [0, 1].

    Raises:
        DivergedError: a logit is not finite.
    """
    network.eval()
    device = next(network.parameters()).device
    right, count = 0, 0
    for batch, targets in images:
        logits = network(resized(batch.to(device), resolution))
        _require_finite(bool(torch.isfinite(logits).all()))
        right += int((logits.argmax(dim=1).cpu() == targets).sum())
        count += len(targets)
    return right / count


@dataclass(frozen=True, eq=False)
class Accuracy:
    """How often one classifier is right.

    Attributes:
        top1: share of images whose class has the largest logit, in [0, 1].
        top5: share of images whose class is among the five largest logits; top-1 where there are fewer than six.
        confusion: images by their class (rows) and the largest logit (columns), (classes, classes).
    """

    top1: float
    top5: float
    confusion: NDArray[np.int64]

    @property
    def by_class(self) -> NDArray[np.float64]:
        """Top-1 of each class; NaN for one without images. Shape (classes,)."""
        counts = self.confusion.sum(axis=1)
        shares: NDArray[np.float64] = np.where(counts > 0, np.diag(self.confusion) / np.maximum(counts, 1), np.nan)
        return shares


class Tally:
    """Counts of right and wrong answers of one classifier, batch by batch."""

    def __init__(self, classes: int) -> None:
        self._confusion = np.zeros((classes, classes), dtype=np.int64)
        self._within = 0

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Logits (B, classes), or anything that orders them alike, and targets (B,); at least one in all."""
        np.add.at(self._confusion, (targets.numpy(), logits.argmax(dim=1).numpy()), 1)
        best = logits.topk(5 if logits.shape[1] > 5 else 1, dim=1).indices
        self._within += int((best == targets[:, None]).any(dim=1).sum())

    def combine(self, add_up: Callable[[Tensor], Tensor]) -> None:
        """Count with others: `add_up` returns the sum of all their tensors (classes * classes + 1,) int64."""
        *confusion, self._within = add_up(torch.tensor([*self._confusion.ravel(), self._within])).tolist()
        self._confusion = np.array(confusion, dtype=np.int64).reshape(self._confusion.shape)

    @property
    def accuracy(self) -> Accuracy:
        """The accuracy on all that was added."""
        total = int(self._confusion.sum())
        return Accuracy(float(np.trace(self._confusion) / total), self._within / total, self._confusion)


@torch.no_grad()
def accuracies(
    network: MobileViG,
    images: EvaluationImages,
    resolution: int,
    dtype: torch.dtype = torch.float32,
    add_up: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Accuracy]:
    """Accuracy of the network as it answers (`mean` of both classifiers), and of each where there are two.

    Args:
        network: whose weights are looked at; in evaluation mode afterwards.
        images: to classify, at least one.
        resolution: side in pixels that the network sees.
        dtype: of the forward pass.
        add_up: where several processes classify a part each: as in `Tally.combine`, so that all get what holds for
            all images.

    Raises:
        DivergedError: a logit is not finite.
    """
    network.eval()
    device = next(network.parameters()).device
    heads = {"labels": network.head, "teacher": network.head_dist}
    present = {name: head for name, head in heads.items() if head is not None}
    tallies = {name: Tally(network.num_classes) for name in ("mean", *(present if len(present) > 1 else ()))}
    spoiled = 0
    for batch, targets in images:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            features = network.forward_features(resized(batch.to(device), resolution))
            hidden = cast(Tensor, network.forward_head(features, pre_logits=True))
            each = {name: head(hidden[:, :, None, None]).flatten(1).float().cpu() for name, head in present.items()}
        each["mean"] = torch.stack(list(each.values())).mean(dim=0)
        for name, tally in tallies.items():
            tally.add(each[name], targets)
        spoiled += int((~torch.isfinite(torch.stack(list(each.values())))).sum())
    if add_up is not None:
        spoiled = int(add_up(torch.tensor([spoiled])))
        for tally in tallies.values():
            tally.combine(add_up)
    _require_finite(not spoiled)  # after all processes have met, as the others wait for this one
    return {name: tally.accuracy for name, tally in tallies.items()}


def accuracies_on(
    network: MobileViG,
    images: LabelledImages,
    preprocessing: Preprocessing,
    *,
    workers: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Accuracy]:
    """`accuracies` on image files, at the network's own resolution; `workers` processes read them."""
    resolution = network.architecture.resolution
    return accuracies(network, EvaluationImages(images, preprocessing, resolution, workers=workers), resolution, dtype)


def shares(found: Mapping[str, Accuracy]) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 of each classifier, as plain values."""
    return {name: {"top1": each.top1, "top5": each.top5} for name, each in found.items()}


def _require_finite(is_finite: bool) -> None:
    if not is_finite:
        raise DivergedError("logits must be finite, got NaN or infinity; the weights have diverged, train anew.")
