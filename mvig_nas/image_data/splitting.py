"""A plain folder of class folders, split once into training and validation images by links to its files."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mvig_nas import values
from mvig_nas.errors import MvigNasError
from mvig_nas.files import make_folder, read_json, save
from mvig_nas.image_data.folders import LabelledImages, hold_out, read_classes, read_split
from mvig_nas.image_data.skipping import BadImage, read_skipped, usable, write_skipped
from mvig_nas.image_data.transforms import read_image
from mvig_nas.values import about

RECORD = "split.json"
_SHARE = 0.2
_FEWEST = 4  # of a class: some to train on, some to choose by, some to measure on


@dataclass(frozen=True)
class Split:
    """Where the split lies, how many images are in each part, and which images could not be read.

    Attributes:
        folder: holds `train/CLASS` and `val/CLASS`.
        classes: names of the classes.
        train, val: numbers of images.
        unreadable: `class/file` of the images that were left out.
    """

    folder: Path
    classes: tuple[str, ...]
    train: int
    val: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class _Record:
    """What `split.json` holds."""

    schema: Literal[1]
    images: str
    classes: tuple[str, ...]
    train: Annotated[int, about("Number of training images.", ge=1)]
    val: Annotated[int, about("Number of validation images.", ge=1)]
    unreadable: tuple[str, ...]


def is_split(data: Path) -> bool:
    """Whether a folder has training and validation images already."""
    return (data / "train").is_dir() and any((data / name).is_dir() for name in ("val", "valid", "validation"))


def split_images(
    images: Path, folder: Path, *, share: float = _SHARE, on_progress: Callable[[int, int], None] | None = None
) -> Split:
    """Split `images/CLASS/*` into `folder/train/CLASS/*` and `folder/val/CLASS/*`, which are links to the files.

    Every image is decoded once, and one that cannot be read is left out. Which images are for validation depends on
    their names alone. A split that is there already is returned as it is, also where images were added since.

    Args:
        images: the folder of the class folders.
        folder: where the split is put.
        share: of every class that is for validation.
        on_progress: called with the number of images that were looked at, and of all.

    Raises:
        MvigNasError: there are no class folders, or fewer than two; a class has fewer than 4 readable images; the
            folder cannot be written, or it holds a split of other images.
    """
    if (folder / RECORD).is_file():
        return _read(images, folder)
    found = read_classes(images, "CLASS/*.jpg")
    if len(found.classes) < 2:
        raise MvigNasError(f"{images} must hold at least 2 class folders, got {list(found.classes)}; add a class.")
    unreadable = _unreadable(found, on_progress)
    good = [index for index in range(len(found)) if index not in unreadable]
    for target, name in enumerate(found.classes):
        count = sum(found.targets[index] == target for index in good)
        if count < _FEWEST:
            raise MvigNasError(
                f"a class must have at least {_FEWEST} images that can be read, got {count} of {name!r}; add images."
            )
    readable = LabelledImages(
        found.classes,
        tuple(found.paths[index] for index in good),
        tuple(found.targets[index] for index in good),
        found.root,
    )
    rest, held = hold_out(readable, share)
    for part, name in ((rest, "train"), (held, "val")):
        _link(part, folder / name)
    made = Split(folder, found.classes, len(rest), len(held), tuple(found.names[index] for index in sorted(unreadable)))
    record = _Record(1, str(images.absolute()), made.classes, made.train, made.val, made.unreadable)
    save(folder / RECORD, json.dumps(values.plain(record), indent=1) + "\n")
    return made


def link_usable(data: Path, folder: Path, record: Path) -> tuple[BadImage, ...]:
    """Link the images of `data/train` and `data/val` that can be read into `folder`, and list the others.

    Args:
        data: is split already.
        folder: where the links are put.
        record: folder of the list, which says that the links are there.

    Raises:
        MvigNasError: a class has no image that can be read, or a folder cannot be written.
    """
    known = read_skipped(record)
    if known is not None:
        return known
    parts = (read_split(data, "train"), read_split(data, "val"))
    left, bad = usable(parts, record, skips=True)
    for part, name in zip(left, ("train", "val"), strict=True):
        _link(part, folder / name)
    write_skipped(bad, record)
    return bad


def _unreadable(images: LabelledImages, on_progress: Callable[[int, int], None] | None) -> set[int]:
    """The indices of images that cannot be decoded."""

    def fails(path: str) -> bool:
        try:
            read_image(path)
        except MvigNasError:
            return True
        return False

    found = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, failed in enumerate(pool.map(fails, images.paths)):
            if failed:
                found.add(index)
            if on_progress is not None:
                on_progress(index + 1, len(images))
    return found


def _link(part: LabelledImages, folder: Path) -> None:
    for path, name in zip(part.paths, part.names, strict=True):
        link = folder / name
        make_folder(link.parent)
        try:
            link.unlink(missing_ok=True)  # of a split that a kill cut short
            link.symlink_to(path)
        except OSError as error:
            raise MvigNasError(f"{folder} must be writable, got {error.strerror!r}; take another place.") from error


def _read(images: Path, folder: Path) -> Split:
    path = folder / RECORD
    record = values.read(_Record, read_json(path, "the record of a split", "take another folder"), str(path))
    if record.images != str(images.absolute()):
        raise MvigNasError(
            f"{folder} holds the split of {record.images}, not of {images.absolute()}; take another folder."
        )
    for name in record.unreadable:
        class_name, _, file_name = name.partition("/")
        if class_name not in record.classes or not file_name:
            raise MvigNasError(f"{path}: an entry of `unreadable` must be CLASS/FILE, got {name!r}; restore the file.")
    return Split(folder, record.classes, record.train, record.val, record.unreadable)
