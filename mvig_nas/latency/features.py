"""Features of a kernel list for latency models, and whether a network lies within those that were measured.

Features are sums over kernels, so blocks can be added up. Each kernel is put in one class by what the Neural Engine
does with it; a class gives a count (a dispatch), its MACs, its bytes. Nothing here knows a network by name. Outside of
what was measured, a prediction is a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from mvig_nas.kernels import Kernel

FloatArray = NDArray[np.float64]

_CONVS = frozenset({"conv", "conv_transpose", "linear", "matmul"})
_FREE_ACTIVATIONS = frozenset({"relu", "relu6", "clip", "leaky_relu"})
_CHEAP_ACTIVATIONS = frozenset(
    {
        "gelu",
        "sigmoid",
        "sigmoid_hard",
        "tanh",
        "erf",
        "exp",
        "log",
        "pow",
        "sqrt",
        "rsqrt",
        "abs",
        "sign",
        "sin",
        "cos",
    }
)
_MOVES = frozenset({"slice_by_index", "concat", "pad", "gather", "split", "stack", "tile", "gather_along_axis"})
_VIEWS = frozenset({"reshape", "expand_dims", "squeeze"})
_NORMS = frozenset({"layer_norm", "group_norm", "instance_norm", "rms_norm"})
_ARITHMETIC = frozenset({"add", "sub", "mul", "real_div", "maximum", "minimum"})

FEATURES: tuple[str, ...] = (
    "count_conv", "count_depthwise", "count_linear", "count_matmul", "count_activation",
    "count_gated_activation", "count_add", "count_multiply", "count_affine", "count_broadcast", "count_image_move",
    "count_move", "count_reshape", "count_transpose", "count_norm", "count_softmax", "count_reduce", "count_pool",
    "count_resize", "count_other",
    "gmacs_pointwise", "gmacs_dense", "gmacs_grouped", "gmacs_depthwise", "gmacs_matmul",
    "ms_compute",
    "mb_weights", "mb_conv", "mb_depthwise", "mb_linear", "mb_matmul", "mb_spilled",
    "mb_activation", "mb_gated_activation", "mb_arithmetic", "mb_broadcast", "mb_image_move", "mb_move",
    "mb_reshape", "mb_transpose", "mb_norm", "mb_softmax", "mb_reduce", "mb_pool", "mb_resize", "mb_other",
)  # fmt: skip
# What one unit of each feature costs, in milliseconds, before any measurement is seen: the centre of the prior that
# keeps a fit sane where networks are few. Counts are dispatches, `mb` megabytes moved, `gmacs` 1e9 MACs.
PRIOR_MS: dict[str, float] = {
    "count_conv": 0.003, "count_depthwise": 0.004, "count_linear": 0.005, "count_matmul": 0.01,
    "count_activation": 0.003, "count_gated_activation": 0.01, "count_add": 0.003, "count_multiply": 0.003,
    "count_affine": 0.002, "count_broadcast": 0.006, "count_image_move": 0.003, "count_move": 0.01,
    "count_reshape": 0.01, "count_transpose": 0.02, "count_norm": 0.02, "count_softmax": 0.015, "count_reduce": 0.005,
    "count_pool": 0.005, "count_resize": 0.02, "count_other": 0.05,
    "gmacs_pointwise": 0.25, "gmacs_dense": 0.2, "gmacs_grouped": 0.4, "gmacs_depthwise": 1.0,
    "gmacs_matmul": 0.5, "ms_compute": 0.3,
    "mb_weights": 0.02, "mb_conv": 0.01, "mb_depthwise": 0.01, "mb_linear": 0.02, "mb_matmul": 0.03, "mb_spilled": 0.01,
    "mb_activation": 0.01, "mb_gated_activation": 0.03, "mb_arithmetic": 0.02, "mb_broadcast": 0.03,
    "mb_image_move": 0.01, "mb_move": 0.03, "mb_reshape": 0.03, "mb_transpose": 0.06, "mb_norm": 0.05,
    "mb_softmax": 0.05, "mb_reduce": 0.02, "mb_pool": 0.02, "mb_resize": 0.03, "mb_other": 0.1,
}  # fmt: skip
FIXED_MS = 0.4  # of every network: starting the Neural Engine and handing over the image and the answer

# The residual model sees a network by how its milliseconds divide among these.
SHARES: tuple[tuple[str, ...], ...] = (
    ("count_conv",),
    ("count_depthwise",),
    ("gmacs_pointwise",),
    ("ms_compute",),
    ("gmacs_dense",),
    ("gmacs_grouped",),
    ("mb_conv",),
    ("mb_spilled",),
    ("mb_depthwise", "gmacs_depthwise"),
    ("mb_weights",),
    ("count_activation", "mb_activation"),
    ("count_gated_activation", "mb_gated_activation"),
    ("count_add", "mb_arithmetic", "count_multiply", "count_affine"),
    ("count_linear", "mb_linear"),
    ("count_image_move", "mb_image_move"),
    ("count_broadcast", "mb_broadcast"),
    ("count_move", "mb_move"),
    ("count_reshape", "mb_reshape", "count_transpose", "mb_transpose"),
    ("count_norm", "mb_norm"),
    ("count_softmax", "mb_softmax"),
    ("count_matmul", "mb_matmul", "gmacs_matmul"),
    ("count_reduce", "mb_reduce", "count_pool", "mb_pool"),
)
_INDEX = {name: index for index, name in enumerate(FEATURES)}
_ON_CHIP_MB = 1.0  # a kernel that touches more than this spills to DRAM
# A convolution takes the longer of streaming its weights and multiplying; `ms_compute` is what multiplying takes beyond
# the stream, at the peak of an A14 (11 TOPS), with channels in lots of 32.
_PEAK_MS_PER_GMAC = 0.16
_STREAM_MS_PER_MB = 0.024
_CHANNEL_LOT = 32
_SIZE_MARGIN = np.log(1.25)
_SHARE_MARGIN = 0.1  # of the predicted time
_SEEN_SHARE = 1e-3
_MATERIAL_SHARE = 0.02
_NOVEL = 0.97  # of the variance of what costs leave over
# Attention as far as published networks had it: beyond, the Neural Engine may hand the network to another processor,
# and a latency is then several times what its costs say: an EfficientViT took 7.8 ms at 512 pixels where 1.7 were
# predicted.
MOST_TOKENS = 4096  # of RecNeXt at 512 pixels; beyond it is one published network, PVTv2 at 512
MOST_WINDOWS = 4  # side by side along the first axis, of MobileViT at 256 pixels
_OTHER = FEATURES.index("count_other")
# Priced like what resembles them; no published network holds them, and their share of the time says little: whether the
# Neural Engine runs DAGC's masks at all is not known.
UNMEASURED = frozenset({"sign"})
_NAMES = ("the fixed cost", *(" and ".join(name.partition("_")[2] for name in names[:1]) for names in SHARES))
_SHARE_COLUMNS = [[1 + FEATURES.index(name) for name in names] for names in SHARES]


def kernel_features(kernels: Sequence[Kernel]) -> FloatArray:
    """One row of `FEATURES` for each kernel; their sum is the network's. Shape (len(kernels), len(FEATURES))."""
    rows = np.zeros((len(kernels), len(FEATURES)))
    for row, kernel in enumerate(kernels):
        source = kernel.inputs[0] if kernel.inputs else -1
        before = kernels[source] if source >= 0 else None
        # The ML program's three operations for hard-swish are one activation, which its first one stands for.
        if before is not None and before.kind == "thresholded_relu" and kernel.kind in ("sigmoid_hard", "mul"):
            continue
        for name, amount in _amounts(kernel, None if before is None else before.shape):
            rows[row, _INDEX[name]] += amount
    return rows


