"""A trained network in a folder, as timm and Hugging Face have it: `config.json` and `model.safetensors`.

`timm.create_model("local-dir:FOLDER", pretrained=True)` loads it once `mvig_nas.network` is imported; the folder may be
pushed to a hub as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save as to_bytes

from mvig_nas import values
from mvig_nas.architecture import FAMILY_PRESETS, Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import make_folder, read_json, save
from mvig_nas.image_data import Preprocessing
from mvig_nas.network import GENERIC_NAME, MobileViG, build
from mvig_nas.network.mobilevig import TEACHER_HEAD
from mvig_nas.network.weight_files import read_weights

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
SUBFOLDER = "model"  # of a training's folder
SCHEMA = 1
_OURS = "mvig_nas"  # entry of config.json that timm passes over


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network, what its logits mean, and what its images must be like.

    Attributes:
        network: in evaluation mode.
        classes: names, one a logit, in order.
        preprocessing: how images are cropped and normalised.
        about: plain values: how it was trained, what it reached.
    """

    network: MobileViG
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    about: Mapping[str, Any] = field(default_factory=dict)


def write_model(folder: Path, model: TrainedModel) -> None:
    """Write config, weights and a model card, each file whole; a classifier for training alone is left out.

    Raises:
        MvigNasError: there is not a class a logit, or the folder cannot be written.
    """
    network, images = model.network, model.preprocessing
    if len(model.classes) != network.num_classes:
        raise MvigNasError(
            f"a model must have a name for each class, got {len(model.classes)} names for {network.num_classes} logits."
        )
    side = network.architecture.resolution
    config = {
        "architecture": GENERIC_NAME,
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "label_names": list(model.classes),
        "pretrained_cfg": {
            "num_classes": network.num_classes,
            "input_size": [3, side, side],
            "pool_size": [network.architecture.sizes[-1]] * 2,
            "interpolation": images.interpolation,
            "crop_pct": images.crop_fraction,
            "mean": list(images.mean),
            "std": list(images.std),
            "first_conv": "stem.conv1.conv",
            "classifier": "head" if network.head_dist is None else ["head", "head_dist"],
        },
        "model_args": {
            "architecture": network.architecture.to_dict(),
            "distillation": network.head_dist is not None,
        },
        _OURS: {"schema": SCHEMA, "preprocessing": values.plain(images), "about": dict(model.about)},
    }
    make_folder(folder)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith(TEACHER_HEAD)
    }
    save(folder / WEIGHTS, to_bytes(tensors, metadata={"format": "pt"}))
    save(folder / CARD, _card(model))
    save(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def read_model(folder: Path) -> TrainedModel:
    """What `write_model` wrote into `folder`, or into `model` in it, where `retrain` puts it.

    What timm wrote of a network of this family is read, too (`timm.models.push_to_hf_hub`, `save_for_hf`); where it has
    no `label_names`, the classes are called `class_0` and so on.

    Raises:
        MvigNasError: the folder holds no such model, or a damaged one.
    """
    folder = folder / SUBFOLDER if (folder / SUBFOLDER).is_dir() else folder
    path = folder / CONFIG
    try:
        config = read_json(path, f"a model's {CONFIG}", "restore the file")
        if isinstance(config, dict) and _OURS not in config and "architecture" in config:
            return _read_timm(folder, config)
        ours = config[_OURS]
        if ours["schema"] != SCHEMA:
            raise MvigNasError(f"a model's schema must be {SCHEMA}, got {ours['schema']} at {path}; upgrade mvig-nas.")
        arguments = config["model_args"]
        architecture = Architecture.from_dict(arguments["architecture"])
        network = build(architecture, config["num_classes"], distillation=arguments["distillation"])
        preprocessing = values.read(Preprocessing, ours["preprocessing"], f"{path}, `preprocessing`")
        classes, about = tuple(config["label_names"]), dict(ours["about"])
    except FileNotFoundError as error:
        raise MvigNasError(
            f"a model's folder must hold {CONFIG} and {WEIGHTS}, got {folder}; check the path."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise MvigNasError(f"a model's {CONFIG} must be as mvig-nas writes it, got {error!r} at {path}.") from error
    try:
        network.load_state_dict(read_weights(folder / WEIGHTS))
    except (ValueError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise MvigNasError(
            f"a model's {WEIGHTS} must hold the weights of its {CONFIG}, got {first!r} in {folder}; restore the file."
        ) from error
    return TrainedModel(network.eval(), classes, preprocessing, about)


def _card(model: TrainedModel) -> str:
    """The model card, Markdown with the entries that hubs read at its top."""
    network, images, about = model.network, model.preprocessing, model.about
    side, classes = network.architecture.resolution, model.classes
    named = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    top1 = about.get("accuracy", {}).get("mean", {}).get("top1") if isinstance(about.get("accuracy"), dict) else None
    teacher = (about.get("teacher") or {}).get("name")
    start = about.get("start") or {}
    facts = [
        f"- Architecture: {GENERIC_NAME} {network.architecture.fingerprint}, "
        f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters",
        f"- Input: RGB image of {side} x {side} pixels, {images.interpolation}, centre crop of "
        f"{images.crop_fraction:g}, mean {images.mean}, standard deviation {images.std}",
        f"- Classes: {len(classes)} ({named})",
        f"- Top-1 on the validation images: {'not measured' if top1 is None else f'{100 * top1:.1f} %'}",
        f"- Teacher: {teacher or 'none'}",
        f"- First weights: {start.get('model') or start.get('supernet') or start.get('checkpoint') or 'random'}",
    ]
    return "\n".join(
        (
            "---\nlibrary_name: timm\ntags:\n- image-classification\n- mvig-nas\n---",
            "# A MobileViG-like image classifier\n",
            "Found and trained by mvig-nas.\n",
            *facts,
            "\n## Use\n",
            "```python\nimport timm\n\nimport mvig_nas.network  # registers the models\n",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n```\n',
            "How it was trained is in `config.json`, under `mvig_nas`. It answers with one of its classes whatever the "
            "image shows, and was measured on images like those that it was trained on only.\n",
        )
    )


def _read_timm(folder: Path, config: Mapping[str, Any]) -> TrainedModel:
    """A model that timm wrote."""
    name = config["architecture"]
    if name not in (GENERIC_NAME, *FAMILY_PRESETS):
        raise MvigNasError(
            f"a model's folder must hold a network of this family ({GENERIC_NAME}, mobilevig_ti and so on), got "
            f"{name!r} in {folder}; as a teacher it can be any (--teacher {folder})."
        )
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # wrong bytes make timm and torch raise nearly anything
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise MvigNasError(
            f"a model's folder must hold weights that timm can load, got {first!r} in {folder}; restore the files."
        ) from error
    settings = network.pretrained_cfg
    preprocessing = Preprocessing(
        interpolation=settings["interpolation"],
        crop_fraction=settings["crop_pct"],
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )
    names = config.get("label_names") or [f"class_{number}" for number in range(network.num_classes)]
    return TrainedModel(network.eval(), tuple(names), preprocessing)
