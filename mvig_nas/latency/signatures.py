"""Kernels that are alike to the last number: what a device does with one of them it does wherever it comes again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import FEATURES, FloatArray, kernel_features

_MOST = 1000  # signatures of one fit; the cheapest beyond them have no departure of their own


def signature(kernel: Kernel) -> str:
    """What two kernels must have in common to be one: kind, shape, window, stride, groups and MACs."""
    numbers = (*kernel.shape, "w", *kernel.kernel_size, "s", *kernel.stride, "g", kernel.groups, "m", kernel.macs)
    return " ".join((kernel.kind, *map(str, numbers)))


@dataclass(frozen=True)
class Signatures:
    """S signatures of measured networks, and the features (S, F) of one kernel of each."""

    names: tuple[str, ...]
    features: FloatArray

    _column: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_column", {name: column for column, name in enumerate(self.names)})

    @classmethod
    def none(cls) -> Self:
        """No signature: of a fit that keeps none."""
        return cls((), np.zeros((0, len(FEATURES))))

    @classmethod
    def of(cls, networks: Sequence[Sequence[Kernel]], costs_ms: FloatArray) -> Self:
        """Those of the networks, the ones that take most of their time by `costs_ms` (1 + F) where they are many."""
        features: dict[str, FloatArray] = {}
        times: dict[str, float] = {}
        for network in networks:
            for kernel, row in zip(network, kernel_features(network), strict=True):
                name = signature(kernel)
                features.setdefault(name, row)
                times[name] = times.get(name, 0.0) + float(row @ costs_ms[1:])
        names = sorted(sorted(times, key=lambda name: (-times[name], name))[:_MOST])
        return cls(tuple(names), np.array([features[name] for name in names]).reshape(len(names), len(FEATURES)))

    def rows(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Features of each kernel, then a one in the column of its signature. Shape (len(kernels), F + S)."""
        features = kernel_features(kernels)
        counts = np.zeros((len(kernels), len(self.names)))
        for row, kernel in enumerate(kernels):
            column = self._column.get(signature(kernel))
            if column is not None:
                counts[row, column] = 1.0
        return np.concatenate([features, counts], axis=1)

    def network_rows(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Summed features of each network, then how often each signature comes. Shape (n, F + S)."""
        width = len(FEATURES) + len(self.names)
        return np.array([self.rows(network).sum(axis=0) for network in networks]).reshape(len(networks), width)
