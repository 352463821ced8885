"""Measured latencies as rows: which network, by whom, on which device, in how many milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mvig_nas.errors import MvigNasError
from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import FloatArray, network_features

# Phones of one chip share their physics; a device that is not here is its own chip.
CHIPS: dict[str, str] = {
    "iphone-12": "A14", "iphone-12-mini": "A14", "iphone-12-pro": "A14", "iphone-12-pro-max": "A14",
    "iphone-13": "A15", "iphone-13-mini": "A15", "iphone-13-pro": "A15", "iphone-13-pro-max": "A15",
    "iphone-14": "A15", "iphone-14-plus": "A15", "iphone-se-3": "A15",
    "iphone-14-pro": "A16", "iphone-14-pro-max": "A16", "iphone-15": "A16", "iphone-15-plus": "A16",
    "iphone-15-pro": "A17 Pro", "iphone-15-pro-max": "A17 Pro",
    "iphone-16": "A18", "iphone-16-plus": "A18", "iphone-16-pro": "A18 Pro", "iphone-16-pro-max": "A18 Pro",
    "iphone-17": "A19", "iphone-17-pro": "A19 Pro", "iphone-17-pro-max": "A19 Pro",
}  # fmt: skip
LABELS = ("chips", "devices", "groups", "families", "networks")


def device_of(group: str) -> str:
    """The device of a group: `iphone-13` of `laboratory@iphone-13`."""
    laboratory, separator, device = group.rpartition("@")
    if not (laboratory and separator and device):
        raise MvigNasError(f"a group must be laboratory@device, got {group!r}; for example me@iphone-13")
    return device


def chip_of(device: str) -> str:
    """The chip of a known phone; any other device is its own chip."""
    return CHIPS.get(device, device)


@dataclass(frozen=True)
class Rows:
    """n measured latencies. Rows of one network share its name, and relatives share a family."""

    networks: tuple[str, ...]
    families: tuple[str, ...]
    groups: tuple[str, ...]  # laboratory@device
    latencies_ms: FloatArray
    weights: FloatArray  # (n,), 1 for a plain measurement
    features: FloatArray  # (n, len(FEATURES)), summed over the kernels of a network
    kernels: tuple[Sequence[Kernel], ...] = ()  # n lists, or none where they were not kept

    @classmethod
    def of_one_device(
        cls,
        kernels: Sequence[Sequence[Kernel]],
        latencies_ms: FloatArray,
        networks: Sequence[str],
        families: Sequence[str],
        group: str,
    ) -> Self:
        """Plain measurements of one group, with the kernels of their networks."""
        count = len(kernels)
        return cls(
            tuple(networks), tuple(families), (group,) * count, latencies_ms, np.ones(count),
            network_features(kernels), tuple(kernels),
        )  # fmt: skip

    @property
    def log_ms(self) -> FloatArray:
        """Logarithms of the milliseconds, shape (n,)."""
        return np.log(self.latencies_ms)

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each row."""
        return tuple(device_of(group) for group in self.groups)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """What rows may have in common, n labels of each sort of `LABELS`."""
        devices = self.devices
        chips = tuple(chip_of(device) for device in devices)
        return dict(zip(LABELS, (chips, devices, self.groups, self.families, self.networks), strict=True))

    @property
    def group(self) -> str:
        """Who measured on what, where all rows are of one group."""
        return self.groups[0]

    def pick(self, positions: Sequence[int] | NDArray[np.int64]) -> Self:
        """The rows at these positions, in their order."""
        rows = list(positions)
        return type(self)(
            networks=tuple(self.networks[row] for row in rows),
            families=tuple(self.families[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
            latencies_ms=self.latencies_ms[rows],
            weights=self.weights[rows],
            features=self.features[rows],
            kernels=tuple(self.kernels[row] for row in rows) if self.kernels else (),
        )

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """The rows for which `mask`, shape (n,), is true."""
        return self.pick(np.flatnonzero(mask))


def checked_rows(
    features: FloatArray,
    latencies_ms: Sequence[float] | FloatArray,
    *,
    groups: Sequence[str] | None,
    weights: Sequence[float] | FloatArray | None,
    families: Sequence[str] | None,
    device: str,
) -> Rows:
    """Rows to fit several laboratories with, in an order of their own, so that the order they came in leaves no trace.

    Raises:
        MvigNasError: lengths differ, a latency or weight is not positive, a group is not `laboratory@device`, or no
            row is of the chip of `device`.
    """
    count = len(features)
    latencies = np.asarray(latencies_ms, dtype=np.float64)
    trusts = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    names = [_name(row) for row in features]
    group_names = [f"one@{device}"] * count if groups is None else list(groups)
    family_names = names if families is None else list(families)
    given: dict[str, Any] = {
        "latencies_ms": latencies, "weights": trusts, "groups": group_names, "families": family_names,
    }  # fmt: skip
    for what, values in given.items():
        if len(values) != count:
            raise MvigNasError(f"`{what}` must have one entry a network, got {len(values)} for {count} networks")
    if count < 2:
        raise MvigNasError(f"fit needs at least 2 measured networks, got {count}; measure more")
    for what, numbers in (("latencies_ms", latencies), ("weights", trusts)):
        check_positive(what, numbers)
    devices = {device_of(group) for group in group_names}
    if chip_of(device) not in {chip_of(name) for name in devices}:
        raise MvigNasError(
            f"some measurement must be of {device!r} or of a phone with its chip, got only "
            f"{', '.join(sorted(devices))}; name one of them as device"
        )
    order = sorted(range(count), key=lambda row: (names[row], group_names[row], latencies[row], trusts[row]))
    amounts = np.asarray(features, dtype=np.float64)
    rows = Rows(tuple(names), tuple(family_names), tuple(group_names), latencies, trusts, amounts)
    return rows.pick(order)


def check_positive(what: str, numbers: FloatArray) -> None:
    """Refuse numbers that are not positive and finite."""
    bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
    if bad.size:
        raise MvigNasError(f"`{what}` must be positive and finite, got {bad[0]}; drop the row")


def _name(row: FloatArray) -> str:
    """Equal networks have equal features, and nothing else tells them apart here."""
    return sha256(np.round(row, 9).tobytes()).hexdigest()[:16]
