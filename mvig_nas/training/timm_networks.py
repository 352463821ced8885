"""Networks of timm's with trained weights, by name or from a folder, which teachers are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError, closest
from mvig_nas.files import read_json
from mvig_nas.image_data import seeded
from mvig_nas.network.weight_files import read_weights
from mvig_nas.training.model_folder import CONFIG, SUBFOLDER

TIMM = "timm:"
# names that training scripts put the weights under; the averaged ones first
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


@dataclass(frozen=True, eq=False)
class TimmClassifier:
    """A classifier of timm's with trained weights.

    Attributes:
        name: timm's of the model.
        network: in evaluation mode.
        classes: names of its classes, one a logit; None where it has none.
        smallest: least height and width in pixels that it takes; None where any will do.
        is_ours: whether its classes may be taken for those of the images, where it has as many.
    """

    name: str
    network: nn.Module
    classes: tuple[str, ...] | None
    smallest: tuple[int, int] | None
    is_ours: bool


def folder_of(name: str) -> Path | None:
    """The folder of a fine-tuned network that `name` is a path to, as timm or `mvig-nas teacher fit` writes it."""
    for folder in (Path(name) / SUBFOLDER, Path(name)):
        if (folder / CONFIG).is_file():
            return folder
    return None


def load_network(name: str, checkpoint: Path | None = None) -> TimmClassifier:
    """A network of timm's.

    Args:
        name: as in `timm.list_models()`, with `timm:` before it or without; or the folder of a fine-tuned one.
        checkpoint: weights, .safetensors or what torch.save wrote; without it timm downloads them.

    Raises:
        MvigNasError: no such model, no weights, or weights of another model.
    """
    name = name.removeprefix(TIMM)
    # building draws random weights, and the student's must not depend on that
    with seeded(0):
        folder = folder_of(name)
        if folder is not None and checkpoint is not None:
            raise MvigNasError(
                f"weights must be a folder's or a file's, got both {name} and {checkpoint}; leave one out."
            )
        if folder is not None:
            return _of_folder(folder)
        config = config_of(name)
        network = _downloaded(name) if checkpoint is None else _built(name, config.classifier, checkpoint)
    smallest = None if config.min_input_size is None else tuple(config.min_input_size[-2:])
    return TimmClassifier(name, network.eval(), None, cast("tuple[int, int] | None", smallest), checkpoint is not None)


def _of_folder(folder: Path) -> TimmClassifier:
    must = "a network's folder must be as timm writes it"
    try:
        config = read_json(folder / CONFIG, f"a model's {CONFIG}", "restore the file")
        network = cast(Any, timm.create_model(f"local-dir:{folder}", pretrained=True))
        name, labels = str(config["architecture"]), config.get("label_names")
    except Exception as error:  # wrong bytes make timm and torch raise nearly anything
        raise MvigNasError(f"{must}, got {first_line(error)!r} in {folder}; restore its files.") from error
    if labels is not None and len(labels) != network.num_classes:
        raise MvigNasError(f"{must}, got {len(labels)} `label_names` for {network.num_classes} logits in {folder}.")
    smallest = network.pretrained_cfg.get("min_input_size")
    return TimmClassifier(
        name,
        network.eval(),
        None if labels is None else tuple(labels),
        None if smallest is None else tuple(smallest[-2:]),
        is_ours=True,
    )


def config_of(name: str) -> PretrainedCfg:
    """What timm knows of the model."""
    must = f"a teacher must be a classifier of timm's, got {name!r}"
    if not timm.is_model(name):
        near = closest(name, timm.list_models())
        # a list of more than a thousand is no help
        raise MvigNasError(f"{must}; {near if near.startswith('did') else 'timm.list_models() has their names.'}")
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise MvigNasError(f"{must}; leave out what follows the dot: {first_line(error)}") from error
    if config is None or not config.classifier:
        raise MvigNasError(f"{must}, which has no last layer of classes; take another.")
    return cast(PretrainedCfg, config)


def _downloaded(name: str) -> nn.Module:
    try:
        return cast(nn.Module, timm.create_model(name, pretrained=True))
    except Exception as error:  # whatever the hub's client and its transport raise
        raise MvigNasError(
            f"the weights of teacher {name!r} must be there to download, got {first_line(error)!r}; "
            "give a file of them: --teacher-checkpoint FILE."
        ) from error


def _built(name: str, classifier: str | tuple[str, ...], checkpoint: Path) -> nn.Module:
    """The network with as many classes as the checkpoint's last layer has."""
    weights = _read(checkpoint)
    key = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    if key not in weights:
        raise _other_weights(name, checkpoint, f"it has no {key!r}")
    network = cast(nn.Module, timm.create_model(name, num_classes=len(weights[key])))
    own = network.state_dict()
    # a count of batches, which safetensors of old lack
    needed = {entry for entry in own if not entry.endswith(".num_batches_tracked")}
    for entry in sorted(needed - weights.keys()):
        raise _other_weights(name, checkpoint, f"it has no {entry!r}")
    for entry in sorted(weights.keys() - own.keys()):
        raise _other_weights(name, checkpoint, f"it has {entry!r} besides")
    for entry, tensor in weights.items():
        if tensor.shape != own[entry].shape:
            found, asked = tuple(tensor.shape), tuple(own[entry].shape)
            raise _other_weights(name, checkpoint, f"its {entry!r} is {found}, not {asked}")
    network.load_state_dict(own | weights)
    return network


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = read_weights(path)
    except ValueError as error:
        raise MvigNasError(
            f"a teacher's checkpoint must be a file of tensors, got {str(error)!r} at {path}; "
            "write one with torch.save(model.state_dict(), FILE)."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise MvigNasError(
            f"a teacher's checkpoint must hold tensors by name, bare or under {' or '.join(map(repr, _WRAPPERS))}, "
            f"got something else in {path}; write one with torch.save(model.state_dict(), FILE)."
        )
    return {str(key).removeprefix("module."): tensor for key, tensor in content.items()}


def _other_weights(name: str, checkpoint: Path, what: str) -> MvigNasError:
    return MvigNasError(
        f"the checkpoint must hold the weights of teacher {name!r}, but {what}: {checkpoint}; "
        "give its own, or name the model that these are of."
    )


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind where it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
