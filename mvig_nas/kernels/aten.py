"""Recording a forward pass as aten operations, and lowering each to the MIL operations coremltools makes of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvig_nas.kernels.fused_graph import Constant, Node, Shape, Value


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Turns each aten call into a node, and remembers which node made which tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Node] = []
        self.sizes = {id(parameter): parameter.numel() for parameter in module.parameters()}
        self._values: dict[int, Value] = {}
        self._alive: list[Any] = [module]  # an id names a tensor only while that tensor lives
        self.paused = False
        for parameter in module.parameters():
            self._values[id(parameter)] = Constant(tuple(parameter.shape), frozenset({id(parameter)}))

    def add_input(self, image: Tensor) -> Node:
        node = Node(-1, "input", tuple(image.shape))
        self.bind(image, node)
        return node

    def bind(self, tensor: Tensor, value: Value) -> None:
        self._values[id(tensor)] = value
        self._alive.append(tensor)

    def value_of(self, tensor: Tensor) -> Value:
        return self._values.get(id(tensor)) or Constant(tuple(tensor.shape))

    def add(self, kind: str, shape: Sequence[int], operands: Sequence[Value], **fields: Any) -> Node:
        node = Node(len(self.nodes), kind, tuple(shape), list(operands), **fields)
        self.nodes.append(node)
        return node

    def record(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Bind the tensors of `result` to a constant, to a view of an operand, or to new nodes."""
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        values = [self.value_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if all(isinstance(value, Constant) for value in values):
            parameters, _ = _weights_of(values)
            for output in outputs:
                self.bind(output, Constant(tuple(output.shape), parameters))
            return
        if not outputs:
            return
        if name in _ALIASES:
            self.bind(outputs[0], values[0])
        elif name in _PIECES:
            for output in outputs:
                self.bind(output, _slice(self, output, values))
        else:
            lower = _LOWERINGS.get(name, _generic)
            node = lower(_Call(self, name, args, kwargs, values, tuple(outputs[0].shape)))
            for output in outputs:
                self.bind(output, node)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.paused:
            name = func.overloadpacket.__name__
            self.record(name if name.startswith("__") else name.rstrip("_"), args, kwargs, result)
        return result


class Composites(TorchFunctionMode):
    """Keeps whole what aten would take apart: linear layers, matrix products and attention."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self.recorder.paused = True
        try:
            yield
        finally:
            self.recorder.paused = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _COMPOSITES.get(func)
        if name is None or self.recorder.paused:
            return func(*args, **kwargs)
        with self._pause():
            result = func(*args, **kwargs)
        if name == "rmatmul":
            name, args = "matmul", (args[1], args[0])
        self.recorder.record(name, args, kwargs, result)
        return result


_COMPOSITES: dict[Any, str] = {
    nn.functional.linear: "linear",
    nn.functional.scaled_dot_product_attention: "scaled_dot_product_attention",
    torch.matmul: "matmul",
    Tensor.matmul: "matmul",
    Tensor.__matmul__: "matmul",
    Tensor.__rmatmul__: "rmatmul",
    torch.bmm: "matmul",
    torch.mm: "matmul",
}


@dataclass(frozen=True)
class _Call:
    """One recorded operation on activations: what a lowering turns into nodes."""

    recorder: Recorder
    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    values: list[Value]  # of the tensor arguments, in order
    shape: Shape  # of the (first) output


_Lowering = Callable[[_Call], Value]

_ALIASES = frozenset(
    {"alias", "clone", "contiguous", "detach", "dropout", "expand", "expand_as", "lift_fresh", "native_dropout"}
    | {"_to_copy", "to", "_reshape_copy", "lift", "view_as_real"}
)
_PIECES = frozenset({"split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "unsafe_split_with_sizes"})

_KINDS = {
    "add": "add", "sub": "sub", "rsub": "sub", "mul": "mul", "div": "real_div", "maximum": "maximum",
    "minimum": "minimum", "relu": "relu", "gelu": "gelu", "silu": "silu", "sigmoid": "sigmoid", "tanh": "tanh",
    "hardsigmoid": "sigmoid_hard", "leaky_relu": "leaky_relu", "elu": "elu",
    "_prelu_kernel": "prelu", "prelu": "prelu", "softplus": "softplus", "mish": "mish", "erf": "erf", "exp": "exp",
    "log": "log", "sqrt": "sqrt", "rsqrt": "rsqrt", "pow": "pow", "abs": "abs", "sign": "sign", "neg": "mul",
    "sin": "sin", "cos": "cos", "clamp": "clip", "clamp_min": "clip", "clamp_max": "clip", "relu6": "relu6",
    "_softmax": "softmax", "softmax": "softmax", "_log_softmax": "log_softmax", "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm", "_fused_rms_norm": "rms_norm", "mean": "reduce_mean", "sum": "reduce_sum",
    "amax": "reduce_max", "amin": "reduce_min", "max": "reduce_max", "linalg_vector_norm": "reduce_l2_norm",
    "norm": "reduce_l2_norm", "cat": "concat", "constant_pad_nd": "pad", "reflection_pad2d": "pad",
    "replication_pad2d": "pad", "roll": "gather", "index": "gather", "index_select": "gather",
    "embedding": "gather", "topk": "topk", "pixel_shuffle": "pixel_shuffle", "pixel_unshuffle": "pixel_unshuffle",
    "upsample_nearest2d": "upsample_nearest_neighbor", "upsample_bilinear2d": "upsample_bilinear",
    "upsample_bicubic2d": "upsample_bicubic", "stack": "stack", "where": "select", "masked_fill": "select",
}  # fmt: skip


def _generic(call: _Call) -> Value:
    kind = _KINDS.get(call.name, f"aten.{call.name}")
    if kind == "pad" and call.shape == call.values[0].shape:
        return call.values[0]
    if kind in ("add", "sub") and len(call.values) == 1 and _is_number(call.args, 0) and call.name != "rsub":
        return call.values[0]
    if kind in ("mul", "real_div") and len(call.values) == 1 and call.name != "neg" and _is_number(call.args, 1):
        return call.values[0]
    parameters = frozenset[int]().union(*(value.parameters for value in call.values if isinstance(value, Constant)))
    weights = sum(prod(value.shape) for value in call.values if isinstance(value, Constant) and prod(value.shape) > 1)
    activations = [value for value in call.values if isinstance(value, Node)]
    if call.name == "rsub":
        activations.reverse()
    is_binary = kind in ("add", "sub", "mul", "real_div")
    operands: list[Value] = list(call.values) if is_binary else list(activations)
    return call.recorder.add(kind, call.shape, operands, weight_elements=weights, parameters=parameters)


def _is_number(args: Sequence[Any], number: float) -> bool:
    return len(args) > 1 and isinstance(args[1], int | float) and args[1] == number


def _slice(recorder: Recorder, output: Tensor, values: list[Value]) -> Value:
    if tuple(output.shape) == values[0].shape:
        return values[0]
    return recorder.add("slice_by_index", tuple(output.shape), values[:1], reads_all=False)


def _sliced(call: _Call) -> Value:
    if call.shape == call.values[0].shape:
        return call.values[0]
    return call.recorder.add("slice_by_index", call.shape, call.values[:1], reads_all=False)


def _reshaped(call: _Call) -> Value:
    if call.shape == call.values[0].shape:
        return call.values[0]
    kind = {"unsqueeze": "expand_dims", "squeeze": "squeeze"}.get(call.name, "reshape")
    return call.recorder.add(kind, call.shape, call.values[:1])


def _transposed(call: _Call) -> Value:
    order = list(range(len(call.shape)))
    if call.name == "permute":
        order = [axis % len(call.shape) for axis in call.args[1]]
    elif len(call.shape) >= 2:
        first, second = (call.args[1], call.args[2]) if call.name == "transpose" else (0, 1)
        order[first], order[second] = order[second], order[first]
    if order == sorted(order):
        return call.values[0]
    return call.recorder.add("transpose", call.shape, call.values[:1], order=tuple(order))


def _convolution(call: _Call) -> Value:
    image, weight = call.values[0], call.values[1]
    bias = call.values[2:3]
    stride = _pair(call.args[3])
    is_transposed = bool(call.args[6])
    groups = int(call.args[8])
    kernel_size = _pair(weight.shape[2:])
    per_output = prod(weight.shape[1:])
    macs = prod(image.shape) * per_output if is_transposed else prod(call.shape) * per_output
    parameters, weights = _weights_of([weight])
    bias_parameters, _ = _weights_of(bias)
    return call.recorder.add(
        "conv_transpose" if is_transposed else "conv",
        call.shape,
        [value for value in (image, weight) if isinstance(value, Node)],
        macs=macs,
        kernel_size=kernel_size,
        stride=stride,
        groups=groups,
        weight_elements=weights,
        has_bias=bool(bias),
        parameters=parameters | bias_parameters,
    )


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    return (1, int(sizes[0])) if len(sizes) == 1 else (int(sizes[-2]), int(sizes[-1]))


def _weights_of(values: Sequence[Value]) -> tuple[frozenset[int], int]:
    constants = [value for value in values if isinstance(value, Constant)]
    parameters = frozenset[int]().union(*(constant.parameters for constant in constants))
    return parameters, sum(prod(constant.shape) for constant in constants)


def _linear(call: _Call) -> Value:
    image, weight, bias = call.values[0], call.values[1], call.values[2:3]
    if not isinstance(weight, Constant):
        return _matmul(call)
    parameters, weights = _weights_of([weight])
    return call.recorder.add(
        "linear",
        call.shape,
        [image],
        macs=prod(call.shape) * image.shape[-1],
        weight_elements=weights,
        has_bias=bool(bias),
        parameters=parameters | _weights_of(bias)[0],
    )


def _addmm(call: _Call) -> Value:
    bias, image, weight = call.values[:3]
    if isinstance(bias, Constant) and isinstance(weight, Constant):
        return _linear(replace(call, values=[image, weight, bias]))
    product = _matmul(replace(call, values=[image, weight]))
    return call.recorder.add("add", call.shape, [product, bias])


def _matmul(call: _Call) -> Value:
    left, right = (_untransposed(value) for value in call.values[:2])
    parameters, weights = _weights_of([left, right])
    is_linear = isinstance(right, Constant) and len(right.shape) == 2
    return call.recorder.add(
        "linear" if is_linear else "matmul",
        call.shape,
        [value for value in (left, right) if isinstance(value, Node)],
        macs=prod(call.shape) * call.values[0].shape[-1],
        weight_elements=weights,
        parameters=parameters,
    )


def _untransposed(value: Value) -> Value:
    """A transpose of the last two axes is an option of the matrix product, not an operation."""
    if isinstance(value, Node) and value.kind == "transpose":
        axes = len(value.shape)
        if value.order == (*range(axes - 2), axes - 1, axes - 2):
            return value.operands[0]
    return value


def _attention(call: _Call) -> Value:
    query, key, value = call.values[:3]
    scaled = call.recorder.add("mul", query.shape, [query])
    scores_shape = (*query.shape[:-1], key.shape[-2])
    scores: Value = call.recorder.add("matmul", scores_shape, [scaled, key], macs=prod(scores_shape) * query.shape[-1])
    mask = call.args[3] if len(call.args) > 3 else call.kwargs.get("attn_mask")
    if mask is not None:
        scores = _generic(_Call(call.recorder, "add", (), {}, [scores, call.values[3]], scores_shape))
    weights = call.recorder.add("softmax", scores_shape, [scores])
    return call.recorder.add("matmul", call.shape, [weights, value], macs=prod(call.shape) * key.shape[-2])


def _batch_norm(call: _Call) -> Value:
    parameters, _ = _weights_of(call.values[1:])
    return call.recorder.add(
        "batch_norm", call.shape, call.values[:1], weight_elements=2 * call.shape[1], parameters=parameters
    )


def _pooled(call: _Call) -> Value:
    kernel_size = _pair(call.args[1])
    stride = _pair(call.args[2]) if len(call.args) > 2 and call.args[2] else kernel_size
    kind = "avg_pool" if call.name.startswith("avg") else "max_pool"
    return call.recorder.add(kind, call.shape, call.values[:1], kernel_size=kernel_size, stride=stride)


def _adaptive_pooled(call: _Call) -> Value:
    kind = "avg" if "avg" in call.name else "max"
    if call.shape == call.values[0].shape:
        return call.values[0]
    if call.shape[-2:] == (1, 1):
        return call.recorder.add("reduce_mean" if kind == "avg" else "reduce_max", call.shape, call.values[:1])
    window = (call.values[0].shape[-2] // call.shape[-2], call.values[0].shape[-1] // call.shape[-1])
    return call.recorder.add(f"{kind}_pool", call.shape, call.values[:1], kernel_size=window, stride=window)


def _gathered(call: _Call) -> Value:
    image, positions = call.values[:2]
    # Broadcast operands cost nothing elsewhere, but indices must be there one by one; their shape is the output's.
    if isinstance(positions, Node) and positions.shape != call.shape:
        positions = call.recorder.add("tile", call.shape, [positions])
    operands = [value for value in (image, positions) if isinstance(value, Node)]
    return call.recorder.add("gather_along_axis", call.shape, operands)


def _hard_swish(call: _Call) -> Value:
    gate = call.recorder.add("thresholded_relu", call.shape, call.values[:1])
    return call.recorder.add("mul", call.shape, [gate, call.recorder.add("sigmoid_hard", call.shape, [gate])])


def _hard_tanh(call: _Call) -> Value:
    bounds = tuple(call.args[1:3])
    return call.recorder.add("relu6" if bounds in ((0, 6), (0.0, 6.0)) else "clip", call.shape, call.values[:1])


_LOWERINGS: dict[str, _Lowering] = {
    **dict.fromkeys(("slice", "select", "narrow"), _sliced),
    **dict.fromkeys(
        ("view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "unsqueeze", "squeeze"), _reshaped
    ),
    **dict.fromkeys(("permute", "transpose", "t"), _transposed),
    **dict.fromkeys(("convolution", "_convolution"), _convolution),
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update"),
        _batch_norm,
    ),
    **dict.fromkeys(("avg_pool2d", "max_pool2d_with_indices", "max_pool2d"), _pooled),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pooled),
    "hardtanh": _hard_tanh,
    "hardswish": _hard_swish,
    "gather": _gathered,
    "copy": lambda call: call.values[1],  # y[...] = x
}