def _amounts(kernel: Kernel, before: tuple[int, ...] | None) -> list[tuple[str, float]]:
    megabytes = (kernel.bytes_in + kernel.bytes_out) / 1e6
    amounts = [("mb_weights", kernel.bytes_weights / 1e6), ("mb_spilled", max(0.0, megabytes - _ON_CHIP_MB))]
    if kernel.kind in _CONVS:
        return amounts + _products(kernel, megabytes)
    if kernel.kind in _FREE_ACTIVATIONS:
        return []
    if kernel.kind in _ARITHMETIC:
        return amounts + _arithmetic(kernel, megabytes)
    if kernel.kind == "batch_norm":
        return [*amounts, ("count_affine", 1), ("mb_arithmetic", megabytes)]
    family = _family(kernel.kind)
    if family == "move" and len(kernel.shape) == 4 and before is not None and len(before) == 4:
        family = "image_move"
    return [*amounts, (f"count_{family}", 1), (f"mb_{family}", megabytes)]


def _family(kind: str) -> str:
    for family, kinds in _FAMILIES.items():
        if kind in kinds:
            return family
    if kind.startswith("reduce_"):
        return "reduce"
    return "resize" if kind.startswith(("upsample", "pixel_")) else "other"


_FAMILIES: dict[str, frozenset[str]] = {
    "activation": _CHEAP_ACTIVATIONS,
    "gated_activation": frozenset({"silu", "thresholded_relu", "mish", "elu", "prelu", "softplus"}),
    "move": _MOVES,
    "reshape": _VIEWS,
    "transpose": frozenset({"transpose"}),
    "norm": _NORMS,
    "softmax": frozenset({"softmax"}),
    "pool": frozenset({"avg_pool", "max_pool"}),
}


