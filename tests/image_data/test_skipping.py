"""Images that cannot be read are named and refused, or left out and listed where that is asked for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mvig_nas import scores
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import (
    bad_images,
    hold_out,
    link_usable,
    read_parts,
    read_skipped,
    read_split,
    usable,
    with_unlabelled,
    without,
    write_skipped,
)
from mvig_nas.recipes import Plan
from mvig_nas.scores.trained_score import training_parts
from mvig_nas.training import (
    Execution,
    RetrainRequest,
    StopTraining,
    SupernetRequest,
    retrain,
    run_supernet_training,
)
from mvig_nas.training.model_folder import read_model
from tests.images import write_images
from tests.tiny_training import PLAN, RECIPE, SPACE

SHORT = replace(RECIPE, epochs=2)
SKIPPING = Execution(skip_bad_images=True)


def spoilt(folder: Path, *names: str) -> Path:
    """Images, some of which cannot be read."""
    write_images(folder, train=12, val=4)
    for name in names or ("train/class_0/0003.png", "val/class_1/0001.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


def names_of(folder: Path) -> list[str]:
    return [each.image for each in read_skipped(folder) or ()]


def test_bad_images_are_named_once_with_the_reason(tmp_path: Path) -> None:
    parts = read_parts(spoilt(tmp_path), 0.0)
    bad = bad_images(parts)
    assert [each.image for each in bad] == ["train/class_0/0003.png", "val/class_1/0001.jpg"]
    assert "no known format" in bad[0].problem


def test_what_is_held_out_stays_held_out(tmp_path: Path) -> None:
    before = hold_out(read_split(write_images(tmp_path / "a"), "train"), 0.3)
    name = f"train/{before[1].names[0]}"
    after = [without(part, {name}) for part in before]
    assert after[0].names == before[0].names
    assert after[1].names == before[1].names[1:]


def test_images_without_a_label_are_left_out_too(tmp_path: Path) -> None:
    data, more = write_images(tmp_path / "a"), tmp_path / "more"
    more.mkdir()
    shutil.copy(data / "train/class_0/0000.jpg", more / "good.jpg")
    (more / "bad.jpg").write_bytes(b"")
    part = with_unlabelled(read_split(data, "train"), more)
    (left,), bad = usable([part], tmp_path / "run", skips=True)
    assert [each.image for each in bad] == [".unlabelled/bad.jpg"]
    assert left.unlabelled == 1


def test_a_class_without_an_image_that_can_be_read_is_refused(tmp_path: Path) -> None:
    data = write_images(tmp_path, train=1, val=1)
    (data / "val/class_2/0000.jpg").write_bytes(b"")
    with pytest.raises(MvigNasError, match=r"got none of 'class_2' below .*val; add images"):
        usable([read_split(data, "val")], tmp_path / "run", skips=True)


def test_a_list_is_kept_to_whatever_the_images_are_now(tmp_path: Path) -> None:
    data, run = spoilt(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    write_skipped(usable(read_parts(data, 0.0), run, skips=True)[1], run)
    shutil.copy(data / "train/class_0/0000.jpg", data / "train/class_0/0003.png")
    (left, *_), bad = usable(read_parts(data, 0.0), run, skips=False)
    assert len(bad) == 2
    assert "class_0/0003.png" not in left.names


def test_a_damaged_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "skipped_images.json").write_text('{"schema": 1, "skipped": [{"image": 3}]}')
    with pytest.raises(MvigNasError, match=r"skipped_images\.json: "):
        read_skipped(tmp_path)


def test_retraining_is_as_if_the_bad_images_were_not_there(tmp_path: Path) -> None:
    data = spoilt(tmp_path / "data")
    request = RetrainRequest(SPACE.smallest, data, Plan(SHORT), execution=SKIPPING)
    run = tmp_path / "run"
    with pytest.raises(StopTraining):
        retrain(replace(request, execution=replace(SKIPPING, stop_after=2)), run)
    done = retrain(replace(request, execution=replace(SKIPPING, resume=True)), run)
    assert names_of(run) == ["train/class_0/0003.png", "val/class_1/0001.jpg"]
    for name in names_of(run):
        (data / name).unlink()
    other = retrain(replace(request, execution=Execution()), tmp_path / "other")
    assert read_model(run).about["images"] == read_model(tmp_path / "other").about["images"]
    here, there = done.network.state_dict(), other.network.state_dict()
    assert all(here[name].equal(there[name]) for name in here)


def test_without_the_option_a_bad_image_ends_a_training_and_leaves_no_list(tmp_path: Path) -> None:
    request = RetrainRequest(SPACE.smallest, spoilt(tmp_path / "data"), Plan(SHORT))
    with pytest.raises(MvigNasError, match="Every image must be readable"):
        retrain(request, tmp_path / "run")
    assert not (tmp_path / "run" / "skipped_images.json").exists()


def test_a_start_that_fails_takes_its_list_back(tmp_path: Path) -> None:
    data = spoilt(tmp_path / "data")
    with pytest.raises(MvigNasError, match="at least one batch"):
        retrain(
            RetrainRequest(
                SPACE.smallest, data, Plan(replace(SHORT, batch_size=60, micro_batch_size=60)), execution=SKIPPING
            ),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_a_score_leaves_out_what_the_supernet_left_out(tmp_path: Path) -> None:
    data, run = spoilt(tmp_path / "data"), tmp_path / "run"
    run_supernet_training(SupernetRequest(SPACE, data, replace(SHORT, hold_out=0.2), PLAN, execution=SKIPPING), run)
    score = scores.SupernetScore(run, data, calibration_images=12)
    assert 0 <= score(SPACE.smallest) <= 1


def test_a_score_leaves_out_held_out_images_that_were_spoilt_later(tmp_path: Path) -> None:
    data, trained, run = write_images(tmp_path / "data"), tmp_path / "trained", tmp_path / "run"
    recipe = replace(SHORT, hold_out=0.2)
    run_supernet_training(SupernetRequest(SPACE, data, recipe, PLAN), trained)
    _, held = hold_out(read_split(data, "train"), 0.2)
    Path(held.paths[0]).write_bytes(b"")
    run.mkdir()
    refusing = scores.SupernetScore(trained, data, calibration_images=0)
    with pytest.raises(MvigNasError, match="Every image must be readable"):
        refusing(SPACE.smallest)
    score = scores.load(f"supernet:{trained}", data=data, space=SPACE, skipping_in=run)
    assert 0 <= score(SPACE.smallest) <= 1
    assert names_of(run) == [f"train/{held.names[0]}"]


def test_finalists_and_their_workers_leave_out_the_same(tmp_path: Path) -> None:
    data, folder = spoilt(tmp_path / "data"), tmp_path / "finalists"
    images, held, bad = training_parts(data, 0.15, folder, skips=True)
    folder.mkdir()
    write_skipped(bad, folder)
    assert [each.image for each in bad] == ["train/class_0/0003.png"]
    again = training_parts(data, 0.15, folder, skips=False)
    assert (again[0].names, again[1].names) == (images.names, held.names)
    assert len(images) + len(held) == 35


def test_a_run_links_what_can_be_read(tmp_path: Path) -> None:
    data = spoilt(tmp_path / "data")
    (tmp_path / "run").mkdir()
    link_usable(data, tmp_path / "run" / "images", tmp_path / "run")
    assert len(read_split(tmp_path / "run" / "images", "train")) == 35
    assert len(read_split(tmp_path / "run" / "images", "val")) == 11
    assert json.loads((tmp_path / "run" / "skipped_images.json").read_text())["schema"] == 1
