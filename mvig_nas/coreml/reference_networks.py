"""Networks in torch that a saved program is compared with: the same architecture, with the package's own weights."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from mvig_nas.architecture import Architecture
from mvig_nas.coreml.package import SavedProgram
from mvig_nas.network import MobileViG, build, for_inference
from mvig_nas.network.blocks import MaxRelativeConv, activation


def convolutions(network: MobileViG) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Name, weight and bias of a folded network's convolutions in the order in which they run."""
    split: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, MaxRelativeConv) and module.groups > 1:
            own, links = module.conv.weight.chunk(2, dim=1)
            yield f"{name}.conv (own)", own, None
            yield f"{name}.conv (links)", links, module.conv.bias
            split.add(module.conv)
        elif isinstance(module, nn.Conv2d) and module not in split:
            yield name, module.weight, module.bias


def rounded_reference(network: MobileViG) -> MobileViG:
    """The folded network in fp32, its weights rounded to fp16."""
    reference = for_inference(network).to("cpu", torch.float32)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.half())
    return reference


@torch.no_grad()
def reference_with_constants_of(program: SavedProgram, architecture: Architecture, num_classes: int) -> MobileViG:
    """The architecture's folded network in fp64 with the package's weights, in the order in which both use them.

    What then differs from the program is the program's wiring and options, and no rounding.

    Raises:
        MvigNasError: the package's convolutions are not the network's.
    """
    reference = for_inference(build(architecture, num_classes).eval()).double()
    nodes = [node for node in program.nodes if node.type == "conv"]
    wanted = list(convolutions(reference))
    if len(nodes) != len(wanted):
        raise program.differs(f"{len(wanted)} convolutions, as in the network", f"{len(nodes)}")
    for node, (name, weight, bias) in zip(nodes, wanted, strict=True):
        for part, tensor in (("weight", weight), ("bias", bias)):
            stored = program.argument(node, part)
            if tensor is None or stored is None:
                if stored is not None and stored.any():
                    raise program.differs(f"no {part} at `{name}`", f"one up to {np.abs(stored).max():g}")
                if tensor is not None:
                    tensor.zero_()
                continue
            if stored.shape != tuple(tensor.shape):
                raise program.differs(f"a {part} of shape {tuple(tensor.shape)} at `{name}`", f"{stored.shape}")
            tensor.copy_(torch.tensor(stored))
    _round_hard_swish(program, reference)
    return reference


def exact_reference(program: SavedProgram, reference: MobileViG) -> MobileViG:
    """A `rounded_reference` in fp64, with the program's constant of hard-swish."""
    copied = copy.deepcopy(reference).double()
    _round_hard_swish(program, copied)
    return copied


class _HardSwish(nn.Module):
    """Hard-swish with the package's sixth, which is fp16's for iOS 16 and fp32's from iOS 17 on."""

    def __init__(self, sixth: float) -> None:
        super().__init__()
        self.sixth = sixth

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= -3, x, 0) * (x * self.sixth + 0.5).clamp(0, 1)


def _round_hard_swish(program: SavedProgram, reference: MobileViG) -> None:
    node = next((node for node in program.nodes if node.type == "sigmoid_hard"), None)
    stored = None if node is None else program.argument(node, "alpha")
    if stored is None:
        return
    sixth = float(np.float16(1 / 6)) if stored.dtype == np.float16 else float(np.float32(1 / 6))
    kind = type(activation("hard_swish"))
    for parent in list(reference.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kind):
                setattr(parent, name, _HardSwish(sixth))
