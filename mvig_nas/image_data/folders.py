"""Which images there are: folders of classes, and parts of them chosen by hash."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal

from mvig_nas.errors import MvigNasError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_UNLABELLED = ".unlabelled"
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid")}


@dataclass(frozen=True)
class LabelledImages:
    """Image files and their class numbers, in an order that depends on the names alone.

    Images without a label have the number of classes as their target; see `with_unlabelled`.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    root: str  # every path with a label is below it
    unlabelled_root: str = ""  # every path without one is below it

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``class/file`` of every image, which stays the same when the data set moves.

        ``.unlabelled``, which is no class's name, stands in front of those without a label.
        """
        start, other = (len(root.rstrip(os.sep)) + 1 for root in (self.root, self.unlabelled_root))
        labelled = len(self.paths) - self.unlabelled
        names = [path[start:] for path in self.paths[:labelled]]
        names += [os.path.join(_UNLABELLED, path[other:]) for path in self.paths[labelled:]]
        return tuple(name.replace(os.sep, "/") for name in names)

    @cached_property
    def unlabelled(self) -> int:
        """How many images have no label; they are the last ones."""
        return self.targets.count(len(self.classes))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits over the classes and the names of the images (not over their content)."""
        lines = "\0".join(("\0".join(self.classes), "", *self.names))
        return sha256(os.fsencode(lines)).hexdigest()[:16]

    @cached_property
    def sizes_digest(self) -> str:
        """16 hexadecimal digits over the sizes of the files in bytes; files that cannot be read count as empty."""
        sizes = (os.stat(path).st_size if os.path.isfile(path) else 0 for path in self.paths)
        return sha256(" ".join(map(str, sizes)).encode()).hexdigest()[:16]


def read_split(data: Path, split: Literal["train", "val"]) -> LabelledImages:
    """The images of ``data/train/CLASS`` or ``data/val/CLASS``, those in folders below a class too.

    Hidden files, files of other kinds and files beside the class folders are passed over; links are followed.

    Raises:
        MvigNasError: the folder, the split or its classes are missing, or a class has no image.
    """
    if not data.is_dir():
        found = "a file" if data.exists() else "nothing"
        raise MvigNasError(
            f"The data must be a folder, got {found} at {data}; give the folder that holds train and val."
        )
    # absolute, yet not resolved: a link's own name is the image's name
    folder = next((Path(os.path.abspath(data / name)) for name in SPLITS[split] if (data / name).is_dir()), None)
    layout = f"{split}/CLASS/*.jpg"
    if folder is None:
        looked_for = " or ".join(repr(name) for name in SPLITS[split])
        raise MvigNasError(
            f"{data} must hold a folder {looked_for}, got {_listed(_entries(data))}; arrange the images as {layout}. "
            "`mvig-nas run` takes folders of classes as they are, and splits them."
        )
    return read_classes(folder, layout)


def read_classes(folder: Path, layout: str) -> LabelledImages:
    """The images of ``folder/CLASS``, as `read_split` takes them.

    Args:
        folder: holds the class folders.
        layout: how images should be arranged, for the error.

    Raises:
        MvigNasError: the folder or its classes are missing, or a class has no image.
    """
    if not folder.is_dir():
        raise MvigNasError(f"The images must be in a folder, got none at {folder}; arrange them as {layout}.")
    folder = Path(os.path.abspath(folder))
    classes = tuple(name for name in _entries(folder) if (folder / name).is_dir())
    if not classes:
        raise MvigNasError(f"{folder} must hold a folder for each class, got none; arrange the images as {layout}.")
    paths: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        found_paths = sorted(_image_paths(folder / name))
        if not found_paths:
            raise MvigNasError(
                f"Each class must have at least one image ({', '.join(EXTENSIONS)}), got none in {folder / name}; "
                "add images or remove the folder."
            )
        paths += found_paths
        targets += [target] * len(found_paths)
    return LabelledImages(classes, tuple(paths), tuple(targets), str(folder))


def read_parts(data: Path, fraction: float) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """Images of a folder to train on, to choose by, and to validate on.

    The images to choose by are the held-out `fraction` of the training images, or the validation images if it is 0.

    Raises:
        MvigNasError: see `read_split` and `hold_out`; the splits have different classes.
    """
    train, val = read_split(data, "train"), read_split(data, "val")
    check_same_classes(train, val)
    return (*hold_out(train, fraction), val) if fraction else (train, val, val)


