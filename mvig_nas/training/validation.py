"""Validation measures a network while it trains, and keeps the best weights so far."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mvig_nas.image_data import EvaluationImages, LabelledImages, Preprocessing, share
from mvig_nas.network import MobileViG
from mvig_nas.training.accuracy import Accuracy, accuracies, shares
from mvig_nas.training.model_folder import CONFIG, TrainedModel, read_model, write_model
from mvig_nas.training.process import Process
from mvig_nas.training.steps import Validated

_BEST = "best"  # in a training's folder


class Validation:
    """The `Validate` of a single network; processes share the images.

    Args:
        images: to classify; those that a choice may be made by.
        preprocessing: the training's.
        folder: of the training; the weights of the epoch with the highest top-1 are written into `best` in it.
        about: plain values, written beside the weights with the epoch, the accuracies and the images' digest.
        process: this process among several.
        workers: processes that read images.

    Attributes:
        found: accuracies of the last validation, of each classifier and their mean.

    Raises:
        MvigNasError: `best` is there and damaged; when called, an image is damaged or the disk is full, and
            `DivergedError` where a logit is not finite.
    """

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        folder: Path,
        about: Mapping[str, Any],
        *,
        process: Process | None = None,
        workers: int = 0,
    ) -> None:
        self.found: dict[str, Accuracy] = {}
        self._classes, self._preprocessing, self._workers = images.classes, preprocessing, workers
        self._process = process or Process(torch.device("cpu"))
        self._own = share(images, self._process.rank, self._process.world_size)
        self._folder, self._about = folder / _BEST, {**about, "validation_images": images.digest}
        self._batches: EvaluationImages | None = None
        self._best = -1.0
        if (self._folder / CONFIG).is_file():
            self._best = float(read_model(self._folder).about["accuracy"]["mean"]["top1"])

    def __call__(self, model: nn.Module, epoch: int) -> Validated:
        """Accuracies of `model`, a MobileViG, after so many epochs."""
        network = cast(MobileViG, model)
        resolution = network.architecture.resolution
        if self._batches is None:
            self._batches = EvaluationImages(self._own, self._preprocessing, resolution, workers=self._workers)
        self.found = accuracies(network, self._batches, resolution, add_up=self._add_up)
        found, top1 = shares(self.found), self.found["mean"].top1
        is_best = top1 > self._best
        if is_best:
            self._best = top1
            if self._process.is_first:
                about = {**self._about, "epoch": epoch, "accuracy": found}
                write_model(self._folder, TrainedModel(network, self._classes, self._preprocessing, about))
        values = {f"val_{kind}_{name}": value for name, both in found.items() for kind, value in both.items()}
        better = ", the best so far" if is_best else f"; the best was {self._best:.2%}"
        return Validated({"epoch": epoch, **values}, f"epoch {epoch}: top-1 {top1:.2%}{better}")

    def _add_up(self, counts: Tensor) -> Tensor:
        return self._process.sum(counts.to(self._process.device)).cpu()
