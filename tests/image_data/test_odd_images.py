"""Images that cameras, the web and strangers make: each has one documented outcome."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import read_split
from mvig_nas.image_data.transforms import read_image
from tests.images import write_images

RED = (250, 10, 10)


def test_an_eps_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (8, 8), RED).save(path, format="EPS")
    with pytest.raises(MvigNasError, match=r"got no known format in .*image\.jpg"):
        read_image(str(path))


def test_zero_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").touch()
    with pytest.raises(MvigNasError, match=r"got no known format in .*image\.png"):
        read_image(str(tmp_path / "image.png"))


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(MvigNasError, match="Every image must be readable"):
        read_image(str(tmp_path / "a.jpg"))


def test_the_first_picture_of_an_animation_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "image.webp"
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (10, 10, 250))
    first.save(path, save_all=True, append_images=[second], lossless=True)
    assert read_image(str(path)).getpixel((3, 3)) == RED


def test_the_rotation_of_a_camera_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (16, 8), RED).save(path, exif=exif)
    assert read_image(str(path)).size == (16, 8)


def test_a_cmyk_image_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (8, 8), RED).convert("CMYK").save(path)
    found = np.asarray(read_image(str(path)))
    assert found.shape == (8, 8, 3)
    assert np.abs(found.astype(int) - RED).max() < 20


def test_names_with_commas_and_line_ends_are_images_too(tmp_path: Path) -> None:
    home = write_images(tmp_path, classes=2, train=2, val=1) / "train" / "class_0"
    (home / "0000.jpg").rename(home / "a, b\nc.jpg")
    images = read_split(tmp_path, "train")
    assert "class_0/a, b\nc.jpg" in images.names
    assert read_image(images.paths[images.names.index("class_0/a, b\nc.jpg")]).size == (40, 40)
