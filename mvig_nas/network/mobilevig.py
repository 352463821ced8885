"""MobileViG: the only definition of the network, for any Architecture.

Paper: Munir, Avery and Marculescu, "MobileViG: Graph-Based Sparse Attention for Mobile Vision Applications",
arXiv 2307.00395; reference code SLDGroup/MobileViG, whose logits it reproduces. Its successors MobileViGv2 (arXiv
2406.05850) and GreedyViG (arXiv 2405.06849) are architectures of the same network. Shapes: images (B, 3, R, R) with R
the resolution in pixels (other sizes run too), logits (B, num_classes).
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mvig_nas.architecture import STAGES, Architecture, Stage
from mvig_nas.network.blocks import LAYER_SCALE_INIT, ConvNorm, GraphBlock, MBConv, Stem, activation

TEACHER_HEAD = "head_teacher."  # what names of weights begin with that training alone uses
_MAKING = ("empty", "full", "ones", "tensor", "zeros")
_FILLING = ("normal_", "uniform_", "fill_", "zero_", "ones_", "zeros_", "kaiming_normal_", "kaiming_uniform_")


class NetworkStage(nn.Module):
    """Downsampling (none in the first stage), MBConv blocks, graph blocks."""

    def __init__(
        self, in_chs: int | None, stage: Stage, drop_paths: list[float], layer_scale: float, reference_links: bool
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if in_chs is None else ConvNorm(in_chs, stage.width, 3, stride=2)
        expansion, kernel = stage.conv_expansion or 1, stage.conv_kernel or 1
        blocks: list[nn.Module] = [
            MBConv(stage.width, expansion, kernel, stage.activation, drop_path=rate, layer_scale=layer_scale)
            for rate in drop_paths[: stage.conv_depth]
        ]
        blocks += [
            GraphBlock(stage, drop_path=rate, layer_scale=layer_scale, reference_links=reference_links)
            for rate in drop_paths[stage.conv_depth :]
        ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing:
            return cast(Tensor, checkpoint_seq(self.blocks, x))
        return cast(Tensor, self.blocks(x))


class MobileViG(nn.Module):
    """A MobileViG-like network.

    In training with `set_distilled_training(True)` the forward pass returns both heads' logits; otherwise their mean.
    With `set_teacher_classes` the second head has a teacher's classes, and the first one answers alone.

    Args:
        architecture: what to build; kept as `.architecture`.
        num_classes: size of the logits; 0 for none.
        in_chans: channels of the image.
        distillation: whether there is a second classifier, for a teacher's labels.
        drop_rate: dropout before the classifiers.
        drop_path_rate: stochastic depth of the last block; earlier blocks take their linear share. The authors' code
            of MobileViGv2 advances on graph blocks only, so that its last block is at 0.03 where it is asked for 0.1.
        layer_scale_init: what the layer scales of MBConv and graph branches start from.
        reference_links: whether links are computed in the operations of the authors' code, one by one.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        distillation: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init: float = LAYER_SCALE_INIT,
        reference_links: bool = False,
    ) -> None:
        super().__init__()
        stages = architecture.stages
        self.architecture = architecture
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.distilled_training = False
        self.num_features = stages[-1].width
        self.head_hidden_size = architecture.head_width

        self.stem = Stem(in_chans, stages[0].width, stages[0].activation)
        depths = [stage.conv_depth + stage.graph_depth for stage in stages]
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        parts: list[nn.Module] = []
        self.feature_info: list[dict[str, Any]] = []
        for index, stage in enumerate(stages):
            first = sum(depths[:index])
            in_chs = stages[index - 1].width if index else None
            own_rates = rates[first : first + depths[index]]
            parts.append(NetworkStage(in_chs, stage, own_rates, layer_scale_init, reference_links))
            info = {"num_chs": stage.width, "reduction": 4 * 2**index, "module": f"stages.{index}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*parts)

        self.global_pool = SelectAdaptivePool2d(pool_type="avg")
        self.head_conv = ConvNorm(stages[-1].width, architecture.head_width)
        self.head_act = activation(stages[-1].activation)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._classifier()
        self.head_dist = self._classifier() if distillation else None
        self.head_teacher: nn.Module | None = None
        self.labels_reach_body = True
        self.apply(_init_weights)

    def _classifier(self) -> nn.Module:
        return nn.Conv2d(self.head_hidden_size, self.num_classes, 1) if self.num_classes else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {name for name, _ in self.named_parameters() if name.endswith("layer_scale")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning-rate decay, as timm has them."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else [(r"^stages\.(\d+)\.blocks\.(\d+)", None)]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            cast(NetworkStage, stage).grad_checkpointing = enable

    def set_distilled_training(self, enable: bool = True) -> None:
        """In training, return (logits, distillation logits) rather than their mean."""
        self.distilled_training = enable

    def set_teacher_classes(self, classes: int | None, *, labels_reach_body: bool = True) -> None:
        """Have a classifier of a teacher's classes, which distilled training alone uses, or drop it again.

        Args:
            classes: of the teacher; None for no such classifier.
            labels_reach_body: whether the gradient of the labels' logits goes on to what is before the classifiers.
        """
        self.labels_reach_body = labels_reach_body
        self.head_teacher = None if classes is None else nn.Conv2d(self.head_hidden_size, classes, 1)
        if self.head_teacher is not None:
            self.head_teacher.to(self.head_conv.conv.weight).apply(_init_weights)

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The classifier, or both."""
        return self.head if self.head_dist is None else (self.head, self.head_dist)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New classifiers for `num_classes`; 0 leaves none."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
        like = self.head_conv.conv.weight
        self.head = self._classifier().to(like)
        if self.head_dist is not None:
            self.head_dist = self._classifier().to(like)
        for part in (self.head, self.head_dist):
            if part is not None:
                part.apply(_init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """Last stage's map, (B, num_features, R / 32, R / 32)."""
        return cast(Tensor, self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of a last-stage map, or with `pre_logits` the (B, head_width) features before the classifiers."""
        x = self.head_drop(self.head_act(self.head_conv(self.global_pool(x))))
        if pre_logits or not self.num_classes:
            return self._flat(x)
        if self.head_teacher is not None and self.training and self.distilled_training:
            logits = self.head(x if self.labels_reach_body else x.detach())
            return self._flat(logits), self._flat(self.head_teacher(x))
        logits = self.head(x)
        if self.head_dist is None:
            return self._flat(logits)
        distilled = self.head_dist(x)
        if self.training and self.distilled_training:
            return self._flat(logits), self._flat(distilled)
        return self._flat((logits + distilled) * 0.5)

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.global_pool.pool_type else x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(  # noqa: PLR0917 - timm's signature
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,  # noqa: ARG002 - timm's signature; there is no last norm
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Stage maps chosen by `indices`, with the last map unless `intermediates_only`; as timm models do."""
        if output_fmt != "NCHW":
            raise ValueError(f"`output_fmt` must be 'NCHW', got {output_fmt!r}.")
        take, last = feature_take_indices(STAGES, indices)
        x = self.stem(x)
        maps = []
        for index, stage in enumerate(self.stages):
            if stop_early and index > last:
                break
            x = stage(x)
            if index in take:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,  # noqa: ARG002 - timm's signature
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages after the last one of `indices`, and the classifiers."""
        take, last = feature_take_indices(STAGES, indices)
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return cast(list[int], take)


def build(architecture: Architecture, num_classes: int = 1000, **options: Any) -> MobileViG:
    """A MobileViG of this architecture with fresh weights; `options` as in `MobileViG`."""
    return MobileViG(architecture, num_classes, **options)


class Unfilled(TorchFunctionMode):
    """Networks built inside it keep their tensors as they come: filling them costs as much as a forward pass.

    Args:
        device: where fresh tensors are put, `meta` for none of their own; None for the default device.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._made = {} if device is None else {"device": device}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name, options = getattr(func, "__name__", ""), kwargs or {}
        if name in _FILLING:
            return args[0] if args else options["tensor"]
        if name in _MAKING:
            options = {**self._made, **options}
        return func(*args, **options)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
