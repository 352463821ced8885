"""Whether a network is of a kind that was measured: outside of that, a prediction is a guess."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import FEATURES, SHARES, FloatArray, kernel_features

_SIZE_MARGIN = np.log(1.25)
_SHARE_MARGIN = 0.1  # of the predicted time
_SEEN_SHARE = 1e-3
_MATERIAL_SHARE = 0.02
_NOVEL = 0.97  # of the variance of what costs leave over
_OTHER = FEATURES.index("count_other")
# Priced like what resembles them; no published network holds them, and their share of the time says little: whether the
# Neural Engine runs DAGC's masks at all is not known.
UNMEASURED = frozenset({"sign"})
_NAMES = ("the fixed cost", *(" and ".join(name.partition("_")[2] for name in names[:1]) for names in SHARES))


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


def unpriced(network: Sequence[Kernel]) -> list[str]:
    """Kinds of kernel that have no class of their own, so that no model prices them."""
    rows = kernel_features(network)
    return sorted({kernel.kind for kernel, row in zip(network, rows, strict=True) if row[_OTHER] > 0})
