"""SynFlow: Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving
synaptic flow", arXiv 2006.05467; as a score for networks: Abdelfattah et al., arXiv 2101.08134.

Origin: ganguli-lab/Synaptic-Flow and SamsungLabs/zero-cost-nas. What differs: the logarithm is returned, since the sum
itself grows exponentially with depth; activations are bypassed like norms, as GELU and SiLU bend small positive values.
In SVGA a constant map has no differences, so links see only what zero padding leaves at the borders.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.scores.modules import ACTIVATIONS, NORMS, weights


def synflow(module: nn.Module, images: Tensor) -> float:
    """Natural logarithm of the sum over weights of w dR/dw, R the sum of the linear network's outputs.

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
        parameters = weights(module)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        flow = sum(
            float((weight.detach() * gradient).sum())
            for weight, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None
        )
    if not flow > 0:
        raise MvigNasError(f"synflow needs a positive flow from input to output, got {flow}; score another network.")
    return float(torch.tensor(flow, dtype=torch.float64).log())


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
