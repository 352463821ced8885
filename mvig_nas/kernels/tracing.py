"""Kernels of any `nn.Module`, read off one forward pass of a copy that holds no weights.

The pass runs on fake tensors, so nothing is allocated and nothing computed. Its aten operations are lowered to what
Core ML runs (the names of MIL operations): what depends on constants alone is a constant; batch norm, per-channel scale
and bias go into the convolution before them; views that change nothing vanish.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels.aten import Composites, Recorder
from mvig_nas.kernels.fused_graph import Node, emit
from mvig_nas.kernels.kernel import Kernel


def trace(module: nn.Module, input_shape: Sequence[int]) -> tuple[Kernel, ...]:
    """The kernels that Core ML runs for `module` at inference on one image, in order.

    Reparameterisable networks (MobileOne, RepViT, FastViT, ...) are fused first, in a copy: `parameters` then count the
    fused network's, while `module` keeps its weights, its branches and its training flag. One that was fused before is
    taken as it is. A module on the meta device will do. An operation without a rule becomes a kernel with its aten
    name, such as `aten.cumsum`.

    `split` and `chunk` become one `slice_by_index` for each piece in use; `torch.roll` becomes `gather`, as in
    coremltools; attention becomes `mul, matmul, softmax, matmul`.

    Args:
        module: any network that takes one image tensor.
        input_shape: (3, H, W) or (1, 3, H, W).

    Raises:
        MvigNasError: `input_shape` is not one image's, or the network cannot run at that size, as one whose positions
            are learned for another.
    """
    shape = tuple(int(size) for size in input_shape)
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
        raise MvigNasError(f"input_shape must be (1, 3, H, W) with batch 1, got {tuple(input_shape)}; give one image")
    with torch.no_grad():
        with torch.device("meta"):  # fusing branches sets weights one by one, which is slow on fake tensors
            fused = _reparameterised(_twin(module, "meta").eval()).eval()
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
            twin = _twin(fused, "cpu")
            image = torch.empty(shape)
            recorder = Recorder(twin)
            source = recorder.add_input(image)
            with recorder, Composites(recorder):
                output = _run(twin, image)
    results = [recorder.value_of(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return emit([value for value in results if isinstance(value, Node)], source, recorder.sizes)


def _run(network: nn.Module, image: Tensor) -> Any:
    try:
        return network(image)
    except (RuntimeError, AssertionError, ValueError) as error:  # what torch and timm raise where sizes do not fit
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        height, width = image.shape[2:]
        raise MvigNasError(
            f"the network must run at {height} x {width} px, got: {first}; give the size that it was built for, or "
            "build it for this one"
        ) from error


def _twin(module: nn.Module, device: str) -> nn.Module:
    """A deep copy whose tensors are new and empty: without storage on `meta`, or in a fake mode."""
    memo: dict[int, Any] = {}
    for submodule in module.modules():
        for tensor in _tensors_of(submodule):
            if id(tensor) not in memo:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(module, memo)


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    yield from (parameter for parameter in module.parameters(recurse=False))
    yield from (buffer for buffer in module.buffers(recurse=False))
    for value in vars(module).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))
        elif isinstance(value, dict):
            yield from (item for item in value.values() if isinstance(item, Tensor))


def _reparameterised(module: nn.Module) -> nn.Module:
    from timm.utils.model import reparameterize_model

    for part in module.modules():
        if getattr(part, "reparam_conv", None) is not None:  # fused before: some of timm's fail a second time
            setattr(part, "reparameterize", lambda: None)  # noqa: B010 - no method of nn.Module
    fused: nn.Module = reparameterize_model(module, inplace=True)
    return fused
