"""One finalist's training, in a worker of Ray: its top-1 is reported after every epoch, and it may be stopped then.

All that is worth keeping lies in the finalist's folder: the training's state, the reports so far and, in the end, which
of the held-out images were classified rightly. A worker that finds reports there hands them over again first, so that a
scheduler which has forgotten everything is told the same as before, and no epoch is trained twice.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ray import tune
from torch import nn

from mvig_nas.architecture import Architecture
from mvig_nas.files import read_text, save
from mvig_nas.finalists.request import FinalistsRequest, Resources
from mvig_nas.image_data import BadImage, EvaluationImages, LabelledImages, hold_out, read_split, resized, usable
from mvig_nas.network import MobileViG
from mvig_nas.recipes import Recipe
from mvig_nas.training import Execution, Knowledge, Validated, train_alone
from mvig_nas.training.first_weights import read_first_weights
from mvig_nas.training.guard import DivergedError

REPORTS, RESULT, STATE = "reports.jsonl", "result.json", "state.pt"
CHECKPOINT_MINUTES = 0.5


@dataclass(frozen=True)
class Training:
    """What all trainings of a request share; sent to every worker."""

    request: FinalistsRequest
    resources: Resources
    recipe: Recipe
    folder: Path


def images_of(request: FinalistsRequest, folder: Path) -> tuple[LabelledImages, LabelledImages, tuple[BadImage, ...]]:
    """Images to train on, those held out, and those that the finalists in a folder leave out.

    Raises:
        MvigNasError: no such images, or too few to hold any out.
    """
    parts = hold_out(read_split(request.data, "train"), request.hold_out)
    (images, held), bad = usable(parts, folder, request.skip_bad_images)
    return images, held, bad


def train_finalist(config: dict[str, Any], training: Training | None = None) -> None:
    """Tune's trainable; `config` is `{"architecture": JSON}`."""
    assert training is not None
    architecture = Architecture.from_json(config["architecture"])
    folder = training.folder / architecture.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    known = read_reports(folder)
    for report in known:
        tune.report(report)
    if (folder / RESULT).is_file():
        return
    torch.set_num_threads(max(1, int(training.resources.cpus)))
    images, held, _ = images_of(training.request, training.folder)
    reporter = _Reporter(held, training.recipe, folder, reported=len(known))
    first = None
    if training.request.supernet is not None:
        first = read_first_weights(training.request.supernet, architecture, images.classes)
    train_alone(
        architecture,
        images,
        training.recipe,
        folder,
        knowledge=Knowledge(first=first),
        execution=Execution(
            in_memory=training.resources.in_memory,
            channels_last=True,
            checkpoint_minutes=CHECKPOINT_MINUTES,
            resume=(folder / STATE).is_file(),
        ),
        validate=reporter,
    )
    (folder / STATE).unlink(missing_ok=True)


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """Epoch and top-1 of every epoch that was reported, without a last line that a kill cut short."""
    try:
        lines = read_text(folder / REPORTS, "reports of a training").splitlines()
    except FileNotFoundError:
        return []
    reports = []
    for line in lines:
        try:
            report = json.loads(line)
            reports.append({"epoch": int(report["epoch"]), "top1": float(report["top1"])})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            break
    return reports


class _Reporter:
    """The `Validate` of a finalist: top-1 on the held-out images, written down and told to Tune."""

    def __init__(self, held: LabelledImages, recipe: Recipe, folder: Path, reported: int) -> None:
        self._held, self._recipe, self._folder = held, recipe, folder
        self._reported = reported
        self._batches: EvaluationImages | None = None

    def __call__(self, model: nn.Module, epoch: int) -> Validated:
        network = cast(MobileViG, model)
        right = self._right_answers(network)
        value = float(right.mean())
        if epoch > self._reported:
            self._reported = epoch
            if epoch == self._recipe.epochs:
                # before it is told: the scheduler ends this process on hearing of the last epoch
                content = {"architecture": network.architecture.to_dict(), "epochs": epoch, "right": right.tolist()}
                save(self._folder / RESULT, json.dumps(content))
            report = {"epoch": epoch, "top1": value}
            # the lines before are whole, and one that is not is cut off
            lines = [json.dumps(each) for each in (*read_reports(self._folder), report)]
            save(self._folder / REPORTS, "\n".join(lines) + "\n")
            tune.report(report)
        return Validated({"epoch": epoch, "val_mean_top1": value}, f"epoch {epoch}: top-1 {value:.2%}")

    @torch.no_grad()
    def _right_answers(self, network: MobileViG) -> np.ndarray[Any, np.dtype[np.int64]]:
        """1 for every held-out image that is classified rightly, else 0, of shape (n,)."""
        resolution = network.architecture.resolution
        if self._batches is None:
            self._batches = EvaluationImages(self._held, self._recipe.preprocessing, resolution)
        network.eval()
        device = next(network.parameters()).device
        found = []
        for batch, targets in self._batches:
            logits = network(resized(batch.to(device), resolution))
            if not torch.isfinite(logits).all():
                raise DivergedError("logits must be finite, got NaN or infinity; the weights have diverged.")
            found.append((logits.argmax(dim=1).cpu() == targets).numpy())
        return np.concatenate(found).astype(np.int64)
