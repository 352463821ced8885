"""The inference form of a network (`kernels`' `exported`): branches are fused and batch norms folded."""

import copy
from collections import Counter
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from mvig_nas.network.blocks import ConvNorm, GraphBlock, MBConv, Stem
from mvig_nas.network.mobilevig import MobileViG

_TOLERANCE = 1e-3  # of the largest output


@overload
def for_inference(module: MobileViG) -> MobileViG: ...


@overload
def for_inference(module: nn.Module, image: Tensor) -> nn.Module: ...


@torch.no_grad()
def for_inference(module: nn.Module, image: Tensor | None = None) -> nn.Module:
    """A copy in evaluation mode as a converter leaves it: branches fused, batch norms inside the convolutions.

    In a MobileViG, layer scales are folded too, both classifiers become one, their average, and activations are no
    longer recomputed for a backward pass. In any other network, a batch norm that follows no convolution or linear
    layer directly stays. Where folding would change the outputs (a convolution whose output has other readers), the
    batch norms stay, all of them.

    Args:
        module: any network that takes one image tensor.
        image: (1, 3, H, W), finite; runs once through a network that is no MobileViG, to see what follows what.

    Returns:
        The copy; its outputs equal the module's in evaluation mode to rounding.
    """
    if isinstance(module, MobileViG):
        return _folded(module)
    if image is None:
        raise ValueError("a network that is no MobileViG can only be folded with an image to run through it")
    from timm.utils.model import reparameterize_model

    fused: nn.Module = reparameterize_model(copy.deepcopy(module).eval())
    fused.requires_grad_(False)
    candidate = copy.deepcopy(fused)
    before = _outputs(fused, image)
    for conv, norm in _pairs(candidate, image):
        _fold(candidate, conv, norm)
    after = _outputs(candidate, image)
    if float((after - before).abs().max()) <= _TOLERANCE * max(float(before.abs().max()), 1e-30):
        return candidate
    return fused


def _folded(network: MobileViG) -> MobileViG:
    copied = copy.deepcopy(network).eval()
    copied.set_grad_checkpointing(False)
    for module in list(copied.modules()):
        if isinstance(module, (Stem, MBConv, GraphBlock)) or (
            isinstance(module, ConvNorm) and isinstance(module.bn, nn.BatchNorm2d)
        ):
            module.fold()
    if copied.head_dist is not None:
        if copied.num_classes:
            for ours, other in zip(copied.head.parameters(), copied.head_dist.parameters(), strict=True):
                ours.copy_((ours.double() + other.double()) / 2)
        copied.head_dist = None
    return copied


def _outputs(module: nn.Module, image: Tensor) -> Tensor:
    output = module(image)
    leaves = output if isinstance(output, list | tuple) else [output]
    return torch.cat([leaf.flatten() for leaf in leaves])


def _pairs(module: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """Names of a convolution (or linear layer) and the batch norm that takes its output, where each runs once."""
    names = [name for name, _ in module.named_modules(remove_duplicate=False)]
    aliases = Counter(id(module.get_submodule(name)) for name in names)
    calls: Counter[str] = Counter()
    producers: dict[int, str] = {}
    outputs: list[Tensor] = []  # kept, so that no other tensor takes the id of one
    pairs: list[tuple[str, str]] = []
    hooks = []
    for name, part in module.named_modules():
        if aliases[id(part)] > 1:
            continue
        if type(part) in (nn.Conv2d, nn.Linear):

            def after(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                calls[name] += 1
                outputs.append(output)
                producers[id(output)] = name

            hooks.append(part.register_forward_hook(after))
        elif isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) and part.running_mean is not None:

            def before(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                calls[name] += 1
                if id(inputs[0]) in producers:
                    pairs.append((producers[id(inputs[0])], name))

            hooks.append(part.register_forward_pre_hook(before))
    try:
        module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]


def _fold(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv = cast(nn.Conv2d | nn.Linear, module.get_submodule(conv_name))
    norm = cast(nn.BatchNorm2d, module.get_submodule(norm_name))
    fuse = fuse_conv_bn_weights if isinstance(conv, nn.Conv2d) else fuse_linear_bn_weights
    conv.weight, conv.bias = cast(Any, fuse)(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    parent, _, last = norm_name.rpartition(".")
    # timm's batch norms hold the activation that follows them
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    setattr(module.get_submodule(parent), last, nn.Sequential(*rest) if rest else nn.Identity())
