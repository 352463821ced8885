"""A plain folder of class folders becomes training and validation images."""

import json
from pathlib import Path

import pytest

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import check_same_classes, is_split, read_split, split_images
from tests.images import write_images


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data", train=10, val=1) / "train"


def test_every_image_is_in_one_part_and_the_same_one_again(plain: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = split_images(plain, tmp_path / "split", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30)
    assert (made.train, made.val, made.unreadable) == (24, 6, ())
    train, val = read_split(made.folder, "train"), read_split(made.folder, "val")
    check_same_classes(train, val)
    assert sorted((*train.names, *val.names)) == sorted(
        path.relative_to(plain).as_posix() for path in plain.rglob("*") if path.is_file()
    )
    assert all(Path(path).is_symlink() for path in train.paths)
    assert split_images(plain, tmp_path / "other").val == 6
    assert read_split(tmp_path / "other", "val").names == val.names
    assert split_images(plain, tmp_path / "split") == made
    assert is_split(made.folder)
    assert not is_split(plain)


def test_images_that_cannot_be_read_are_left_out_and_listed(plain: Path, tmp_path: Path) -> None:
    (plain / "class_1" / "0003.png").write_bytes(b"no image")
    (plain / "class_2" / "0001.jpg").write_bytes(b"")
    made = split_images(plain, tmp_path / "split")
    assert made.unreadable == ("class_1/0003.png", "class_2/0001.jpg")
    assert made.train + made.val == 28
    assert json.loads((tmp_path / "split" / "split.json").read_text())["unreadable"] == list(made.unreadable)


def test_a_split_that_was_cut_short_is_made_anew(plain: Path, tmp_path: Path) -> None:
    made = split_images(plain, tmp_path / "split")
    (tmp_path / "split" / "split.json").unlink()
    assert split_images(plain, tmp_path / "split") == made


def test_what_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(MvigNasError, match="must be in a folder, got none"):
        split_images(tmp_path / "missing", tmp_path / "split")
    one = tmp_path / "one"
    one.mkdir()
    (one / "class_0").symlink_to(plain / "class_0")
    with pytest.raises(MvigNasError, match=r"at least 2 class folders, got \['class_0'\]"):
        split_images(one, tmp_path / "split")
    for path in sorted((plain / "class_0").iterdir())[3:]:
        path.unlink()
    with pytest.raises(MvigNasError, match="at least 4 images that can be read, got 3 of 'class_0'"):
        split_images(plain, tmp_path / "split")
    other = write_images(tmp_path / "other", train=5, val=1) / "train"
    split_images(other, tmp_path / "split")
    with pytest.raises(MvigNasError, match="holds the split of"):
        split_images(plain, tmp_path / "split")
    (tmp_path / "split" / "split.json").write_text("[]")
    with pytest.raises(MvigNasError, match=r"split.json: it must be a table, got \[\]"):
        split_images(other, tmp_path / "split")
    record = tmp_path / "split" / "split.json"
    split_images(other, tmp_path / "again")
    content = json.loads((tmp_path / "again" / "split.json").read_text())
    for entry in ("class_0", "class_0/", "other/a.jpg"):
        record.write_text(json.dumps(content | {"unreadable": [entry]}))
        with pytest.raises(MvigNasError, match=f"`unreadable` must be CLASS/FILE, got '{entry}'"):
            split_images(other, tmp_path / "split")
