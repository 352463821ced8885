"""Proxies that are read off gradients at initialisation: gradient norm, SNIP, ZiCo and SynFlow.

All but ZiCo score networks as Abdelfattah, Mehrotra, Dudziak and Lane do: "Zero-Cost Proxies for Lightweight NAS",
arXiv 2101.08134; origin: SamsungLabs/zero-cost-nas. Labels are drawn at random, since there is no data.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.scores.activation_proxies import ACTIVATIONS, BATCH_NORMS

NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)


def grad_norm(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over convolutions and linear layers of the Euclidean norm of the cross-entropy's gradient.

    As networks are scored with it in arXiv 2101.08134.

    Args:
        module: a classifier, in training mode for a fresh network.
        images: (B, C, H, W).
        labels: (B,), class numbers.
    """
    _, gradients = _loss_gradients(module, images, labels)
    return sum(float(gradient.norm()) for gradient in gradients)


def snip(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over the weights of convolutions and linear layers of |weight x gradient of the cross-entropy|.

    Lee, Ajanthan and Torr, arXiv 1810.02340. The arguments are those of `grad_norm`.
    """
    parameters, gradients = _loss_gradients(module, images, labels)
    with torch.no_grad():
        products = [(weight * gradient).abs().sum() for weight, gradient in zip(parameters, gradients, strict=True)]
    return sum(float(product) for product in products)


def zico(module: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Sum over layers of log(sum over weights of mean |g| / standard deviation of g), g the gradients of the batches.

    Li, Yang, Bhardwaj and Marculescu, "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients", arXiv
    2301.11300; origin: SLDGroup/ZiCo. Two things differ: labels are random, and batches are small.

    Weights whose gradient does not vary, and layers that have only such weights, are left out, as in the origin.

    Args:
        module: a classifier, in training mode for a fresh network.
        batches: at least two of images (B, C, H, W) and class numbers (B,).

    Raises:
        MvigNasError: fewer than two batches.
    """
    if len(batches) < 2:
        raise MvigNasError(f"zico needs at least 2 batches, got {len(batches)}; a deviation needs two gradients.")
    per_batch = [_loss_gradients(module, images, labels)[1] for images, labels in batches]
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


def synflow(module: nn.Module, images: Tensor) -> float:
    """Natural logarithm of the sum over weights of w dR/dw, R the sum of the linear network's outputs.

    Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
    flow", arXiv 2006.05467; origin: ganguli-lab/Synaptic-Flow and SamsungLabs/zero-cost-nas. Two things differ: the
    logarithm is returned, since the sum itself grows exponentially with depth, and activations are bypassed like norms,
    as GELU and SiLU bend small positive values. In SVGA a constant map has no differences, so links see only what zero
    padding leaves at the borders.

    The linear network has the weights' absolute values, neither norms nor activations, and sees an image of ones; it
    runs in double precision. The module is left as it was.

    Args:
        module: a network; its biases should be zero.
        images: (1, C, H, W), read for its shape only.

    Raises:
        MvigNasError: no output depends on the weights.
    """
    ones = torch.ones_like(images[:1], dtype=torch.float64)
    with _linear(module), torch.enable_grad():
        total = module(ones).sum()
        parameters = _weights(module)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        flow = sum(
            float((weight.detach() * gradient).sum())
            for weight, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None
        )
    if not flow > 0:
        raise MvigNasError(f"synflow needs a positive flow from input to output, got {flow}; score another network.")
    return float(torch.tensor(flow, dtype=torch.float64).log())


def _loss_gradients(module: nn.Module, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of convolutions and linear layers that the mean cross-entropy depends on, and its gradients."""
    parameters = _weights(module)
    with torch.enable_grad():
        loss = F.cross_entropy(module(images), labels)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(weight, gradient) for weight, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    return [weight for weight, _ in used], [gradient for _, gradient in used]


def _weights(module: nn.Module) -> list[Tensor]:
    """Weights of the convolutions and linear layers; biases, norms and layer scales are left out."""
    return [part.weight for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]


@contextmanager
def _linear(module: nn.Module) -> Iterator[None]:
    bypassed = [part for part in module.modules() if isinstance(part, (*ACTIVATIONS, *NORMS))]
    parameters = list(module.parameters())
    kept = [parameter.data for parameter in parameters]
    training = module.training
    module.eval()
    try:
        for part in bypassed:
            part.forward = _identity  # type: ignore[method-assign]
        for parameter in parameters:
            parameter.data = parameter.data.double().abs()
        yield
    finally:
        for parameter, data in zip(parameters, kept, strict=True):
            parameter.data = data
        for part in bypassed:
            del part.forward
        module.train(training)


def _identity(x: Tensor) -> Tensor:
    return x
