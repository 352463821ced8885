"""Score of a sub-network: its top-1 on held-out training images, with its batch norms recalibrated.

The validation split is never read: what chooses an architecture must not be what says how good it is.
"""

import json
import os
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.files import append, read_regular
from mvig_nas.image_data import (
    EvaluationImages,
    LabelledImages,
    hold_out,
    read_skipped,
    read_split,
    usable,
    without,
    write_skipped,
)
from mvig_nas.scores.meaning import Meaning
from mvig_nas.search_space import SearchSpace
from mvig_nas.supernet import FILE, TrainedSupernet, check_covers, load_supernet
from mvig_nas.training import Process, Recipe
from mvig_nas.training.accuracy import CALIBRATION_IMAGES, Calibration, recalibrate, top1

PREFIX = "supernet:"
_BATCH = 256
_MOST_CACHE_BYTES = 256 * 2**20
_NOTE = (
    "The score is a sub-network's top-1 on {count:,} held-out training images, with the supernet's weights: it orders "
    "networks, and is not what training the network by itself would reach."
)


class SupernetScore:
    """Top-1 in [0, 1] of a supernet's sub-networks; each is evaluated once, also over several searches.

    Values are kept beside the supernet, in `supernet.scores.jsonl`, by fingerprint, weights and images.

    Args:
        path: `supernet.safetensors`, or the folder it is in.
        data: folder of the images that it was trained on.
        device: to run on, as in `Process.start`.
        workers: the number of processes that read images.
        calibration_images: the number of images that batch norms are measured on; 0 keeps those of the training.
        digest: of the weights that `path` must hold; None for any weights.
        skipping_in: folder of the run whose list of images that cannot be read is left out; the list is made if there
            is none. None refuses such images.

    Raises:
        MvigNasError: no such supernet, other weights than `digest`, or other images than it was trained on.
    """

    def __init__(
        self,
        path: Path,
        data: Path,
        *,
        device: str = "auto",
        workers: int = 0,
        calibration_images: int = CALIBRATION_IMAGES,
        digest: str | None = None,
        skipping_in: Path | None = None,
    ) -> None:
        self.path = path / FILE if path.is_dir() else path
        self.trained = load_supernet(path)
        if digest is not None and self.trained.digest != digest:
            raise MvigNasError(
                f"the supernet must be the one that scored before, {digest}, but {self.path} holds "
                f"{self.trained.digest}; search anew in another folder."
            )
        self.name = f"{PREFIX}{path}@{self.trained.digest}"
        self._images = data, workers, calibration_images
        self._skipped: list[str] = []
        if skipping_in is not None:
            _, bad = usable(training_split(self.trained, data), skipping_in, skips=True)
            if read_skipped(skipping_in) is None:
                write_skipped(bad, skipping_in)
            self._skipped = [each.image for each in bad]
        self._asked_device = device
        self._prepare()

    def _prepare(self) -> None:
        data, workers, calibration_images = self._images
        rest, held = (without(part, self._skipped) for part in training_split(self.trained, data))
        recipe = values.read(Recipe, self.trained.training["recipe"], "the supernet's recipe")
        resolution = self.trained.supernet.space.largest.resolution
        self._device = Process.start(self._asked_device).device
        self._supernet = self.trained.supernet.to(self._device)
        self.meaning = Meaning(_NOTE.format(count=len(held)), is_top1=True, images=len(held))
        self._held = EvaluationImages(held, recipe.preprocessing, resolution, _BATCH, workers=workers)
        self._calibration = (
            Calibration(rest, recipe.preprocessing, resolution, count=calibration_images).batches
            if calibration_images
            else ()
        )
        self._key = f"{self.trained.digest}/{held.digest}/{calibration_images}"
        self._cache_path = self.path.with_name("supernet.scores.jsonl")
        self._cache = self._read_cache()

    def __getstate__(self) -> dict[str, Any]:
        """The weights travel, on the CPU; whoever receives them reads the images anew, and picks its own device."""
        supernet = self.trained.supernet
        if self._device.type != "cpu":
            supernet = deepcopy(supernet).cpu()
        data, *rest = self._images
        return {
            "name": self.name,
            "path": self.path.absolute(),
            "trained": replace(self.trained, supernet=supernet),
            "_images": (data.absolute(), *rest),
            "_asked_device": self._asked_device,
            "_skipped": self._skipped,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def check_space(self, space: SearchSpace) -> None:
        """Make sure that every architecture of `space` can be scored.

        Raises:
            MvigNasError: the supernet was trained for another space.
        """
        check_covers(self.trained.supernet, space, self.path)

    def __call__(self, architecture: Architecture) -> float:
        """The top-1 of a sub-network on the held-out images, in [0, 1].

        Raises:
            MvigNasError: the architecture is not of the supernet's space, or its logits are not finite.
        """
        known = self._cache.get(architecture.fingerprint)
        if known is not None:
            return known
        network = self._supernet.extract(architecture).to(memory_format=torch.channels_last)
        if self._calibration:
            recalibrate(network, self._calibration, architecture.resolution)
        value = top1(network, self._held, architecture.resolution)
        self._cache[architecture.fingerprint] = value
        line = json.dumps({"key": self._key, "fingerprint": architecture.fingerprint, "top1": value})
        with suppress(OSError):  # a folder that cannot be written costs time, not the search
            append(self._cache_path, line + "\n", whole=len, is_synced=False)
        return value

    def _read_cache(self) -> dict[str, float]:
        found: dict[str, float] = {}
        with suppress(OSError):
            for line in read_regular(self._cache_path, _MOST_CACHE_BYTES).splitlines():
                # A line that a kill cut short, or that is damaged, is evaluated again.
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    values = json.loads(line)
                    top1 = values["top1"]
                    if values["key"] == self._key and isinstance(top1, (int, float)) and 0 <= top1 <= 1:
                        found[values["fingerprint"]] = float(top1)
        return found


def training_split(trained: TrainedSupernet, data: Path) -> tuple[LabelledImages, LabelledImages]:
    """Images that a supernet was trained on, and those held out for choosing.

    Raises:
        MvigNasError: none were held out, or the images are not those of the training.
    """
    fraction = float(trained.training["recipe"]["hold_out"])
    if not fraction:
        raise MvigNasError(
            "sub-networks must be scored on images that the supernet has not seen, but its training held out none; "
            "train one with --hold-out 0.1."
        )
    skipped = values.read(tuple[str, ...], trained.training.get("skipped", []), "the supernet's skipped images")
    rest, held = (without(part, skipped) for part in hold_out(read_split(data, "train"), fraction))
    if rest.classes != trained.classes or rest.digest != trained.training["images"]:
        raise MvigNasError(
            f"the images in {data}{os.sep}train must be those the supernet was trained on, but their names or classes "
            "differ: which were held out could not be told; give that folder."
        )
    return rest, held


def load_supernet_score(name: str, data: Path | None, skipping_in: Path | None = None) -> SupernetScore:
    """The score called `supernet:PATH`, or `supernet:PATH@DIGEST` where the weights must be certain ones.

    Raises:
        MvigNasError: no path, no data, or see `SupernetScore`.
    """
    path, _, digest = name.removeprefix(PREFIX).partition("@")
    if not path:
        raise MvigNasError("a supernet's score must name its file, got none; write supernet:PATH.")
    if data is None:
        raise MvigNasError(f"score {name!r} needs images to measure top-1 on; give their folder with --data.")
    return SupernetScore(Path(path), data, digest=digest or None, skipping_in=skipping_in)
