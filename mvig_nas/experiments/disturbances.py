"""Disturbed images: what a trained network still knows of an image whose parts have moved.

A `shift N` rolls the image by an N-th of its side down and to the right, circularly. A `shuffle N` cuts it into N x N
patches and puts them in an order drawn anew for each image from its index, the same in every run.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mvig_nas import values
from mvig_nas.architecture import Architecture
from mvig_nas.experiments.experiment import check_disturbance
from mvig_nas.files import read_json, save
from mvig_nas.image_data import EvaluationImages
from mvig_nas.network import build
from mvig_nas.network.weight_files import read_weights
from mvig_nas.ranking.stand_alone_training import StandAlonePlan
from mvig_nas.training.accuracy import top1

_SEED = 11


class DisturbedImages:
    """Batches of images, each disturbed, with their targets, as `top1` asks for them."""

    def __init__(self, images: EvaluationImages, disturbance: str) -> None:
        check_disturbance(disturbance)
        self._images, self._disturbance = images, disturbance

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = 0
        for batch, targets in self._images:
            yield disturbed(batch, self._disturbance, first), targets
            first += len(targets)


def disturbed(images: Tensor, disturbance: str, first: int = 0) -> Tensor:
    """Images (B, C, H, W) with their parts moved.

    Args:
        images: to disturb.
        disturbance: `shift N` or `shuffle N`.
        first: index of the first image among all, by which patches are shuffled.
    """
    kind, _, text = disturbance.partition(" ")
    count, (height, width) = int(text), images.shape[2:]
    if kind == "shift":
        return images.roll((height // count, width // count), dims=(2, 3))
    rows, columns = height // count, width // count
    moved = images.clone()  # a rest that fills no patch stays where it is
    for index in range(len(images)):
        generator = torch.Generator().manual_seed(_SEED * 1_000_003 + first + index)
        for to, source in enumerate(torch.randperm(count * count, generator=generator).tolist()):
            (down, right), (from_down, from_right) = divmod(to, count), divmod(source, count)
            moved[index, :, down * rows : (down + 1) * rows, right * columns : (right + 1) * columns] = images[
                index,
                :,
                from_down * rows : (from_down + 1) * rows,
                from_right * columns : (from_right + 1) * columns,
            ]
    return moved


def disturbed_top1(folder: Path, architecture: Architecture, plan: StandAlonePlan, disturbance: str) -> float:
    """Top-1 on disturbed validation images, a fraction, of a network that was trained alone; kept in its folder.

    Args:
        folder: of the training, with its `weights.safetensors`.
        architecture: that was trained.
        plan: of the training.
        disturbance: `shift N` or `shuffle N`.

    Raises:
        MvigNasError: the images cannot be read, or the folder cannot be written.
    """
    path = folder / "disturbed.json"
    known: dict[str, float] = {}
    if path.is_file():
        content = read_json(path, "accuracies on disturbed images", "remove it, and they are measured again")
        known = values.read(dict[str, float], content, str(path))
    if disturbance not in known:
        weights = read_weights(folder / "weights.safetensors")
        network = build(architecture, len(plan.val_images.classes), distillation="head_dist.weight" in weights)
        network.load_state_dict(weights)
        images = EvaluationImages(
            plan.val_images, plan.recipe.preprocessing, architecture.resolution, workers=plan.execution.workers
        )
        known[disturbance] = top1(network, DisturbedImages(images, disturbance), architecture.resolution)
        save(path, json.dumps(known) + "\n")
    return known[disturbance]
