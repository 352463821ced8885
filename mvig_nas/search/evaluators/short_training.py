"""One short training, in a worker of Ray: its top-1 is reported after every epoch, and it may be stopped then.

All that is worth keeping lies in the training's own folder: its state, the reports so far and, in the end, which of the
held-out images were classified rightly. A worker that finds reports there hands them over again first, so that a
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
from mvig_nas.image_data import EvaluationImages, LabelledImages, resized
from mvig_nas.network import MobileViG
from mvig_nas.recipes import Recipe
from mvig_nas.scores.trained_score import training_parts
from mvig_nas.training import Execution, Knowledge, Validated, train_alone
from mvig_nas.training.first_weights import read_first_weights
from mvig_nas.training.guard import DivergedError

REPORTS, RESULT, STATE = "reports.jsonl", "result.json", "state.pt"
CHECKPOINT_MINUTES = 0.5


@dataclass(frozen=True)
class Trainings:
    """What the short trainings of a run share; sent to every worker, so paths are absolute.

    Attributes:
        data: folder of the images, with the class folders in `train`.
        hold_out: share of the training images that top-1 is measured on.
        recipe: of every training.
        folder: in which every training has its own, named by its architecture's fingerprint.
        skipping_in: folder with the list of images that are left out; None where none are.
        supernet: folder of a supernet whose slices the trainings begin with; fresh weights if None.
        threads: of a training.
        in_memory: whether decoded images are kept in memory.
    """

    data: Path
    hold_out: float
    recipe: Recipe
    folder: Path
    skipping_in: Path | None = None
    supernet: Path | None = None
    threads: int = 1
    in_memory: bool = False


def train_briefly(config: dict[str, Any], trainings: Trainings | None = None) -> None:
    """Tune's trainable; `config` is `{"architecture": JSON}`."""
    assert trainings is not None
    architecture = Architecture.from_json(config["architecture"])
    folder = trainings.folder / architecture.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    known = read_reports(folder)
    for report in known:
        tune.report(report)
    if (folder / RESULT).is_file():
        return
    torch.set_num_threads(trainings.threads)
    images, held, _ = training_parts(trainings.data, trainings.hold_out, trainings.skipping_in, skips=False)
    reporter = _Reporter(held, trainings.recipe, folder, reported=len(known))
    first = None
    if trainings.supernet is not None:
        first = read_first_weights(trainings.supernet, architecture, images.classes)
    train_alone(
        architecture,
        images,
        trainings.recipe,
        folder,
        knowledge=Knowledge(first=first),
        execution=Execution(
            in_memory=trainings.in_memory,
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
    """The `Validate` of a short training: top-1 on the held-out images, written down and told to Tune."""

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
