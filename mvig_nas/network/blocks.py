"""Blocks of MobileViG (arXiv 2307.00395), after the reference code SLDGroup/MobileViG.

What differs from it: depthwise kernel size, expansions, activation, groups and graph operator are choices, and links
are computed in fewer operations. Positional encoding and layer scale of graph blocks are those of MobileViGv2 and
GreedyViG. Shapes are (B, C, H, W) throughout.
"""

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, create_act_layer
from torch import Tensor, nn

from mvig_nas.architecture import CPE_KERNEL, Stage
from mvig_nas.network.torch_maps import linked, linked_as_reference

LAYER_SCALE_INIT = 1e-5


def activation(name: str) -> nn.Module:
    """A fresh activation module by its name in timm."""
    return cast(nn.Module, create_act_layer(name))


class ConvNorm(nn.Module):
    """Convolution, then batch norm; `fold` makes it one convolution."""

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, kernel_size // 2, groups=groups)
        self.bn: nn.Module = nn.BatchNorm2d(out_chs)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.bn(self.conv(x)))

    def fold(self, scale: Tensor | None = None) -> None:
        """Fold the batch norm's running statistics, then `scale` (out_chs,) if given, into the convolution."""
        if isinstance(self.bn, nn.BatchNorm2d):
            fold_norm(self.conv, self.bn)
            self.bn = nn.Identity()
        if scale is not None:
            scale_outputs(self.conv, scale)


