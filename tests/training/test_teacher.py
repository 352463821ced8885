"""The teacher of distillation: whose classes, whose normalisation, whose weights."""

import tarfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, Preprocessing, read_split, seeded, subset
from mvig_nas.training.teacher import load_teacher

TINY = "test_efficientnet"  # 160 px, ImageNet's mean and standard deviation
HALVES = "test_resnet"  # mean and standard deviation of 0.5
OURS = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))
SHARED = Path(__file__).parents[3] / "shared"
LITE0 = SHARED / "teachers" / "tf_efficientnet_lite0.safetensors"
IMAGENETTE = SHARED / "data" / "imagenette128.tar.gz"


def network(name: str, classes: int) -> nn.Module:
    """With random weights and running statistics, whose logits do differ."""
    with seeded(7):
        built = timm.create_model(name, num_classes=classes)
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.running_mean, std=0.1)
        nn.init.normal_(built.get_classifier().weight)
    return built.eval()


def saved(folder: Path, name: str = TINY, classes: int = 3) -> tuple[Path, nn.Module]:
    built = network(name, classes)
    path = folder / "teacher.safetensors"
    save_file(built.state_dict(), path)
    return path, built


def pixels(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def normalised(values: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (values - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("name", [TINY, HALVES])
def test_it_sees_its_own_normalisation(name: str, tmp_path: Path) -> None:
    path, built = saved(tmp_path, name)
    teacher = load_teacher(name, ["cat", "dog", "emu"], OURS, checkpoint=path)
    values = pixels(160)
    with torch.no_grad():
        expected = built(normalised(values, built.pretrained_cfg["mean"], built.pretrained_cfg["std"]))
    logits = teacher(normalised(values, OURS.mean, OURS.std))
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert logits.shape == (2, 3)


def test_it_sees_its_own_resolution(tmp_path: Path) -> None:
    path, built = saved(tmp_path)
    values = pixels(96)
    for resolution, size in ((None, 160), (64, 64), (96, 96)):
        teacher = load_teacher(TINY, ["a", "b", "c"], Preprocessing(), checkpoint=path, resolution=resolution)
        seen: list[torch.Size] = []
        hook = teacher.network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        logits = teacher(values)
        hook.remove()
        assert seen == [(2, 3, size, size)]
        resized = nn.functional.interpolate(values, size=(size, size), mode="bicubic", antialias=True)
        with torch.no_grad():
            torch.testing.assert_close(logits, built(resized), rtol=1e-4, atol=1e-4)


def test_it_is_frozen_and_no_part_of_the_student(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    before = torch.get_rng_state()
    teacher = load_teacher(TINY, ["a", "b", "c"], OURS, checkpoint=path)
    assert torch.equal(torch.get_rng_state(), before)
    images = pixels(160).requires_grad_()
    assert not teacher(images).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    student = nn.Linear(1, 1)
    student.teacher = teacher
    student.train()
    assert list(student.state_dict()) == ["weight", "bias"]
    assert not any(module.training for module in teacher.network.modules())


def test_the_digest_is_of_the_weights(tmp_path: Path) -> None:
    path, built = saved(tmp_path)
    first = load_teacher(TINY, ["a", "b", "c"], OURS, checkpoint=path)
    torch.save({"model": built.state_dict()}, tmp_path / "same.pth")
    same = load_teacher(TINY, ["a", "b", "c"], OURS, checkpoint=tmp_path / "same.pth")
    assert first.to_dict() == same.to_dict()
    assert first.to_dict()["size"] == [160, 160]
    with torch.no_grad():
        built.get_classifier().bias[0] += 1
    torch.save(built.state_dict(), tmp_path / "other.pth")
    other = load_teacher(TINY, ["a", "b", "c"], OURS, checkpoint=tmp_path / "other.pth")
    assert other.digest != first.digest


def test_imagenet_classes_are_picked_by_their_wordnet_ids(tmp_path: Path) -> None:
    path, built = saved(tmp_path, classes=1000)
    classes = ["n03888257", "n01440764", "n03394916"]
    teacher = load_teacher(TINY, classes, Preprocessing(), checkpoint=path)
    with torch.no_grad():
        every = built(pixels(160))
    torch.testing.assert_close(teacher(pixels(160)), every[:, [701, 0, 566]], rtol=1e-4, atol=1e-4)
    all_of_them = load_teacher(TINY, ImageNetInfo().label_names(), Preprocessing(), checkpoint=path)
    torch.testing.assert_close(all_of_them(pixels(160)), every, rtol=1e-4, atol=1e-4)


def test_a_thousand_other_classes_are_taken_as_they_are(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, classes=1000)
    teacher = load_teacher(TINY, [f"class_{number}" for number in range(1000)], OURS, checkpoint=path)
    assert teacher.columns is None


@pytest.mark.parametrize(
    ("outputs", "classes", "message"),
    [
        (5, ["a", "b", "c"], "must know the classes of the images, got 5 for our 3, .*fine-tune it"),
        (1000, ["cat", "dog"], "'cat' is no WordNet id such as n01440764"),
        (1000, ["n01440764", "n00000001"], "'n00000001' is no class of ImageNet-1k"),
    ],
)
def test_other_classes_are_refused(outputs: int, classes: list[str], message: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, classes=outputs)
    with pytest.raises(MvigNasError, match=message):
        load_teacher(TINY, classes, OURS, checkpoint=path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "epoch": 3},
        lambda weights: {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}},
        lambda weights: {"state_dict": {name: 0 * tensor for name, tensor in weights.items()}, "model_ema": weights},
        lambda weights: {name: tensor for name, tensor in weights.items() if "num_batches" not in name},
    ],
    ids=["bare", "model", "module.", "averaged", "no counts"],
)
def test_checkpoints_of_torch(wrap: Any, tmp_path: Path) -> None:
    built = network(TINY, 3)
    torch.save(wrap(built.state_dict()), tmp_path / "teacher.pt")
    teacher = load_teacher(TINY, ["a", "b", "c"], Preprocessing(), checkpoint=tmp_path / "teacher.pt")
    with torch.no_grad():
        torch.testing.assert_close(teacher(pixels(160)), built(pixels(160)), rtol=1e-4, atol=1e-4)


def without(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "classifier.weight"), "it has no 'classifier.weight'"),
        (lambda w: without(w, "conv_stem.weight"), "it has no 'conv_stem.weight'"),
        (lambda w: w | {"extra.bias": torch.zeros(1)}, "it has 'extra.bias' besides"),
        (lambda w: w | {"bn1.bias": torch.zeros(5)}, r"its 'bn1.bias' is \(5,\), not \(24,\)"),
        (lambda w: w | {"classifier.weight": torch.zeros(4, 256)}, "its 'classifier.bias' is"),
        (lambda w: {"model": list(w.values())}, "must hold tensors by name, bare or under"),
        (lambda w: list(w.values()), "must hold tensors by name"),
        (lambda w: w | {"args": Namespace(lr=1.0)}, r"must be a file of tensors, got .*; write one with torch\.save"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    torch.save(change(dict(network(TINY, 3).state_dict())), path)
    with pytest.raises(MvigNasError, match=message) as caught:
        load_teacher(TINY, ["a", "b", "c"], OURS, checkpoint=path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["teacher.pth", "teacher.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    for content in (None, b"", b"no weights at all"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(MvigNasError, match=r"must be a file of tensors, got .*torch\.save") as caught:
            load_teacher(TINY, ["a", "b", "c"], OURS, checkpoint=tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_eficientnet_lite0", "got 'tf_eficientnet_lite0'; did you mean .*'tf_efficientnet_lite0'"),
        ("@@@@", r"got '@@@@'; timm.list_models\(\) has"),
        ("resnet18.no_such_tag", "got 'resnet18.no_such_tag'; leave out what follows the dot"),
        ("qwen3_vit_88m_enc", "got 'qwen3_vit_88m_enc', which has no last layer"),
    ],
)
def test_an_unknown_model_is_refused(name: str, message: str) -> None:
    with pytest.raises(MvigNasError, match=message):
        load_teacher(name, ["a"], OURS)


@pytest.mark.parametrize(("name", "resolution"), [("test_vit3", 96), ("test_coatnet", 96), (TINY, 0), (TINY, -5)])
def test_a_resolution_it_cannot_take_is_refused(name: str, resolution: int, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, name)
    with pytest.raises(MvigNasError, match=f"must take images of {resolution} px, got .*leave out the resolution"):
        load_teacher(name, ["a", "b", "c"], OURS, checkpoint=path, resolution=resolution)


def test_without_a_network_it_asks_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MvigNasError, match=f"weights of teacher '{TINY}' must be there to download, got ") as caught:
        load_teacher(TINY, ["n01440764"], OURS)
    assert str(caught.value).endswith("give a file of them: --teacher-checkpoint FILE.")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not (LITE0.exists() and IMAGENETTE.exists()), reason="needs the weights and the images")
def test_a_real_teacher_knows_imagenette(tmp_path: Path) -> None:
    with tarfile.open(IMAGENETTE) as archive:
        taken: dict[str, int] = {}
        for member in archive:
            parts = Path(member.name).parts
            if len(parts) == 4 and parts[1] == "val" and taken.get(parts[2], 0) < 6:
                taken[parts[2]] = taken.get(parts[2], 0) + 1
                archive.extract(member, tmp_path, filter="data")
    images = subset(read_split(tmp_path / "imagenette128", "val"), 60)
    assert len(images.classes) == 10
    teacher = load_teacher("tf_efficientnet_lite0", images.classes, Preprocessing(), checkpoint=LITE0)
    right = total = 0
    for batch, targets in EvaluationImages(images, Preprocessing(), 128, 20):
        right += int((teacher(batch).argmax(1) == targets).sum())
        total += len(targets)
    assert total == 60
    assert right / total > 0.85
