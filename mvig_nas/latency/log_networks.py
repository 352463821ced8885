"""Kernel lists of the networks in a device log, traces of timm models kept on disk."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

from mvig_nas import kernels
from mvig_nas.architecture import Architecture
from mvig_nas.device_log import DeviceLog, Network, TimmNetwork
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import write_whole
from mvig_nas.kernels import Kernel
from mvig_nas.latency.kernel_archive import load_kernels, save_kernels

KernelList = tuple[Kernel, ...]


def log_networks(log: DeviceLog, cache: Path | None = None) -> list[KernelList]:
    """Kernels of each row's network, in the order of the rows.

    Architectures are taken as `export` writes them. timm models are traced at their resolution, once: the kernels are
    kept in `cache`, by default the user's cache folder.

    Raises:
        MvigNasError: a row names its network by a fingerprint alone, or timm has no such model or cannot run it at that
            resolution. The message names the row's place.
    """
    folder = cache or _default_cache()
    found: dict[str, KernelList] = {}
    lists = []
    for row, place in zip(log.rows, log.places, strict=True):
        if row.network_label not in found:
            try:
                found[row.network_label] = _kernels_of(row.network, folder)
            except MvigNasError as error:
                raise MvigNasError(f"{place or row.network_label}: {error}") from error
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
    except (RuntimeError, AssertionError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise MvigNasError(
            f"{name} must run at the row's resolution, {network.resolution}, got: {first}; correct the resolution."
        ) from error


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
