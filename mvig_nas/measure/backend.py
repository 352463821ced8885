"""What is measured, what measures it, and this computer's chip and system for the log."""

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

from mvig_nas.device_log import Device, Network, TimmNetwork
from mvig_nas.values import about, check

Notes = Mapping[str, str | int | float | bool]
TORCH_CPU = "torch-cpu"
UNKNOWN = "unknown"
MACOS = "Darwin"
_LONGEST = 200


@dataclass(frozen=True)
class BackendOptions:
    """What a backend may be told of the device; None takes what is usual there.

    Raises:
        MvigNasError: a value is none of the choices, or out of range.
    """

    TITLE: ClassVar = "Device"

    name: (
        Annotated[
            str,
            about(
                "Name of the device in the log, such as iphone-13-mini; an iPhone must be given one, this computer is "
                "`host` by default.",
                metavar="NAME",
            ),
        ]
        | None
    ) = None
    chip: Annotated[str, about("Chip of an iPhone that mvig-nas does not know (coreml).", metavar="NAME")] | None = None
    team: (
        Annotated[
            str, about("Apple developer team that signs the app which measures on an iPhone (coreml).", metavar="ID")
        ]
        | None
    ) = None
    compute_units: Annotated[
        Literal["all", "cpu-and-ne", "cpu-and-gpu", "cpu-only"], about("Compute units that networks may use (coreml).")
    ] = "cpu-and-ne"
    threads: (
        Annotated[
            int,
            about("Threads of torch (torch-cpu). By default 1; another number is logged as another device.", ge=1),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Target:
    """A network to measure; `package` is the Core ML package that holds it, for the backend that runs those."""

    network: Network
    package: Path | None = None

    @property
    def label(self) -> str:
        """`Measurement.network_label` of its rows: a fingerprint, or `timm:NAME@RESOLUTION`."""
        return self.network.label if isinstance(self.network, TimmNetwork) else self.network.fingerprint

    @property
    def shown(self) -> str:
        """Its name for people: a package's file name, else the label."""
        return self.package.name if self.package is not None else self.label


class Loaded(Protocol):
    """A network that stands ready on the device."""

    @property
    def placement(self) -> Mapping[str, float]:
        """Share of the work on `cpu`, `gpu` and `neural-engine`; adds up to 1, or is empty where it is not known."""
        ...

    @property
    def notes(self) -> Notes:
        """What else its row of the log should say."""
        ...

    def run(self, iterations: int) -> list[float]:
        """Run it so many times on one image; the milliseconds of each run, in order."""
        ...

    def close(self) -> None:
        """Make room on the device. Does nothing the second time."""
        ...


class Backend(Protocol):
    """One device with the compute units it may use, and the means to run networks there."""

    @property
    def name(self) -> str:
        """`coreml`, `torch-cpu`."""
        ...

    @property
    def device(self) -> Device:
        """Whose log the rows go into."""
        ...

    @property
    def unit(self) -> str:
        """A few characters that tell this device from others of its model, in a log; empty where nothing does."""
        ...

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """For the rows of the log."""
        ...

    def check(self, target: Target) -> None:
        """Refuse, without loading it, a network of a kind that this backend cannot run.

        Raises:
            MvigNasError: it is of such a kind.
        """
        ...

    def load(self, target: Target) -> Loaded:
        """Put a network on the device.

        Raises:
            MvigNasError: this backend cannot run it.
        """
        ...


def chip() -> str:
    """The CPU's name as the system tells it."""
    if platform.system() == MACOS:
        return sysctl("machdep.cpu.brand_string")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return printable(platform.processor())
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return printable(names[0] if names else platform.machine())


def system() -> tuple[str, str]:
    """Operating system and its version: `macOS` with its own, else the kernel's."""
    if platform.system() == MACOS:
        return "macOS", printable(platform.mac_ver()[0])
    return printable(platform.system()), printable(platform.release())


def sysctl(name: str) -> str:
    """One of macOS's system values."""
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return printable(done.stdout)


def printable(text: str) -> str:
    """A text that a log takes."""
    plain = " ".join("".join(each for each in text if each.isprintable() or each.isspace()).split())
    return plain[:_LONGEST].strip() or UNKNOWN