def with_unlabelled(images: LabelledImages, folder: Path) -> LabelledImages:
    """The images, and after them those in a folder or in folders below it, which have no labels.

    Raises:
        MvigNasError: the folder is missing, or has no image.
    """
    root = os.path.abspath(folder)
    paths = sorted(_image_paths(Path(root)))
    if not paths:
        raise MvigNasError(
            f"A folder of unlabelled images must hold images ({', '.join(EXTENSIONS)}), got none at {folder}; check "
            "the path."
        )
    return replace(
        images,
        paths=(*images.paths, *paths),
        targets=(*images.targets, *[len(images.classes)] * len(paths)),
        unlabelled_root=root,
    )


def check_same_classes(train: LabelledImages, val: LabelledImages) -> None:
    """Refuse two splits whose class numbers would mean different classes.

    Raises:
        MvigNasError: a class is in one of them only.
    """
    for here, there in ((train, val), (val, train)):
        lacking = sorted(set(here.classes) - set(there.classes))
        if lacking:
            raise MvigNasError(
                f"Both splits must have the same classes, got {_listed(lacking)} in {here.root} and not in "
                f"{there.root}; add the folder to the one or remove it from the other."
            )


def check_classes(images: LabelledImages, classes: Sequence[str]) -> None:
    """Refuse images of other classes than a model's.

    Raises:
        MvigNasError: a class is in one of them only.
    """
    for has, lacks, where in ((images.classes, classes, "the model"), (classes, images.classes, str(images.root))):
        lacking = sorted(set(has) - set(lacks))
        if lacking:
            raise MvigNasError(
                f"Images must be of the model's classes, got {_listed(lacking)}, not in {where}; give the data it was "
                "trained for."
            )


def hold_out(images: LabelledImages, fraction: float, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """The rest, and the held-out `fraction` of every class (at least one image is in each).

    Chosen by a hash of the names, so that adding an image to a class moves at most one other across.

    Raises:
        MvigNasError: the fraction is not between 0 and 1, or a class has a single image.
    """
    if not 0 < fraction < 1:
        raise MvigNasError(f"The held-out fraction must be between 0 and 1, got {fraction}; try 0.1.")
    held: list[int] = []
    for name, members in zip(images.classes, _by_class(images, seed), strict=True):
        if len(members) < 2:
            raise MvigNasError(
                f"A class must have at least 2 images to hold some out, got {len(members)} of {name!r}; add images."
            )
        held += members[: min(max(round(fraction * len(members)), 1), len(members) - 1)]
    rest = set(range(len(images))).difference(held)
    return _chosen(images, rest), _chosen(images, held)


def subset(images: LabelledImages, count: int, seed: int = 0) -> LabelledImages:
    """`count` images, or all if there are fewer, with the classes in the proportions of the whole.

    A larger subset of the same seed contains a smaller one.

    Raises:
        MvigNasError: the count is not positive.
    """
    if count < 1:
        raise MvigNasError(f"The number of images must be at least 1, got {count}; raise it.")
    if count >= len(images):
        return images
    order = sorted(
        ((rank + 0.5) / len(members), _hash(seed, images.names[index]), index)
        for members in _by_class(images, seed)
        for rank, index in enumerate(members)
    )
    return _chosen(images, (index for _, _, index in order[:count]))


def share(images: LabelledImages, rank: int, world_size: int) -> LabelledImages:
    """The images that one of so many processes looks at, every one in one share; a share may be empty."""
    return _chosen(images, range(rank, len(images), world_size))


def _entries(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more if names else "an empty folder"


def _image_paths(folder: Path) -> Iterator[str]:
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        # a link to a folder above would never end
        identity = os.path.realpath(parent)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            os.path.join(parent, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS)
        )


def _by_class(images: LabelledImages, seed: int) -> list[list[int]]:
    """The indices of each class, in the order of their hashes."""
    members: list[list[int]] = [[] for _ in images.classes]
    for index, target in enumerate(images.targets):
        members[target].append(index)
    return [sorted(indices, key=lambda index: _hash(seed, images.names[index])) for indices in members]


def _hash(seed: int, name: str) -> bytes:
    return sha256(os.fsencode(f"{seed}/{name}")).digest()


def _chosen(images: LabelledImages, indices: Iterable[int]) -> LabelledImages:
    order = sorted(indices)
    return replace(
        images,
        paths=tuple(images.paths[index] for index in order),
        targets=tuple(images.targets[index] for index in order),
    )
