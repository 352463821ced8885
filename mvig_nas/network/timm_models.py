"""The family as timm models: `timm.create_model("mobilevigv2_ti")`, or `"mobilevig"` with an `architecture`."""

from collections.abc import Mapping
from typing import Any, cast

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from mvig_nas.architecture import FAMILY_PRESETS, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.network.mobilevig import MobileViG

_PAPERS = {
    "mobilevig": (
        "2307.00395",
        "MobileViG: Graph-Based Sparse Attention for Mobile Vision Applications",
        "https://github.com/SLDGroup/MobileViG",
    ),
    "mobilevigv2": (
        "2406.05850",
        "Scaling Graph Convolutions for Mobile Vision",
        "https://github.com/SLDGroup/MobileViGv2",
    ),
    "greedyvig": (
        "2405.06849",
        "GreedyViG: Dynamic Axial Graph Construction for Efficient Vision GNNs",
        "https://github.com/SLDGroup/GreedyViG",
    ),
}


def _cfg(name: str) -> dict[str, Any]:
    number, title, origin = _PAPERS[name.partition("_")[0]]
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
        "paper_ids": f"arXiv:{number}",
        "paper_name": title,
        "origin_url": origin,
        "license": "apache-2.0",
    }


GENERIC_NAME = "mobilevig"
default_cfgs = generate_default_cfgs({name: _cfg(name) for name in (GENERIC_NAME, *FAMILY_PRESETS)})


def _create(variant: str, pretrained: bool, options: dict[str, Any]) -> MobileViG:
    architecture = options.pop("architecture", FAMILY_PRESETS.get(variant))
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


def _register(name: str) -> None:
    def model(pretrained: bool = False, **options: Any) -> MobileViG:
        return _create(name, pretrained, options)

    model.__name__ = name
    model.__doc__ = f"The published network {name}."
    register_model(model)


for _name in FAMILY_PRESETS:
    _register(_name)
