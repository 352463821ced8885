"""What the proxies look for in any `nn.Module`: activations, norms and weights."""

from timm.layers import GELU, GELUTanh, HardSwish, Swish
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)


def weights(module: nn.Module) -> list[Tensor]:
    """Weights of the convolutions and linear layers; biases, norms and layer scales are left out."""
    return [part.weight for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
