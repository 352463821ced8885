"""The published iPhone measurements shipped in `predictors/published`, as rows a predictor can be fitted to."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvig_nas.errors import MvigNasError
from mvig_nas.latency.features import FloatArray, network_features
from mvig_nas.latency.kernel_archive import load_kernels

BoolArray = NDArray[np.bool_]
DEVICES = ("iphone-12", "iphone-12-pro", "iphone-12-pro-max", "iphone-13", "iphone-13-mini", "iphone-14")


@dataclass(frozen=True)
class Measurements:
    """n published latencies; `networks` names kernel lists of `kernels.npz`."""

    networks: tuple[str, ...]
    families: tuple[str, ...]
    groups: tuple[str, ...]  # laboratory@device
    latencies_ms: FloatArray
    weights: FloatArray
    features: FloatArray  # (n, len(FEATURES))

    def where(self, mask: BoolArray) -> "Measurements":
        """The rows for which `mask`, shape (n,), is true."""
        places = np.flatnonzero(mask)
        return Measurements(
            networks=tuple(self.networks[place] for place in places),
            families=tuple(self.families[place] for place in places),
            groups=tuple(self.groups[place] for place in places),
            latencies_ms=self.latencies_ms[places],
            weights=self.weights[places],
            features=self.features[places],
        )


def read_published(folder: str | Path) -> Measurements:
    """Rows of `measurements.csv` with the features of their networks from `kernels.npz`.

    Raises:
        MvigNasError: a file is missing, or a row names a network that has no kernels.
    """
    folder = Path(folder)
    try:
        with (folder / "measurements.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        kernels = load_kernels(folder / "kernels.npz")
    except OSError as error:
        raise MvigNasError(f"{folder} must hold measurements.csv and kernels.npz: {error}; restore them") from error
    unknown = sorted({row["network"] for row in rows} - set(kernels))
    if unknown:
        raise MvigNasError(f"each network of measurements.csv must be in kernels.npz, {unknown[0]!r} is not; trace it")
    names = sorted({row["network"] for row in rows})
    features = dict(zip(names, network_features([kernels[name] for name in names]), strict=True))
    return Measurements(
        networks=tuple(row["network"] for row in rows),
        families=tuple(row["family"] for row in rows),
        groups=tuple(f"{row['reported_by']}@{row['device']}" for row in rows),
        latencies_ms=np.array([float(row["latency_ms"]) for row in rows]),
        weights=np.array([float(row["weight"]) for row in rows]),
        features=np.array([features[row["network"]] for row in rows]),
    )