def _arithmetic(kernel: Kernel, megabytes: float) -> list[tuple[str, float]]:
    is_broadcast = len(kernel.inputs) == 2 and kernel.bytes_in < 2 * kernel.bytes_out
    if is_broadcast:
        return [("count_broadcast", 1), ("mb_broadcast", megabytes)]
    count = "count_add" if kernel.kind in ("add", "sub") else "count_multiply"
    return [(count, 1), ("mb_arithmetic", megabytes)]


def _products(kernel: Kernel, megabytes: float) -> list[tuple[str, float]]:
    gmacs = kernel.macs / 1e9
    if kernel.kind == "matmul":
        return [("count_matmul", 1), ("gmacs_matmul", gmacs), ("mb_matmul", megabytes)]
    area = kernel.kernel_size[0] * kernel.kernel_size[1]
    inputs_per_group = max(1, round(kernel.macs / (prod(kernel.shape) * area)))
    if kernel.groups > 1 and inputs_per_group == 1:
        return [("count_depthwise", 1), ("gmacs_depthwise", gmacs), ("mb_depthwise", megabytes)]
    outputs = kernel.shape[-1] if kernel.kind == "linear" else kernel.shape[1]
    lots = _whole_lots(inputs_per_group) * _whole_lots(outputs / kernel.groups)
    compute_ms = max(0.0, gmacs * lots * _PEAK_MS_PER_GMAC - kernel.bytes_weights / 1e6 * _STREAM_MS_PER_MB)
    form = "grouped" if kernel.groups > 1 else "pointwise" if area == 1 else "dense"
    layer = "linear" if kernel.kind == "linear" else "conv"
    return [(f"count_{layer}", 1), (f"gmacs_{form}", gmacs), ("ms_compute", compute_ms), (f"mb_{layer}", megabytes)]


def _whole_lots(channels: float) -> float:
    return ceil(channels / _CHANNEL_LOT) * _CHANNEL_LOT / channels


def network_features(networks: Sequence[Sequence[Kernel]]) -> FloatArray:
    """Summed kernel features of each network, shape (n, len(FEATURES))."""
    rows = [kernel_features(network).sum(axis=0) for network in networks]
    return np.array(rows).reshape(len(rows), len(FEATURES))


def with_fixed(features: FloatArray) -> FloatArray:
    """Summed features (n, F) behind a one for the fixed cost, shape (n, 1 + F)."""
    return np.concatenate([np.ones((len(features), 1)), features], axis=1)


def size_and_shares(parts_ms: FloatArray) -> FloatArray:
    """How the models see a network whose parts cost so many milliseconds, (n, 1 + F), the fixed cost first.

    Returns:
        The logarithm of the whole, then the square roots of the shares of the fixed cost and of each class of
        `SHARES`, whose distance is Hellinger's. Shape (n, 2 + len(SHARES)).
    """
    total = parts_ms.sum(axis=1)
    shares = [parts_ms[:, 0] / total, *(parts_ms[:, own].sum(axis=1) / total for own in _SHARE_COLUMNS)]
    return np.stack([np.log(total), *(np.sqrt(share) for share in shares)], axis=1)


