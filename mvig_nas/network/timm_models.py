"""MobileViGs as timm models: `timm.create_model("mobilevig_ti")`, or `"mobilevig"` with an `architecture`."""

from collections.abc import Mapping
from typing import Any, cast

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from mvig_nas.architecture import PRESETS, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.network.mobilevig import MobileViG


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1.conv",
        "classifier": ("head", "head_dist"),
        "paper_ids": "arXiv:2307.00395",
        "paper_name": "MobileViG: Graph-Based Sparse Attention for Mobile Vision Applications",
        "origin_url": "https://github.com/SLDGroup/MobileViG",
        "license": "apache-2.0",
    }


GENERIC_NAME = "mobilevig"
default_cfgs = generate_default_cfgs({name: _cfg() for name in (GENERIC_NAME, *PRESETS)})


def _create(variant: str, pretrained: bool, options: dict[str, Any]) -> MobileViG:
    architecture = options.pop("architecture", PRESETS.get(variant))
    if isinstance(architecture, Mapping):
        architecture = Architecture.from_dict(architecture)
    if architecture is None:
        raise MvigNasError(f"timm's {variant!r} must be given an `architecture`, got none; or name a preset.")
    global_pool = options.pop("global_pool", None)
    network = build_model_with_cfg(
        MobileViG,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        architecture=cast(Architecture, architecture),
        **options,
    )
    if global_pool is not None:
        network.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
    return cast(MobileViG, network)


@register_model
def mobilevig(pretrained: bool = False, **options: Any) -> MobileViG:
    """The network of an `architecture`: an Architecture, or the values of its `to_dict`."""
    return _create(GENERIC_NAME, pretrained, options)


@register_model
def mobilevig_ti(pretrained: bool = False, **options: Any) -> MobileViG:
    """MobileViG-Ti, 5.3 M parameters, 0.66 GMACs."""
    return _create("mobilevig_ti", pretrained, options)


@register_model
def mobilevig_s(pretrained: bool = False, **options: Any) -> MobileViG:
    """MobileViG-S, 7.3 M parameters, 0.98 GMACs."""
    return _create("mobilevig_s", pretrained, options)


@register_model
def mobilevig_m(pretrained: bool = False, **options: Any) -> MobileViG:
    """MobileViG-M, 14.1 M parameters, 1.49 GMACs."""
    return _create("mobilevig_m", pretrained, options)


@register_model
def mobilevig_b(pretrained: bool = False, **options: Any) -> MobileViG:
    """MobileViG-B, 26.9 M parameters, 2.79 GMACs."""
    return _create("mobilevig_b", pretrained, options)
