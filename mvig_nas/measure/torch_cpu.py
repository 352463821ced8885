"""This computer's CPU through torch: a device that can be measured anywhere."""

import platform
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

import mvig_nas
from mvig_nas.architecture import Architecture
from mvig_nas.device_log import Device, Package, TimmNetwork
from mvig_nas.errors import MvigNasError, closest
from mvig_nas.measure.backend import TORCH_CPU, Notes, Target, chip, system
from mvig_nas.network import build, for_inference

_GENERATOR = threading.Lock()  # torch's own is one for all threads


def timm_target(name: str) -> Target:
    """A timm model at the resolution it was made for; `name` with or without `timm:`.

    Raises:
        MvigNasError: timm has no such model, or its images are not square with 3 channels.
    """
    name = name.removeprefix("timm:")
    known = timm.list_models()
    if name not in known:
        raise MvigNasError(f"`timm:NAME` must be a timm model, got {name!r}; {closest(name, known)}")
    settings = get_pretrained_cfg(name)
    size = tuple(settings.input_size) if settings is not None else ()
    if len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        raise MvigNasError(f"a timm model must take square RGB images, got {size} for {name!r}; take another.")
    return Target(TimmNetwork(name, size[1]))


class TorchCpu:
    """Networks in torch on this computer's CPU: batch 1, fp32, `for_inference`, untrained (weights do not matter).

    With one thread, the time is that thread's CPU time: the latency on a core that nobody else wants, even where others
    do. With several it is the clock's, and the computer must be idle.

    Args:
        threads: torch's; another number is another device, `NAME-4-threads`.
        name: of the computer, in the log.

    Raises:
        MvigNasError: `threads` is not above 0, or the name is impossible.
    """

    name = TORCH_CPU
    unit = ""

    def __init__(self, threads: int = 1, name: str = "host", chip_name: str | None = None) -> None:
        if threads < 1:
            raise MvigNasError(f"`threads` must be at least 1, got {threads}; 1 is the usual choice.")
        self.threads = threads
        os, os_version = system()
        label = f"{name}-{threads}-thread{'s' if threads > 1 else ''}"
        self.device = Device(label, chip_name or chip(), os, os_version, TORCH_CPU)
        self.tool_versions: Mapping[str, str] = {
            "mvig-nas": mvig_nas.__version__,
            "python": platform.python_version(),
            "timm": version("timm"),
            "torch": str(torch.__version__),
        }

    def check(self, target: Target) -> None:
        """Refuse packages.

        Raises:
            MvigNasError: the target is a Core ML package.
        """
        if isinstance(target.network, Package) or target.package is not None:
            raise _no_package(target)

    def load(self, target: Target) -> "_TorchNetwork":
        """Build the network with random weights.

        Raises:
            MvigNasError: the target is a Core ML package.
        """
        network = target.network
        if isinstance(network, Package) or target.package is not None:
            raise _no_package(target)
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module: nn.Module = build(network) if isinstance(network, Architecture) else timm.create_model(network.name)
            image = torch.rand(1, 3, network.resolution, network.resolution)
        return _TorchNetwork(for_inference(module.eval(), image), image, self.threads)


class _TorchNetwork:
    def __init__(self, network: nn.Module, image: Tensor, threads: int) -> None:
        self.placement: Mapping[str, float] = {"cpu": 1.0}
        self.notes: Notes = {"form": "exported", "precision": "fp32", "clock": "thread" if threads == 1 else "wall"}
        self._network: nn.Module | None = network
        self._image = image
        self._threads = threads

    def run(self, iterations: int) -> list[float]:
        if self._network is None:
            raise RuntimeError("this network was closed")
        clock_ns = time.thread_time_ns if self._threads == 1 else time.perf_counter_ns
        threads = torch.get_num_threads()
        samples_ms = []
        try:
            torch.set_num_threads(self._threads)
            with torch.inference_mode():
                for _ in range(iterations):
                    began_ns = clock_ns()
                    self._network(self._image)
                    samples_ms.append((clock_ns() - began_ns) / 1e6)
        finally:
            torch.set_num_threads(threads)
        return samples_ms

    def close(self) -> None:
        self._network = None


def _no_package(target: Target) -> MvigNasError:
    return MvigNasError(
        f"torch-cpu measures architectures and timm models, got the package {target.shown}; take --backend coreml on "
        "a Mac, or name the architecture."
    )
