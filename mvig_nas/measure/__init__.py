"""Measure networks on a device, into its device log. `docs/measuring_on_iphone.md` is a whole session."""

from mvig_nas.measure._backend import Backend, Loaded, Target
from mvig_nas.measure._compute_plan import placement
from mvig_nas.measure._coreml import COREML_UNITS, CoreMl
from mvig_nas.measure._inference import for_inference
from mvig_nas.measure._loop import measure
from mvig_nas.measure._packages import package_target
from mvig_nas.measure._session import Progress, Session, Settings, Unit
from mvig_nas.measure._torch_cpu import TorchCpu, timm_target

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
    "for_inference",
    "measure",
    "package_target",
    "placement",
    "timm_target",
]
