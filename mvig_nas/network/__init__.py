"""The network: MobileViG for any Architecture; importing this registers the presets with timm."""

from mvig_nas.network import timm_models as _timm_models  # noqa: F401 - registers on import
from mvig_nas.network.mobilevig import MobileViG, build, folded
from mvig_nas.network.reference import load_reference_checkpoint, reference_state_dict

__all__ = ["MobileViG", "build", "folded", "load_reference_checkpoint", "reference_state_dict"]
