"""The dense task: images of shapes, a head on the stages, and trainings that are never run twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mvig_nas.cli import cli
from mvig_nas.errors import MvigNasError
from mvig_nas.experiments import Dense, Experiment
from mvig_nas.experiments.dense import Segmenter, dense_cells, mean_iou, trained
from mvig_nas.experiments.matching import TOLERANCE
from mvig_nas.experiments.shapes import KINDS, shapes
from mvig_nas.latency import ArchitectureLatency

FILE = """
schema = 1
question = "Do they segment?"
base = "mobilevig_ti"

[dense]
images = 128
held_out = 32
kinds = 1
epochs = 20
seeds = 2

[dense.base]
resolution = 32
head_width = 8

[[dense.base.stages]]
width = 12
conv_depth = 1

[[dense.base.stages]]
width = 16
graph_depth = 1
graph_step = 1

[[dense.base.stages]]
width = 16

[[dense.base.stages]]
width = 16

[dense.cells]
hybrid = {}
"MBConv instead" = { "stages.graph_depth" = 0, "stage2.conv_depth" = 1 }
"""


def task() -> Dense:
    dense = Experiment.load("beyond-classification").dense
    assert dense is not None
    return dense


class TestShapes:
    def test_depend_on_the_seed_alone(self) -> None:
        images, classes = shapes(8, 64, 4, seed=3)
        again, again_classes = shapes(8, 64, 4, seed=3)
        assert torch.equal(images, again)
        assert torch.equal(classes, again_classes)
        assert not torch.equal(images, shapes(8, 64, 4, seed=4)[0])
        assert (images.shape, images.dtype) == ((8, 3, 64, 64), torch.float32)
        assert (classes.shape, classes.dtype) == ((8, 64, 64), torch.int64)

    @pytest.mark.parametrize("kinds", [1, 4])
    def test_all_classes_and_no_other_are_there(self, kinds: int) -> None:
        classes = shapes(40, 64, kinds, seed=0)[1]
        assert classes.unique().tolist() == list(range(kinds + 1))
        assert 0.5 < (classes == 0).double().mean() < 0.95

    def test_colours_tell_nothing_of_the_class(self) -> None:
        images, classes = shapes(400, 32, 4, seed=0)
        pixels = images.permute(0, 2, 3, 1)
        means = np.array([pixels[classes == kind].mean(0).numpy() for kind in range(len(KINDS) + 1)])
        assert np.abs(means).max() < 0.12  # of colours between -1 and 1


def test_mean_iou() -> None:
    classes = torch.tensor([[0, 0, 1, 1]])
    assert mean_iou(classes, classes, 3) == 1  # the class that is nowhere is left out
    assert mean_iou(torch.tensor([[0, 1, 1, 1]]), classes, 2) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean_iou(torch.tensor([[2, 2, 2, 2]]), classes, 3) == 0


class TestCells:
    def test_the_shipped_ones_take_equal_macs_and_answer_every_pixel(self) -> None:
        cells = dense_cells(task(), ArchitectureLatency.load("iphone-13-mini"))
        assert [each.name for each in cells] == ["hybrid", "MBConv instead"]
        assert [sum(stage.graph_depth for stage in each.architecture.stages) for each in cells] == [3, 0]
        assert all(each.matched is not None and abs(each.matched - 1) <= TOLERANCE for each in cells)
        for cell in cells:
            assert Segmenter(cell, 5).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 5, 64, 64)

    def test_one_alone_is_refused(self) -> None:
        with pytest.raises(MvigNasError, match=r"at least two cells, got \['hybrid'\]"):
            replace(task(), cells={"hybrid": {}})
        with pytest.raises(MvigNasError, match="`kinds` must be a whole number of at most 4, got 5"):
            replace(task(), kinds=5)

    def test_no_widths_that_match_are_refused_with_the_nearest(self) -> None:
        asked = replace(task(), cells={"hybrid": {}, "deep": {"head_width": 16384}})
        with pytest.raises(MvigNasError, match=r"cell 'deep' .* no widths do; the nearest"):
            dense_cells(asked, ArchitectureLatency.load("iphone-13-mini"))


@pytest.mark.filterwarnings("ignore")
def test_trained_once_and_told(tmp_path: Path) -> None:
    file, folder = tmp_path / "trial.toml", tmp_path / "run"
    file.write_text(FILE)
    asked = Experiment.load(str(file)).dense
    assert asked is not None
    cells = dense_cells(asked, ArchitectureLatency.load("iphone-13-mini"))

    def stop(_: str, done: int, total: int) -> None:
        assert total == 4
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(asked, cells, folder, stop)
    (first,) = folder.glob("dense/*/result.json")
    before = first.stat().st_mtime_ns
    done = CliRunner().invoke(cli, ["ablate", str(file), "--out", str(folder), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert first.stat().st_mtime_ns == before
    found = json.loads(done.stdout)
    hybrid, other = found["dense"]
    assert len(hybrid["mean_iou"]) == len(other["mean_iou"]) == 2
    assert hybrid["mean_iou"][0] == json.loads(first.read_text())["mean_iou"]
    held_out = shapes(asked.held_out, 32, 1, seed=2)[1]
    ground = mean_iou(torch.zeros_like(held_out), held_out, 2)
    assert ground + 0.03 < min(hybrid["mean_iou"] + other["mean_iou"]) < 1
    assert found["findings"][-1].startswith("In segmenting shapes at equal MACs, the mean IoU of 'MBConv instead' is ")
    assert "Segmentation of shapes" in (folder / "report.html").read_text()
    assert (folder / "dense.png").stat().st_size > 1000
    whole = trained(replace(asked, seeds=1), cells, tmp_path / "whole")
    assert [each.mean_iou[0] for each in whole] == [hybrid["mean_iou"][0], other["mean_iou"][0]]
