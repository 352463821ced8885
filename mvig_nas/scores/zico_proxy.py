"""ZiCo: Li, Yang, Bhardwaj and Marculescu, "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients",
arXiv 2301.11300. Origin: SLDGroup/ZiCo. What differs: labels are random and batches are small.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.scores.gradients import loss_gradients


def zico(module: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Sum over layers of log(sum over weights of mean |g| / standard deviation of g), g the gradients of the batches.

    Weights whose gradient does not vary, and layers that have only such weights, are left out, as in the origin.

    Args:
        module: a classifier, in training mode for a fresh network.
        batches: at least two of images (B, C, H, W) and class numbers (B,).

    Raises:
        MvigNasError: fewer than two batches.
    """
    if len(batches) < 2:
        raise MvigNasError(f"zico needs at least 2 batches, got {len(batches)}; a deviation needs two gradients.")
    per_batch = [loss_gradients(module, images, labels)[1] for images, labels in batches]
    value = 0.0
    with torch.no_grad():
        for gradients in zip(*per_batch, strict=True):
            mean = sum(gradients[1:], gradients[0]) / len(gradients)
            # torch.std over stacked gradients takes several times as long.
            deviation = sum(((gradient - mean).square_() for gradient in gradients), torch.zeros_like(mean))
            deviation = deviation.div_(len(gradients)).sqrt_()
            size = sum((gradient.abs() for gradient in gradients), torch.zeros_like(mean)).div_(len(gradients))
            total = size.div_(deviation).masked_fill_(deviation == 0, 0).sum(dtype=torch.float64)
            if total > 0:
                value += float(total.log())
    return value
