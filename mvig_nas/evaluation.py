"""How good trained weights are on images: batch-norm recalibration and top-1.

The running statistics that a supernet gathers mix those of all its sub-networks, so a sub-network's are measured anew
before it is evaluated. Shapes: images (B, 3, R, R), targets (B,).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, LabelledImages, Preprocessing, TrainingImages, resized, subset

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
def top1(network: nn.Module, images: EvaluationImages | Sequence[tuple[Tensor, Tensor]], resolution: int) -> float:
    """Share of the images whose class has the largest logit, in [0, 1].

    Raises:
        MvigNasError: a logit is not finite.
    """
    network.eval()
    device = next(network.parameters()).device
    right, count = 0, 0
    for batch, targets in images:
        logits = network(resized(batch.to(device), resolution))
        if not torch.isfinite(logits).all():
            raise MvigNasError("logits must be finite, got NaN or infinity; the weights have diverged, train anew.")
        right += int((logits.argmax(dim=1).cpu() == targets).sum())
        count += len(targets)
    return right / count
