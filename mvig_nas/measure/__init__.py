"""Measure networks on a device, into its device log. `docs/measuring_on_iphone.md` is a whole session."""

from mvig_nas.measure.backend import Backend, Loaded, Target
from mvig_nas.measure.coreml_backend import COREML_UNITS, CoreMl, placement
from mvig_nas.measure.measuring import measure
from mvig_nas.measure.packages import package_target
from mvig_nas.measure.session import Progress, Session, Settings, Unit
from mvig_nas.measure.torch_cpu import TorchCpu, timm_target

__all__ = [
    "COREML_UNITS",
    "Backend",
    "CoreMl",
    "Loaded",
    "Progress",
    "Session",
    "Settings",
    "Target",
    "TorchCpu",
    "Unit",
    "measure",
    "package_target",
    "placement",
    "timm_target",
]
