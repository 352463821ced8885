"""Recalibrated batch norms and top-1; and that a supernet learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import EvaluationImages, LabelledImages, Preprocessing, read_split, resized
from mvig_nas.network import build
from mvig_nas.training import train_supernet
from mvig_nas.training.accuracy import Calibration, recalibrate, top1
from tests.images import write_images
from tests.tiny_training import PLAN, RECIPE, SPACE

GENTLE = Preprocessing(crop_scale=(0.7, 1.0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=24, val=10)


@pytest.fixture(scope="module")
def images(data: Path) -> LabelledImages:
    return read_split(data, "train")


def batches(count: int = 3, size: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(size, 3, 32, 32, generator=generator) + place for place in range(count)]


class TestCalibration:
    def test_a_fixed_sample_of_the_images_without_erasing(self, images: LabelledImages) -> None:
        erasing = replace(GENTLE, random_erasing=1.0)
        first, again, plain = (Calibration(images, each, 32, count=40) for each in (erasing, erasing, GENTLE))
        assert [tuple(batch.shape) for batch in first.batches] == [(40, 3, 32, 32)]
        for other in (again, plain):
            assert all(torch.equal(a, b) for a, b in zip(first.batches, other.batches, strict=True))
        assert not torch.equal(Calibration(images, GENTLE, 32, count=40, seed=1).batches[0], first.batches[0])

    def test_more_than_there_are_is_all(self, images: LabelledImages) -> None:
        (batch,) = Calibration(images, GENTLE, 32, count=1000).batches
        assert len(batch) == len(images) == 72


class TestRecalibrate:
    @pytest.mark.parametrize("resolution", [32, 24])
    def test_statistics_are_the_means_over_the_batches(self, resolution: int) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
        recalibrate(network, batches(), resolution)
        maps: dict[int, list[Tensor]] = {1: [], 4: []}
        for batch in batches():
            x = resized(batch, resolution)
            for place, layer in enumerate(network):
                if isinstance(layer, nn.BatchNorm2d):
                    maps[place].append(x.double())
                    x = nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
                else:
                    x = layer(x)
        for place, seen in maps.items():
            mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in seen]).mean(dim=0)
            variance = torch.stack([x.var(dim=(0, 2, 3)) for x in seen]).mean(dim=0)
            norm = network[place]
            torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-4, atol=1e-5)

    def test_all_else_stays_and_what_the_statistics_were_does_not_matter(self) -> None:
        network = build(SPACE.largest, 3, drop_path_rate=0.5)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        momenta = [module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        recalibrate(network, batches(), 32)
        once = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for name, tensor in once.items():
            if name.rpartition(".")[2] not in ("running_mean", "running_var", "num_batches_tracked"):
                assert torch.equal(tensor, before[name])
            elif name.endswith("running_mean"):
                assert not torch.equal(tensor, before[name])
        assert [module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)] == momenta
        assert not any(module.training for module in network.modules())
        assert all(parameter.grad is None for parameter in network.parameters())
        recalibrate(network, batches(), 32)
        assert all(torch.equal(tensor, once[name]) for name, tensor in network.state_dict().items())


class TestTop1:
    def test_share_of_the_images_whose_class_has_the_largest_logit(self) -> None:
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
        nn.init.eye_(network[2].weight)
        pixels = torch.zeros(7, 3, 4, 4)
        for place, brightest in enumerate((0, 1, 2, 0, 1, 2, 0)):
            pixels[place, brightest] = 1.0
        targets = torch.tensor([0, 1, 2, 0, 0, 0, 1])
        assert top1(network, [(pixels[:5], targets[:5]), (pixels[5:], targets[5:])], 4) == pytest.approx(4 / 7)

    @pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
    def test_logits_that_are_not_finite(self, wrong: float) -> None:
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
        nn.init.constant_(network[2].bias, wrong)
        with pytest.raises(MvigNasError, match=r"logits must be finite, got NaN or infinity; .* train anew"):
            top1(network, [(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))], 4)


def test_a_supernet_learns_in_seconds(data: Path, images: LabelledImages, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=12, preprocessing=GENTLE)
    outcome = train_supernet(SPACE, images, recipe, tmp_path, plan=PLAN)
    assert not outcome.rollbacks
    validation = EvaluationImages(read_split(data, "val"), GENTLE, 32)
    calibration = Calibration(images, GENTLE, 32)
    reached = {}
    for name, architecture in (("largest", SPACE.largest), ("smallest", SPACE.smallest)):
        network = outcome.model.extract(architecture)  # type: ignore[operator]
        recalibrate(network, calibration.batches, architecture.resolution)
        reached[name] = top1(network, validation, architecture.resolution)
    assert reached["largest"] > 0.8  # chance is a third
    assert reached["smallest"] > 0.6
