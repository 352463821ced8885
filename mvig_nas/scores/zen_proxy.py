"""Zen-score: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", arXiv 2102.01063.

Origin: idstcv/ZenNAS. What differs: residual connections stay (the paper takes them out), one draw of the weights
instead of 32, and the two images are one batch of noise, disturbed once.
"""

import torch
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.scores.modules import BATCH_NORMS

STRENGTH = 0.01  # the paper's alpha


@torch.no_grad()
def zen(module: nn.Module, images: Tensor, disturbance: Tensor) -> float:
    """log |f(x) - f(x + 0.01 e)| + sum over batch norms of log sqrt(mean variance of what enters them).

    f is `module.forward_features` where there is one, else the module; |.| is the L1 norm, averaged over images. Batch
    norm must use the batch (training mode), and the paper draws every weight from N(0, 1).

    Args:
        module: a network.
        images: (B, C, H, W), standard normal noise.
        disturbance: e, of the same shape and kind.

    Raises:
        MvigNasError: the output does not feel the disturbance.
    """
    features = getattr(module, "forward_features", module)
    deviations: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        deviations.append(x.var(dim=[0, *range(2, x.dim())], correction=0).mean().double().sqrt())

    hooks = [part.register_forward_pre_hook(keep) for part in module.modules() if isinstance(part, BATCH_NORMS)]
    try:
        clean = features(images)
    finally:
        for hook in hooks:
            hook.remove()
    difference = (clean - features(images + STRENGTH * disturbance)).double().abs().flatten(1).sum(dim=1).mean()
    if not difference > 0:
        raise MvigNasError(f"zen needs an output that feels its input, got a difference of {float(difference)}.")
    return float(difference.log() + sum(deviation.log() for deviation in deviations))
