"""Measure networks on a device, into its device log. `docs/measuring_on_iphone.md` is a whole session."""

from typing import TYPE_CHECKING

from mvig_nas.lazy import attributes_of
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

# Importing torch takes seconds, and Core ML measures without it.
__getattr__ = attributes_of(__name__, dict.fromkeys(("TorchCpu", "timm_target"), "torch_cpu"))
