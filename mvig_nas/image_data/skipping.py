"""Images that cannot be read: found before anything is done with the others, listed in the run's folder, left out."""

import json
import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mvig_nas import values
from mvig_nas.errors import MvigNasError
from mvig_nas.files import read_json, save
from mvig_nas.image_data.folders import LabelledImages
from mvig_nas.image_data.transforms import read_image
from mvig_nas.run_folder import SKIPPED

_SHOWN = 5


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read.

    Attributes:
        image: its name below the data's folder, such as `train/ant/1.jpg`.
        problem: why it cannot be read, with its path.
    """

    image: str
    problem: str


@dataclass(frozen=True)
class _Record:
    """What `skipped_images.json` holds."""

    schema: Literal[1]
    skipped: tuple[BadImage, ...]


def bad_images(parts: Iterable[LabelledImages]) -> tuple[BadImage, ...]:
    """The images that cannot be read, each named once; every image is decoded, on all cores."""
    paths = {name: path for part in parts for name, path in zip(_names(part), part.paths, strict=True)}

    def problem(path: str) -> str | None:
        try:
            read_image(path)
        except MvigNasError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = pool.map(problem, paths.values())
        return tuple(BadImage(name, told) for name, told in zip(paths, problems, strict=True) if told is not None)


def without(part: LabelledImages, names: Collection[str]) -> LabelledImages:
    """The images that are not called so; where parts of the data were held out before, they stay those.

    Args:
        part: of the data.
        names: below the data's folder, as `BadImage` has them.

    Raises:
        MvigNasError: a class has no other image.
    """
    kept = [index for index, name in enumerate(_names(part)) if name not in names]
    if len(kept) == len(part):
        return part
    lacking = sorted(set(part.targets) - {part.targets[index] for index in kept})
    if lacking:
        which = part.classes[lacking[0]] if lacking[0] < len(part.classes) else "those without a label"
        raise MvigNasError(
            f"a class must have an image that can be read in each part of the data, got none of {which!r} below "
            f"{part.root}; add images."
        )
    return replace(
        part,
        paths=tuple(part.paths[index] for index in kept),
        targets=tuple(part.targets[index] for index in kept),
    )


def usable(
    parts: Sequence[LabelledImages], folder: Path, skips: bool
) -> tuple[list[LabelledImages], tuple[BadImage, ...]]:
    """The parts without the images that the run in a folder leaves out, and these; `write_skipped` lists them.

    Args:
        parts: of the data.
        folder: of the run; what is listed there is left out without being looked at again.
        skips: whether images that cannot be read are left out, where the folder has no list yet.

    Raises:
        MvigNasError: the list cannot be read, or see `without`.
    """
    known = read_skipped(folder)
    bad = known if known is not None else bad_images(parts) if skips else ()
    # a part that is there twice stays one
    names = {each.image for each in bad}
    left = {id(part): without(part, names) for part in parts}
    return [left[id(part)] for part in parts], bad


def read_skipped(folder: Path) -> tuple[BadImage, ...] | None:
    """The images that the run in a folder leaves out; None if it has no list of them.

    Raises:
        MvigNasError: the list cannot be read.
    """
    path = folder / SKIPPED
    try:
        content = read_json(path, "the list of skipped images", "restore it, or start anew")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return values.read(_Record, content, str(path)).skipped


def write_skipped(bad: Sequence[BadImage], folder: Path) -> None:
    """List the images that a run leaves out in its folder.

    Raises:
        MvigNasError: the folder cannot be written.
    """
    save(folder / SKIPPED, json.dumps(values.plain(_Record(1, tuple(bad))), indent=1) + "\n")


def skipped_line(bad: Sequence[BadImage]) -> str:
    """A sentence that says how many images were left out, and which; empty for none."""
    if not bad:
        return ""
    names = ", ".join(repr(each.image) for each in bad[:_SHOWN])
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"Left out, as they cannot be read: {names}{more}."


def _names(part: LabelledImages) -> list[str]:
    split = Path(part.root).name
    labelled = len(part) - part.unlabelled
    return [f"{split}/{name}" for name in part.names[:labelled]] + list(part.names[labelled:])
