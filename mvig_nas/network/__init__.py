"""The network: MobileViG for any Architecture; importing this registers it and the presets with timm."""

from mvig_nas.network.folding import for_inference
from mvig_nas.network.mobilevig import MobileViG, build
from mvig_nas.network.reference_checkpoints import load_reference_checkpoint, reference_state_dict
from mvig_nas.network.timm_models import GENERIC_NAME

__all__ = ["GENERIC_NAME", "MobileViG", "build", "for_inference", "load_reference_checkpoint", "reference_state_dict"]
