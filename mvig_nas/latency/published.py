"""Rows to fit and their networks' kernels: published iPhone measurements that ship, and the logs of one's own devices.

`python -m mvig_nas.latency.published [folder]` makes the shipped predictors again from the shipped rows: it reads
`<folder>/published` and writes `<folder>/<device>` for each device; the default folder is `predictors`. The error
figures come from `<folder>/published/errors.json`, which `benchmarks/latency_published.py` writes.
"""

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mvig_nas import kernels, shipped
from mvig_nas.architecture import FAMILY_PRESETS, Architecture
from mvig_nas.device_log import DeviceLog, Network, TimmNetwork
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import write_whole
from mvig_nas.kernels import Kernel
from mvig_nas.latency.features import network_features
from mvig_nas.latency.latency_predictor import LatencyPredictor
from mvig_nas.latency.rows import Rows, chip_of

DEVICES = ("iphone-12", "iphone-12-pro", "iphone-12-pro-max", "iphone-13", "iphone-13-mini", "iphone-14")
# Phones whose chip is not in the pooled fit, and how many generations after A15 it came.
NEW_CHIPS = {"iphone-14-pro": 1, "iphone-15-pro": 2, "iphone-16-pro": 3, "iphone-17-pro": 4}
_NEWEST = "iphone-13-pro"  # a phone of A15 that no laboratory names, so that no phone's own factor is in the move
KernelList = tuple[Kernel, ...]
_NUMBERS = ("macs", "bytes_in", "bytes_out", "bytes_weights", "parameters", "groups")


@dataclass(frozen=True)
class PublishedLatency:
    """One published measurement, with its source."""

    device: str
    latency_ms: float
    reported_by: str
    source: str


def published_latencies(architecture: Architecture, device: str) -> list[PublishedLatency]:
    """Measurements of this architecture on this device, none where it is no preset."""
    names = [name for name, preset in FAMILY_PRESETS.items() if preset == architecture]
    path = shipped.folder("predictors") / "published" / "measurements.csv"
    if not names or not path.is_file():
        return []
    network = f"{names[0]}@{architecture.resolution}"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == network and row["device"] == device]
    return [
        PublishedLatency(row["device"], float(row["latency_ms"]), row["reported_by"], row["source"]) for row in rows
    ]


