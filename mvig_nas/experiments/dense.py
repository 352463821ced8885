"""A dense task that trains in a minute: the classes of shapes' pixels, by a light head on a network's stages.

The training loop of the package reads image files with a class each, so that this one has a short loop of its own. It
keeps what has ended: a training that was killed begins anew, and no other is run again.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvig_nas import values
from mvig_nas.experiments.experiment import Cell, Dense, Experiment, cells_of
from mvig_nas.experiments.intervals import Estimate, mean_estimate
from mvig_nas.experiments.matching import matched_cells
from mvig_nas.experiments.shapes import shapes
from mvig_nas.files import claim, read_json, save
from mvig_nas.image_data import seeded
from mvig_nas.kernels import sections, totals
from mvig_nas.latency import ArchitectureLatency
from mvig_nas.network import build
from mvig_nas.values import about

FOLDER, RESULT = "dense", "result.json"
_TRAINING_SEED, _HELD_OUT_SEED = 1, 2  # of the images
_BATCH = 32
_LEARNING_RATE, _WEIGHT_DECAY, _LAYER_SCALE = 3e-3, 0.05, 0.1

OnProgress = Callable[[str, int, int], None]  # name of the cell, trainings that are done, of how many


class Segmenter(nn.Module):
    """A network without classifiers, with a 1x1 convolution on the map of each stage; their logits are summed.

    Args:
        cell: whose architecture is built.
        classes: C, the ground among them.
    """

    def __init__(self, cell: Cell, classes: int) -> None:
        super().__init__()
        self.backbone = build(cell.architecture, 0, distillation=False, layer_scale_init=_LAYER_SCALE)
        self.heads = nn.ModuleList(nn.Conv2d(stage.width, classes, 1) for stage in cell.architecture.stages)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, S, S) of images (B, 3, S, S)."""
        maps = cast(list[Tensor], self.backbone.forward_intermediates(images, intermediates_only=True))
        told = [head(each) for head, each in zip(self.heads, maps, strict=True)]
        size = told[0].shape[-2:]
        whole = sum(F.interpolate(each, size, mode="bilinear", align_corners=False) for each in told)
        return F.interpolate(cast(Tensor, whole), images.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class DenseResult:
    """A cell of the dense task.

    Attributes:
        cell: with the widths that it is matched at.
        macs, parameters: of the stem and the stages, without the head.
        mean_iou: intersection over union on held-out images, a mean over the classes, of each seed.
    """

    cell: Cell
    macs: int
    parameters: int
    mean_iou: tuple[float, ...]

    def difference(self, other: "DenseResult") -> Estimate:
        """Mean IoU less another cell's, over pairs of one seed."""
        return mean_estimate([own - others for own, others in zip(self.mean_iou, other.mean_iou, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.cell.name,
            "fingerprint": self.cell.architecture.fingerprint,
            "widths": list(self.cell.widths),
            "widths_before": list(self.cell.widths_before),
            "matched": self.cell.matched,
            "macs": self.macs,
            "parameters": self.parameters,
            "mean_iou": list(self.mean_iou),
            "mean_iou_mean": mean_estimate(self.mean_iou).to_dict(),
            "architecture": self.cell.architecture.to_dict(),
        }


@dataclass(frozen=True)
class _Kept:
    mean_iou: Annotated[float, about("Mean intersection over union.", ge=0, le=1)]
    seconds: Annotated[float, about("Time of the training.", ge=0)]


def dense_cells(asked: Dense, latency: ArchitectureLatency) -> tuple[Cell, ...]:
    """The cells, with widths at which each takes the first one's MACs within 1 %.

    Raises:
        MvigNasError: a cell is no architecture, or no widths match it.
    """
    trial = Experiment("dense", "Which network segments better?", asked.base, cells=asked.cells, match="macs")
    return matched_cells(trial, cells_of(trial), latency)


def trained(
    asked: Dense, cells: Sequence[Cell], folder: Path, on_progress: OnProgress | None = None
) -> tuple[DenseResult, ...]:
    """Train every cell with every seed on the CPU; what has ended is read back.

    Args:
        asked: the task.
        cells: of the task, from `dense_cells`.
        folder: of the experiment; each training has a folder of its own below it.
        on_progress: called before each training.
    """
    jobs = [(cell, seed) for cell in cells for seed in range(asked.seeds)]
    images = _Images(asked)
    found: dict[str, list[float]] = {}
    for done, (cell, seed) in enumerate(jobs):
        own = folder / FOLDER / f"{cell.architecture.fingerprint}-seed{seed}"
        own.mkdir(parents=True, exist_ok=True)
        if on_progress is not None:
            on_progress(f"{cell.name}, seed {seed}", done, len(jobs))
        path = own / RESULT
        with claim(own / "lock", wait=True):
            if not path.is_file():
                began = time.monotonic()
                kept = _Kept(_mean_iou(_train(cell, asked, images, seed), images, asked), time.monotonic() - began)
                save(path, json.dumps(values.plain(kept)) + "\n")
        content = read_json(path, "the result of a training", "remove it, and the training is run again")
        found.setdefault(cell.name, []).append(values.read(_Kept, content, str(path)).mean_iou)
    return tuple(_result(cell, tuple(found[cell.name])) for cell in cells)


class _Images:
    """Training and held-out images, drawn when they are first asked for."""

    def __init__(self, asked: Dense) -> None:
        self._asked = asked
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, seed: int) -> tuple[Tensor, Tensor]:
        asked = self._asked
        if seed not in self._drawn:
            count = asked.images if seed == _TRAINING_SEED else asked.held_out
            self._drawn[seed] = shapes(count, asked.base.resolution, asked.kinds, seed)
        return self._drawn[seed]


def _train(cell: Cell, asked: Dense, images: _Images, seed: int) -> Segmenter:
    pixels, classes = images(_TRAINING_SEED)
    with seeded(seed):
        network = Segmenter(cell, asked.kinds + 1).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        each = max(1, len(pixels) // _BATCH)
        steps = asked.epochs * each
        warmup = min(each, steps - 1)
        for step in range(steps):
            if step % each == 0:
                order = torch.randperm(len(pixels))
            first = step % each * _BATCH
            chosen = order[first : first + _BATCH]
            batch, targets = pixels[chosen], classes[chosen]
            turned = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
            logits = network(batch.flip(turned).contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, targets.flip(turned))
            rate = (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * step / steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * rate
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network


@torch.inference_mode()
def _mean_iou(network: Segmenter, images: _Images, asked: Dense) -> float:
    network.eval()
    pixels, classes = images(_HELD_OUT_SEED)
    found = torch.cat([network(batch).argmax(1) for batch in torch.split(pixels, _BATCH)])
    return mean_iou(found, classes, asked.kinds + 1)


def mean_iou(found: Tensor, classes: Tensor, count: int) -> float:
    """Mean over classes of intersection over union, a fraction; a class that is in neither is left out.

    Args:
        found, classes: class of every pixel, as it was found and as it is; of equal shape.
        count: number of classes.
    """
    table = torch.bincount(classes.flatten() * count + found.flatten(), minlength=count**2).view(count, count).double()
    either = table.sum(0) + table.sum(1) - table.diagonal()
    return float((table.diagonal() / either)[either > 0].mean())


def _result(cell: Cell, found: tuple[float, ...]) -> DenseResult:
    backbone = [kernel for section in sections(cell.architecture)[:-1] for kernel in section.kernels]
    built = totals(backbone)
    return DenseResult(cell, built.macs, built.parameters, found)


def changed(asked: Dense, epochs: int | None, seeds: int | None) -> Dense:
    """The task with other epochs and seeds, where they are given."""
    return replace(asked, epochs=epochs or asked.epochs, seeds=seeds or asked.seeds)
