"""NASWOT: Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training", arXiv 2006.04647.

Origin: BayesWatch/nas-without-training. What differs: GELU, SiLU and hard-swish have no linear regions, so an element's
code is the sign of what enters its activation, which for ReLU is the paper's code.
"""

import torch
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.scores.modules import ACTIVATIONS


@torch.no_grad()
def naswot(module: nn.Module, images: Tensor) -> float:
    """Log-determinant of the kernel K[i, j] = number of activations whose codes of images i and j agree.

    Codes are taken as the module stands: in training mode for a fresh network, so that batch norm centres them.

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
