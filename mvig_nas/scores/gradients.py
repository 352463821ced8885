"""Gradient norm and SNIP at initialisation, as Abdelfattah, Mehrotra, Dudziak and Lane score networks with them:
"Zero-Cost Proxies for Lightweight NAS", arXiv 2101.08134. SNIP: Lee, Ajanthan and Torr, arXiv 1810.02340.

Origin: SamsungLabs/zero-cost-nas. Labels are drawn at random: there is no data.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvig_nas.scores.modules import weights


def grad_norm(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over convolutions and linear layers of the Euclidean norm of the cross-entropy's gradient.

    Args:
        module: a classifier, in training mode for a fresh network.
        images: (B, C, H, W).
        labels: (B,), class numbers.
    """
    _, gradients = loss_gradients(module, images, labels)
    return sum(float(gradient.norm()) for gradient in gradients)


def snip(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over the weights of convolutions and linear layers of |weight x gradient of the cross-entropy|.

    Arguments as in `grad_norm`.
    """
    parameters, gradients = loss_gradients(module, images, labels)
    with torch.no_grad():
        products = [(weight * gradient).abs().sum() for weight, gradient in zip(parameters, gradients, strict=True)]
    return sum(float(product) for product in products)


def loss_gradients(module: nn.Module, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of convolutions and linear layers that the mean cross-entropy depends on, and its gradients."""
    parameters = weights(module)
    with torch.enable_grad():
        loss = F.cross_entropy(module(images), labels)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(weight, gradient) for weight, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    return [weight for weight, _ in used], [gradient for _, gradient in used]
