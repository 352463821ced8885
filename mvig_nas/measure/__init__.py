"""Measure networks on a device, into its device log. `docs/measuring_on_iphone.md` is a whole session."""

from typing import TYPE_CHECKING, Any

from mvig_nas.measure.backend import Backend, BackendOptions, Loaded, Target
from mvig_nas.measure.coreml_backend import COREML_UNITS, CoreMl, package_target, placement
from mvig_nas.measure.measuring import measure, open_backends, targets_of
from mvig_nas.measure.session import MeasureProgress, MeasureSettings, Session, Unit

if TYPE_CHECKING:
    from mvig_nas.measure.torch_cpu import TorchCpu, timm_target

__all__ = [
    "COREML_UNITS",
    "Backend",
    "BackendOptions",
    "CoreMl",
    "Loaded",
    "MeasureProgress",
    "MeasureSettings",
    "Session",
    "Target",
    "TorchCpu",
    "Unit",
    "measure",
    "open_backends",
    "package_target",
    "placement",
    "targets_of",
    "timm_target",
]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, and Core ML measures without it.
    if name in ("TorchCpu", "timm_target"):
        from mvig_nas.measure import torch_cpu

        return getattr(torch_cpu, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
