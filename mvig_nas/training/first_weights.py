"""Weights that a training begins with, from whatever holds some: a model, a supernet, a checkpoint of the authors'."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from timm.data import ImageNetInfo
from torch import Tensor

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.network import load_reference_checkpoint
from mvig_nas.supernet import CLASSIFIERS, FILE, FirstWeights, TrainedSupernet, is_supernet, load_supernet
from mvig_nas.training.model_folder import CONFIG, WEIGHTS, read_model

_IMAGENET_CLASSES = 1000


def read_first_weights(path: Path, architecture: Architecture, classes: Sequence[str]) -> FirstWeights:
    """What a network can begin with.

    Args:
        path: a model's folder, as `retrain` or timm writes it; a supernet, its file or its folder; or a checkpoint of
            the authors of MobileViG, MobileViGv2 or GreedyViG, with the extension `.pth`, `.tar`, `.pt` or
            `.safetensors`.
        architecture: the network that is to begin with them. Where a supernet holds it, the weights are its own.
        classes: names of the images' classes. Classifiers that know all of them by name keep the rows of these; others
            are left out. Those with ImageNet-1k's 1,000 classes know them by their WordNet ids.

    Raises:
        MvigNasError: there is nothing of the kind at `path`, or it is damaged.
    """
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        path = path.parent
    if path.is_dir() and not (path / FILE).is_file():
        model = read_model(path)
        weights = _of_classes(model.network.state_dict(), model.classes, classes)
        return FirstWeights(weights, model.network.architecture, {"model": str(path)})
    if path.is_dir() or is_supernet(path):
        trained = load_supernet(path)
        weights, of = _slices(trained, architecture)
        return FirstWeights(_of_classes(weights, trained.classes, classes), of, {"supernet": str(path)})
    if not path.exists():
        raise MvigNasError(
            f"weights to begin with must be a model's folder, a supernet or a checkpoint, got nothing at {path}; check "
            "the path."
        )
    network = load_reference_checkpoint(path)
    known = ImageNetInfo().label_names() if network.num_classes == _IMAGENET_CLASSES else ()
    return FirstWeights(
        _of_classes(network.state_dict(), known, classes), network.architecture, {"checkpoint": str(path)}
    )


def _slices(trained: TrainedSupernet, architecture: Architecture) -> tuple[dict[str, Tensor], Architecture]:
    """A sub-network's weights, at whatever resolution it was trained; the largest one's where it is none."""
    supernet = trained.supernet
    for resolution in (architecture.resolution, *supernet.space.choices["resolution"]):
        with suppress(MvigNasError):
            found = supernet.extract(replace(architecture, resolution=int(resolution)))
            return found.state_dict(), architecture
    return supernet.network.state_dict(), supernet.container


def _of_classes(weights: dict[str, Tensor], known: Sequence[str], classes: Sequence[str]) -> dict[str, Tensor]:
    """The weights, their classifiers with the rows of `classes`, or without classifiers."""
    rows = [known.index(name) for name in classes if name in known]
    if len(rows) < len(classes):
        return {name: tensor for name, tensor in weights.items() if not name.startswith(CLASSIFIERS)}
    return {name: tensor[rows] if name.startswith(CLASSIFIERS) else tensor for name, tensor in weights.items()}
