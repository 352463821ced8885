"""Proxies that are read off the activations of forward passes: NASWOT and Zen-score. Neither takes a gradient."""

import torch
from timm.layers import GELU, GELUTanh, HardSwish, Swish
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mvig_nas.errors import MvigNasError

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    GELU,
    GELUTanh,
    Swish,
    HardSwish,
)
BATCH_NORMS = (_BatchNorm,)
STRENGTH = 0.01  # of the disturbance in `zen`: the paper's alpha


@torch.no_grad()
def naswot(module: nn.Module, images: Tensor) -> float:
    """Log-determinant of the kernel K[i, j] = number of activations whose codes of images i and j agree.

    Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training", arXiv 2006.04647; origin:
    BayesWatch/nas-without-training. One thing differs: GELU, SiLU and hard-swish have no linear regions, so the code of
    an element is the sign of what enters its activation, which for ReLU is the paper's code.

    The codes are taken as the module stands: in training mode for a fresh network, so that batch norm centres them.

    Args:
        module: a network with activation modules.
        images: (B, C, H, W), B at least 2.

    Raises:
        MvigNasError: there is no activation, or two images have equal codes, which leaves no determinant.
    """
    batch = images.shape[0]
    kernel = torch.zeros(batch, batch, dtype=torch.float64)

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if x.dim() == 4:
            x = x.permute(0, 2, 3, 1)  # no copy where channels come last in memory; any order serves
        codes = (x > 0).flatten(1).to(x.dtype)
        both_on = (codes @ codes.T).double()  # a count below 2^24, hence exact
        on = both_on.diagonal()
        kernel.add_(2 * both_on - on[:, None] - on[None, :] + codes.shape[1])

    hooks = [part.register_forward_pre_hook(count) for part in module.modules() if isinstance(part, ACTIVATIONS)]
    try:
        module(images)
    finally:
        for hook in hooks:
            hook.remove()
    sign, value = torch.linalg.slogdet(kernel)
    if sign <= 0:
        raise MvigNasError(
            f"naswot needs images whose activation codes differ, got {batch} with a singular kernel; "
            "use fewer images, or a network with more activations."
        )
    return float(value)


@torch.no_grad()
def zen(module: nn.Module, images: Tensor, disturbance: Tensor) -> float:
    """log |f(x) - f(x + 0.01 e)| + sum over batch norms of log sqrt(mean variance of what enters them).

    Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", arXiv 2102.01063; origin:
    idstcv/ZenNAS. Three things differ: residual connections stay (the paper takes them out), the weights are drawn once
    instead of 32 times, and the two images are one batch of noise, disturbed once.

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