def read_published(folder: str | Path, rows_name: str = "measurements", kernels_name: str = "kernels") -> Rows:
    """Rows of `measurements.csv` with the features of their networks from `kernels.npz`, or of files of other names.

    Raises:
        MvigNasError: a file is missing, or a row names a network that has no kernels.
    """
    folder = Path(folder)
    try:
        with (folder / f"{rows_name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        known = load_kernels(folder / f"{kernels_name}.npz")
    except OSError as error:
        raise MvigNasError(
            f"{folder} must hold {rows_name}.csv and {kernels_name}.npz: {error}; restore them"
        ) from error
    unknown = sorted({row["network"] for row in rows} - set(known))
    if unknown:
        raise MvigNasError(
            f"each network of {rows_name}.csv must be in {kernels_name}.npz, {unknown[0]!r} is not; trace it"
        )
    names = sorted({row["network"] for row in rows})
    features = dict(zip(names, network_features([known[name] for name in names]), strict=True))
    return Rows(
        networks=tuple(row["network"] for row in rows),
        families=tuple(row["family"] for row in rows),
        groups=tuple(f"{row['reported_by']}@{row['device']}" for row in rows),
        latencies_ms=np.array([float(row["latency_ms"]) for row in rows]),
        weights=np.array([float(row["weight"]) for row in rows]),
        features=np.array([features[row["network"]] for row in rows]),
    )


def main(folder: Path) -> None:
    """Fit once to all rows, and save a predictor for every device."""
    fitted = LatencyPredictor().fit_rows(read_published(folder / "published"))
    errors_file = folder / "published" / "errors.json"
    errors = json.loads(errors_file.read_text()) if errors_file.exists() else {}
    scales_file = folder / "published" / "interval_scales.json"
    scales = json.loads(scales_file.read_text()) if scales_file.exists() else {}
    for device in DEVICES:
        predictor = fitted.for_device(device)
        predictor.errors_ = errors.get(device, {})
        predictor.interval_scale_ = scales.get(device, 1.0)
        predictor.save(folder / device)
    newest = fitted.for_device(_NEWEST)
    rows = read_published(folder / "published", "new_chips", "new_chips")
    for device, generations in NEW_CHIPS.items():
        own = [row for row, name in enumerate(rows.devices) if chip_of(name) == chip_of(device)]
        newest.moved(device, rows.pick(own), generations).save(folder / device)


def log_networks(log: DeviceLog, cache: Path | None = None) -> list[KernelList]:
    """Kernels of each row's network, in the order of the rows.

    Architectures are taken as `export` writes them. timm models are traced at their resolution, once: the kernels are
    kept in `cache`, by default the user's cache folder.

    Raises:
        MvigNasError: a row names its network by a fingerprint alone, or timm has no such model or cannot run it at that
            resolution. The message names the row's position in its file.
    """
    folder = cache or _default_cache()
    found: dict[str, KernelList] = {}
    lists = []
    for row, position in zip(log.rows, log.places, strict=True):
        if row.network_label not in found:
            try:
                found[row.network_label] = _kernels_of(row.network, folder)
            except MvigNasError as error:
                raise MvigNasError(f"{position or row.network_label}: {error}") from error
        lists.append(found[row.network_label])
    return lists


def families(networks: Sequence[Network]) -> list[str]:
    """A name for those that are relatives: a timm model's source file, `mobilevig` for architectures."""
    names = []
    for network in networks:
        if isinstance(network, TimmNetwork):
            import timm

            names.append(timm.model_entrypoint(_known(network.name)).__module__.rpartition(".")[2])
        else:
            names.append("mobilevig")
    return names


def _kernels_of(network: Network, cache: Path) -> KernelList:
    if isinstance(network, Architecture):
        return kernels.of(network, "exported")
    if not isinstance(network, TimmNetwork):
        raise MvigNasError(
            f"a network's kernels must be known to fit it, got only the fingerprint {network.fingerprint}; put the "
            "architecture of the package into the row, or network and resolution where it is a timm model."
        )
    import timm

    name = f"{network.name}@{network.resolution}"
    path = cache / f"{name}-timm{timm.__version__}-{_tracer_digest()}.npz"
    try:
        return load_kernels(path)[name]
    except (OSError, ValueError, KeyError):
        pass  # not traced yet, or the file is damaged
    traced = _traced(network)
    content = io.BytesIO()
    save_kernels(content, {name: traced})
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError:
        pass  # a cache that cannot be written costs time alone
    return traced


def _traced(network: TimmNetwork) -> KernelList:
    import timm
    import torch

    name = _known(network.name)
    with torch.device("meta"):
        try:
            module = timm.create_model(name, img_size=network.resolution)
        except TypeError:  # most models take any size
            module = timm.create_model(name)
    try:
        return kernels.trace(module, (3, network.resolution, network.resolution))
    except MvigNasError as error:
        raise MvigNasError(f"{name} at the row's resolution: {error}") from error


def _known(name: str) -> str:
    import timm

    if not timm.is_model(name):
        raise MvigNasError(f"timm {timm.__version__} has no model {name!r}; {closest(name, timm.list_models())}")
    return name


def _tracer_digest() -> str:
    """Of the tracer's source: kernels traced by another one are not to be trusted."""
    digest = hashlib.sha256()
    for path in sorted(Path(kernels.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mvig-nas" / "kernels"


def save_kernels(path: str | Path | BinaryIO, networks: Mapping[str, Sequence[Kernel]]) -> None:
    """Write the kernel lists of named networks."""
    found = [kernel for network in networks.values() for kernel in network]
    kinds = sorted({kernel.kind for kernel in found})
    np.savez_compressed(
        path,
        names=np.array(list(networks)),
        lengths=np.array([len(network) for network in networks.values()]),
        kinds=np.array(kinds),
        kind=np.array([kinds.index(kernel.kind) for kernel in found], dtype=np.int16),
        numbers=np.array([[getattr(kernel, name) for name in _NUMBERS] for kernel in found], dtype=np.int64),
        window=np.array([kernel.kernel_size + kernel.stride for kernel in found], dtype=np.int16),
        shape_lengths=np.array([len(kernel.shape) for kernel in found], dtype=np.int8),
        shapes=np.array([size for kernel in found for size in kernel.shape], dtype=np.int32),
        input_lengths=np.array([len(kernel.inputs) for kernel in found], dtype=np.int8),
        inputs=np.array([index for kernel in found for index in kernel.inputs], dtype=np.int32),
    )


def load_kernels(path: str | Path) -> dict[str, tuple[Kernel, ...]]:
    """Read what `save_kernels` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name].tolist() for name in file.files}
    shapes = iter(arrays["shapes"])
    inputs = iter(arrays["inputs"])
    found = [
        Kernel(
            kind=arrays["kinds"][kind],
            shape=tuple(next(shapes) for _ in range(shape_length)),
            kernel_size=(window[0], window[1]),
            stride=(window[2], window[3]),
            inputs=tuple(next(inputs) for _ in range(input_length)),
            **dict(zip(_NUMBERS, numbers, strict=True)),
        )
        for kind, shape_length, window, input_length, numbers in zip(
            arrays["kind"],
            arrays["shape_lengths"],
            arrays["window"],
            arrays["input_lengths"],
            arrays["numbers"],
            strict=True,
        )
    ]
    networks: dict[str, tuple[Kernel, ...]] = {}
    start = 0
    for name, length in zip(arrays["names"], arrays["lengths"], strict=True):
        networks[name] = tuple(found[start : start + length])
        start += length
    return networks


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "predictors"))
