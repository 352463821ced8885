"""What is measured, and what measures it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mvig_nas.device_log import Device, Network, TimmNetwork

Notes = Mapping[str, str | int | float | bool]


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
