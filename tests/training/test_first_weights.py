"""What a training may begin with: models, supernets, the authors' checkpoints, and folders that timm wrote."""

import json
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from timm.data import ImageNetInfo
from timm.models import save_for_hf

import mvig_nas.network  # registers the models  # noqa: F401
from mvig_nas.architecture import preset
from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import Preprocessing
from mvig_nas.network import build, load_reference_checkpoint, reference_state_dict
from mvig_nas.supernet import Supernet, save_supernet
from mvig_nas.training.first_weights import read_first_weights
from mvig_nas.training.model_folder import TrainedModel, read_model, write_model
from tests.images import write_images
from tests.tiny_training import SPACE

REFERENCE = Path(__file__).parents[1] / "fixtures" / "mobilevig_reference_k2.safetensors"
ARCHITECTURE = SPACE.largest
CLASSES = ("class_0", "class_1", "class_2")


def test_the_authors_checkpoint() -> None:
    first = read_first_weights(REFERENCE, ARCHITECTURE, CLASSES)
    theirs = load_reference_checkpoint(REFERENCE)
    assert first.architecture == theirs.architecture
    assert first.name == {"checkpoint": str(REFERENCE)}
    assert not any(name.startswith("head.") for name in first.weights)  # its classes have no names
    network = build(theirs.architecture, 3, distillation=False)
    found = first.give_to(network)
    assert found.fresh == ("the classifiers",)
    name = "stages.3.blocks.0.graph_conv.conv.weight"
    assert torch.equal(network.state_dict()[name], theirs.state_dict()[name])


def test_imagenets_classes_are_known_by_their_wordnet_ids(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = build(preset("mobilevig_ti"), 1000).eval()
    torch.save({"model": reference_state_dict(whole)}, tmp_path / "ti.pth")
    ids = ImageNetInfo().label_names()
    classes = (ids[7], ids[990])
    first = read_first_weights(tmp_path / "ti.pth", whole.architecture, classes)
    network = build(whole.architecture, 2).eval()
    assert first.give_to(network).share == 1
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(network(images), whole(images)[:, [7, 990]], atol=1e-4)


def test_a_supernet_and_a_network_that_it_does_not_hold(tmp_path: Path) -> None:
    supernet = Supernet(SPACE, 3)
    save_supernet(tmp_path / "supernet.safetensors", supernet, CLASSES, {})
    for path in (tmp_path, tmp_path / "supernet.safetensors"):
        first = read_first_weights(path, ARCHITECTURE, CLASSES)
        network = build(ARCHITECTURE, 3, distillation=False)
        assert first.give_to(network).share == 1
        for name, tensor in supernet.extract(ARCHITECTURE).state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name
    other = build(preset("mobilevig_ti"), 3)
    found = read_first_weights(tmp_path, other.architecture, CLASSES).give_to(other)
    assert 0 < found.share < 0.1


def test_a_model_of_some_of_the_classes(tmp_path: Path) -> None:
    write_model(tmp_path, TrainedModel(build(ARCHITECTURE, 3, distillation=False).eval(), CLASSES, Preprocessing()))
    first = read_first_weights(tmp_path / "model.safetensors", ARCHITECTURE, ("class_2", "class_0"))
    weight = read_model(tmp_path).network.state_dict()["head.weight"]
    assert torch.equal(first.weights["head.weight"], weight[[2, 0]])
    assert "head.weight" not in read_first_weights(tmp_path, ARCHITECTURE, ("class_2", "dog")).weights


def test_a_folder_that_timm_wrote_is_a_model(tmp_path: Path) -> None:
    network = timm.create_model("mobilevig", architecture=ARCHITECTURE.to_dict(), num_classes=3, distillation=False)
    config = {"label_names": list(CLASSES)}
    arguments = {"architecture": ARCHITECTURE.to_dict(), "distillation": False}
    save_for_hf(network, tmp_path / "hub", model_config=config, model_args=arguments)
    model = read_model(tmp_path / "hub")
    assert model.classes == CLASSES
    assert model.network.architecture == ARCHITECTURE
    for name, tensor in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor), name
    assert read_first_weights(tmp_path / "hub", ARCHITECTURE, CLASSES).give_to(network).share == 1

    save_for_hf(timm.create_model("test_resnet", num_classes=3), tmp_path / "other")
    with pytest.raises(MvigNasError, match=r"must hold a network of this family .* got 'test_resnet' in"):
        read_model(tmp_path / "other")
    (tmp_path / "hub" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(MvigNasError, match=r"must hold weights that timm can load, got .*restore the files"):
        read_model(tmp_path / "hub")


def test_nothing_there() -> None:
    with pytest.raises(MvigNasError, match=r"got nothing at nowhere\.pth; check the path"):
        read_first_weights(Path("nowhere.pth"), ARCHITECTURE, CLASSES)


def test_retrain_says_what_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_images(tmp_path / "data")
    Path("arch.json").write_text(ARCHITECTURE.to_json())
    asked = ["retrain", "arch.json", "--from", REFERENCE, "--data", data, "--plan", "short", "--epochs", 2]
    done: Result = CliRunner().invoke(cli, [*map(str, asked), "--batch-size", "12", "--workers", "0", "--out", "run"])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "parameters begin with other weights" in done.stderr
    start = read_model(Path("run")).about["start"]
    assert start["checkpoint"] == str(REFERENCE)
    assert 0 < start["inherited"] < 1
    assert json.loads(Path("run/run.json").read_text())["request"]["sources"]["from_model"] == str(REFERENCE)