class MBConv(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection; layer scale on the branch."""

    def __init__(
        self, chs: int, expansion: int, kernel_size: int, act: str, *, drop_path: float, layer_scale: float
    ) -> None:
        super().__init__()
        hidden = chs * expansion
        self.conv_pw = ConvNorm(chs, hidden)
        self.act1 = activation(act)
        self.conv_dw = ConvNorm(hidden, hidden, kernel_size, groups=hidden)
        self.act2 = activation(act)
        self.conv_pwl = ConvNorm(hidden, chs)
        self.layer_scale: nn.Parameter | None = nn.Parameter(torch.full((chs, 1, 1), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv_pwl(self.act2(self.conv_dw(self.act1(self.conv_pw(x)))))
        if self.layer_scale is not None:
            branch = branch * self.layer_scale
        return x + cast(Tensor, self.drop_path(branch))

    def fold(self) -> None:
        """Fold batch norms and the layer scale into the convolutions."""
        self.conv_pw.fold()
        self.conv_dw.fold()
        self.conv_pwl.fold(None if self.layer_scale is None else self.layer_scale.detach().flatten())
        self.layer_scale = None


class PositionalEncoding(nn.Module):
    """Conditional positional encoding (CPE, arXiv 2102.10882): a depthwise convolution with a residual, no norm."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(chs, chs, CPE_KERNEL, padding=CPE_KERNEL // 2, groups=chs)
        self.is_folded = False

    def forward(self, x: Tensor) -> Tensor:
        encoded = cast(Tensor, self.conv(x))
        return encoded if self.is_folded else x + encoded

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the residual into the kernel's centre."""
        if not self.is_folded:
            self.conv.weight[:, :, CPE_KERNEL // 2, CPE_KERNEL // 2] += 1
            self.is_folded = True


class MaxRelativeConv(nn.Module):
    """Max-relative graph convolution: 1x1 over (x, links of x), batch norm, activation; C -> 2C, or C -> C of some.

    With `groups` g, group i sees the i-th share of x and the same share of the links, so that each group mixes a
    pixel with its links. The weight is (2C or C, 2C / g, 1, 1), the columns for x first.
    """

    def __init__(self, stage: Stage, reference_links: bool) -> None:
        super().__init__()
        chs, groups = stage.width, stage.graph_groups or 1
        out_chs = stage.operator.outputs * chs
        self.groups = groups
        self.operator = stage.operator
        self.step = stage.graph_step or 0
        self.reference_links = reference_links
        self.conv = nn.Conv2d(2 * chs, out_chs, 1, groups=groups)
        self.bn: nn.Module = nn.BatchNorm2d(out_chs)
        self.act = activation(stage.activation)

    def links(self, x: Tensor) -> Tensor:
        """What each pixel learns of its links, in the shape of x."""
        return (linked_as_reference if self.reference_links else linked)(self.operator, x, self.step)

    def forward(self, x: Tensor) -> Tensor:
        links = self.links(x)
        if self.groups == 1:
            mixed = self.conv(torch.cat([x, links], dim=1))
        else:
            own, theirs = self.conv.weight.chunk(2, dim=1)
            mixed = F.conv2d(x, own, None, groups=self.groups)
            mixed = mixed + F.conv2d(links, theirs, self.conv.bias, groups=self.groups)
        return cast(Tensor, self.act(self.bn(mixed)))

    def fold(self) -> None:
        """Fold the batch norm into the convolution."""
        if isinstance(self.bn, nn.BatchNorm2d):
            fold_norm(self.conv, self.bn)
            self.bn = nn.Identity()


class GraphBlock(nn.Module):
    """Grapher (1x1, max-relative graph convolution, 1x1 back to C), then feed-forward network; both residual.

    A positional encoding stands inside the grapher, so that its residual carries x without it.
    """

    def __init__(self, stage: Stage, *, drop_path: float, layer_scale: float, reference_links: bool) -> None:
        super().__init__()
        chs, hidden = stage.width, stage.width * (stage.ffn_expansion or 1)
        self.cpe = PositionalEncoding(chs) if stage.graph_cpe else None
        self.fc1 = ConvNorm(chs, chs)
        self.graph_conv = MaxRelativeConv(stage, reference_links)
        self.fc2 = ConvNorm(stage.operator.outputs * chs, chs)
        self.ffn_fc1 = ConvNorm(chs, hidden)
        self.ffn_act = activation(stage.activation)
        self.ffn_fc2 = ConvNorm(hidden, chs)
        self.layer_scale: nn.Parameter | None = None
        self.ffn_layer_scale: nn.Parameter | None = None
        if stage.graph_scale:
            self.layer_scale = nn.Parameter(torch.full((chs, 1, 1), layer_scale))
            self.ffn_layer_scale = nn.Parameter(torch.full((chs, 1, 1), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        encoded = x if self.cpe is None else self.cpe(x)
        x = x + self._branch(self.fc2(self.graph_conv(self.fc1(encoded))), self.layer_scale)
        return x + self._branch(self.ffn_fc2(self.ffn_act(self.ffn_fc1(x))), self.ffn_layer_scale)

    def _branch(self, x: Tensor, scale: nn.Parameter | None) -> Tensor:
        return cast(Tensor, self.drop_path(x if scale is None else x * scale))

    def fold(self) -> None:
        """Fold batch norms, layer scales and the positional encoding's residual into their convolutions."""
        if self.cpe is not None:
            self.cpe.fold()
        for part in (self.fc1, self.graph_conv, self.ffn_fc1):
            part.fold()
        for part, scale in ((self.fc2, self.layer_scale), (self.ffn_fc2, self.ffn_layer_scale)):
            part.fold(None if scale is None else scale.detach().flatten())
        self.layer_scale = self.ffn_layer_scale = None


class Stem(nn.Module):
    """Two 3x3 stride-2 convolutions, image to first stage, through half its width."""

    def __init__(self, in_chs: int, out_chs: int, act: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_chs, out_chs // 2, 3, stride=2)
        self.act1 = activation(act)
        self.conv2 = ConvNorm(out_chs // 2, out_chs, 3, stride=2)
        self.act2 = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act2(self.conv2(self.act1(self.conv1(x)))))

    def fold(self) -> None:
        """Fold both batch norms."""
        self.conv1.fold()
        self.conv2.fold()


@torch.no_grad()
def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Fold a batch norm in evaluation mode into the convolution before it, in double precision."""
    variance, mean = norm.running_var, norm.running_mean
    if variance is None or mean is None or conv.bias is None:
        raise ValueError("a batch norm to be folded must have running statistics, and its convolution a bias")
    scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    bias = (conv.bias.double() - mean.double()) * scale + norm.bias.double()
    conv.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
    conv.bias.copy_(bias)


@torch.no_grad()
def scale_outputs(conv: nn.Conv2d, scale: Tensor) -> None:
    """Multiply a convolution's outputs by `scale` (out_chs,)."""
    conv.weight.mul_(scale.view(-1, 1, 1, 1))
    if conv.bias is not None:
        conv.bias.mul_(scale)