@dataclass(frozen=True)
class Support:
    """What the measured networks were like, as a model sees them: log ms, then square roots of shares of it, (n, z).

    `kinds` are those of their kernels, None where that was not kept.
    """

    inputs: FloatArray
    kinds: frozenset[str] | None


def reasons(support: Support, inputs: FloatArray, novelty: float, kinds: dict[str, float]) -> dict[str, str]:
    """Why a network of `inputs` (z,) lies outside, none where it does not.

    `kinds` holds the share of the time of each kind of kernel. Reasons have a name, so that what one support lacks
    another can be asked for.
    """
    found: dict[str, str] = {}
    sizes = support.inputs[:, 0]
    for name, beyond, end in (
        ("small", sizes.min() - inputs[0], sizes.min()),
        ("large", inputs[0] - sizes.max(), sizes.max()),
    ):
        if beyond > _SIZE_MARGIN:
            word = "below the fastest" if name == "small" else "beyond the slowest"
            found[name] = f"{np.exp(inputs[0]):.3g} ms by its costs, {word} measured, {np.exp(end):.3g} ms"
    shares, most = inputs[1:] ** 2, (support.inputs[:, 1:] ** 2).max(axis=0)
    for name, share, seen in zip(_NAMES, shares.tolist(), most.tolist(), strict=True):
        if seen < _SEEN_SHARE and share > _MATERIAL_SHARE:
            found[f"share {name}"] = f"{share:.0%} of its time is {name}, which no measured network had"
        elif share > seen + _SHARE_MARGIN:
            found[f"share {name}"] = f"{share:.0%} of its time is {name}, at most {seen:.0%} measured"
    for kind, share in kinds.items():
        least = 0.0 if kind in UNMEASURED else _MATERIAL_SHARE
        if support.kinds is not None and kind not in support.kinds and share > least:
            found[f"kind {kind}"] = f"{share:.0%} of its time is {kind}, a kind that no measured network had"
    if novelty > _NOVEL:
        found["novel"] = "it resembles no measured network"
    return found


def kind_shares(network: Sequence[Kernel], costs_ms: FloatArray) -> dict[str, float]:
    """Share of the time by kind of kernel, by costs (1 + F)."""
    parts = kernel_features(network) @ costs_ms[1:]
    total = float(parts.sum() + costs_ms[0])
    shares: dict[str, float] = {}
    for kernel, part in zip(network, parts.tolist(), strict=True):
        shares[kernel.kind] = shares.get(kernel.kind, 0.0) + part / total
    return shares


def attention_beyond(network: Sequence[Kernel]) -> dict[str, str]:
    """Why the attention of a network is larger than published networks', by name of the reason; none where it is not.

    Attention is a product of two maps that is no convolution, whose axes are pixels or channels, or a softmax of it.
    """
    maps = [kernel.shape for kernel in network if kernel.kind in ("matmul", "softmax")]
    rows = max((max(shape[-2:]) for shape in maps if len(shape) > 2), default=0)
    windows = max((shape[0] for shape in maps if len(shape) > 2), default=0)
    found: dict[str, str] = {}
    if rows > MOST_TOKENS:
        found["attention tokens"] = (
            f"its attention runs over {rows:,} tokens, which may leave the Neural Engine; published networks had "
            f"{MOST_TOKENS:,} at most, but for one"
        )
    if windows > MOST_WINDOWS:
        found["attention windows"] = (
            f"its attention runs in {windows} windows, which may leave the Neural Engine; published networks had "
            f"{MOST_WINDOWS} at most"
        )
    return found


def unpriced(network: Sequence[Kernel]) -> list[str]:
    """Kinds of kernel that have no class of their own, so that no model prices them."""
    rows = kernel_features(network)
    return sorted({kernel.kind for kernel, row in zip(network, rows, strict=True) if row[_OTHER] > 0})
