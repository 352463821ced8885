"""Trained networks on disk: what timm reads, what comes back, and what is refused."""

import json
import random
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import Preprocessing
from mvig_nas.network import build
from mvig_nas.training.model_folder import TrainedModel, read_model, write_model
from tests.strategies import SPACES

CLASSES = ("ant", "bee", "cat")
ARCHITECTURE = SPACES["toy"].sample(random.Random(3))
IMAGES = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), crop_fraction=0.8, interpolation="bilinear")


def model(distillation: bool = True, architecture: Architecture = ARCHITECTURE) -> TrainedModel:
    torch.manual_seed(1)
    network = build(architecture, len(CLASSES), distillation=distillation).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return TrainedModel(network, CLASSES, IMAGES, {"top1": 0.5})


@pytest.mark.parametrize("distillation", [True, False])
def test_what_is_written_comes_back(tmp_path: Path, distillation: bool) -> None:
    written = model(distillation)
    write_model(tmp_path, written)
    read = read_model(tmp_path)
    image = torch.randn(2, 3, ARCHITECTURE.resolution, ARCHITECTURE.resolution)
    with torch.no_grad():
        assert torch.equal(read.network(image), written.network(image))
    assert read.network.architecture == ARCHITECTURE
    assert (read.classes, read.preprocessing, read.about) == (CLASSES, IMAGES, {"top1": 0.5})


@pytest.mark.parametrize("distillation", [True, False])
def test_timm_loads_the_folder(tmp_path: Path, distillation: bool) -> None:
    written = model(distillation)
    write_model(tmp_path, written)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.randn(2, 3, ARCHITECTURE.resolution, ARCHITECTURE.resolution)
    with torch.no_grad():
        assert torch.equal(loaded(image), written.network(image))
    settings = timm.data.resolve_model_data_config(loaded)
    assert tuple(settings["input_size"]) == (3, ARCHITECTURE.resolution, ARCHITECTURE.resolution)
    assert (tuple(settings["mean"]), tuple(settings["std"])) == (IMAGES.mean, IMAGES.std)
    assert settings["crop_pct"] == IMAGES.crop_fraction
    assert settings["interpolation"] == "bilinear"


def test_timm_changes_the_number_of_classes_and_gives_features(tmp_path: Path) -> None:
    write_model(tmp_path, model())
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
    image = torch.randn(1, 3, ARCHITECTURE.resolution, ARCHITECTURE.resolution)
    with torch.no_grad():
        assert other(image).shape == (1, 7)
        backbone = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
        shapes = [tuple(each.shape[1:]) for each in backbone(image)]
    sizes = ARCHITECTURE.sizes
    assert shapes == [(stage.width, size, size) for stage, size in zip(ARCHITECTURE.stages, sizes, strict=True)]
    first = other.stem.conv1.conv.weight  # type: ignore[union-attr]
    assert torch.equal(first, read_model(tmp_path).network.stem.conv1.conv.weight)  # type: ignore[union-attr]


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="a name for each class, got 2 names for 3 logits"):
        write_model(tmp_path, TrainedModel(model().network, CLASSES[:2], IMAGES))
    with pytest.raises(MvigNasError, match=r"must hold config\.json and model\.safetensors"):
        read_model(tmp_path)
    write_model(tmp_path, model())
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(MvigNasError, match=r"must hold the weights of its config\.json, got"):
        read_model(tmp_path)
    weights.write_bytes(content)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_classes"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MvigNasError, match=r"must hold the weights of its config\.json, got"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MvigNasError, match="must be as mvig-nas writes it"):
        read_model(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MvigNasError, match="must be writable"):
        write_model(tmp_path / "file", model())
    with pytest.raises(MvigNasError, match="must be given an `architecture`"):
        timm.create_model("mobilevig")
