"""The picture of a training is drawn from what the training logged."""

import random
from pathlib import Path

import pytest

from mvig_nas.image_data import read_split
from mvig_nas.training import train_supernet
from mvig_nas.training.learning_curves import PICTURE, learning_curves_png, write_learning_curves
from tests.images import write_images
from tests.tiny_training import RECIPE, SPACE

PNG = b"\x89PNG"
LOG = "step,loss,top1\n20,2.5,0.1\n40,1.5,0.2\n"
VALIDATION = "step,epoch,val_top1_mean,val_top5_mean\n20,1,0.25,0.5\n40,2,0.5,0.75\n"


def height(content: bytes) -> int:
    return int.from_bytes(content[20:24], "big")


def test_each_file_that_is_there_is_a_panel(tmp_path: Path) -> None:
    assert not write_learning_curves(tmp_path)
    assert not (tmp_path / PICTURE).exists()
    (tmp_path / "log.csv").write_text(LOG)
    assert write_learning_curves(tmp_path)
    one = (tmp_path / PICTURE).read_bytes()
    (tmp_path / "validation.csv").write_text(VALIDATION)
    assert write_learning_curves(tmp_path)
    both = (tmp_path / PICTURE).read_bytes()
    assert one.startswith(PNG)
    assert both.startswith(PNG)
    assert height(both) == 2 * height(one)


@pytest.mark.parametrize("damage", ["60,nonsense,0.3\n", "60\n", "60,nan,0.3\n"])
def test_a_damaged_row_costs_no_more_than_itself(tmp_path: Path, damage: str) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    write_learning_curves(tmp_path)
    whole = (tmp_path / PICTURE).read_bytes()
    (tmp_path / "log.csv").write_text(LOG + damage)
    write_learning_curves(tmp_path)
    assert (tmp_path / PICTURE).read_bytes() == whole


def test_other_figures_give_another_picture() -> None:
    rows = [{"step": float(step), "loss": random.Random(step).random()} for step in range(50)]
    assert learning_curves_png(rows, []) == learning_curves_png(rows, [])
    assert learning_curves_png(rows, []) != learning_curves_png(rows[:-1], [])


def test_a_supernets_training_leaves_one(tmp_path: Path) -> None:
    images = read_split(write_images(tmp_path / "data"), "train")
    train_supernet(SPACE, images, RECIPE, tmp_path / "run")
    assert (tmp_path / "run" / PICTURE).read_bytes().startswith(PNG)
