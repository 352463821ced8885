"""Steps: what the training loop does with a micro-batch, for a single network and for a supernet.

Images have shape (B, 3, R, R), targets (B,) as class numbers or (B, classes) as shares, logits (B, classes).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import LabelledImages, TrainingImages, resized
from mvig_nas.network import MobileViG
from mvig_nas.recipes import Distillation, Execution, Recipe
from mvig_nas.supernet import Supernet
from mvig_nas.training.losses import DISTILLATIONS, classification, labelled_classification, teacher_loss
from mvig_nas.training.subnetwork_sampling import WIDTHS_OPEN, Sampling

Backward = Callable[[Tensor], None]
AskTeacher = Callable[[Tensor, int], Tensor]  # normalised images and the micro-batch's number to logits


class Step(Protocol):
    """What one micro-batch does: forward and backward passes over `model`.

    It calls `backward` once for every loss, and returns detached scalars, among them `loss`, which the guard watches.
    """

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        """Called before a step's first micro-batch, and for a step that is left out.

        Whether another phase begins, in which weights have changed places or losses are of other networks: the moving
        average and the guard then begin anew.
        """

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int) -> dict[str, Tensor]:
        """Scalars of one micro-batch, the `number`th of the training; targets (B,) numbers or (B, classes) shares.

        Equal numbers have equal images, augmented and mixed, in all trainings of one recipe.
        """


@dataclass(frozen=True)
class Validated:
    """What a validation found: scalars for the log, under names other than the training's own, and a line to show."""

    values: Mapping[str, float]
    message: str


Validate = Callable[[nn.Module, int], Validated]  # the model, or its moving average, after so many whole epochs


def images_of(images: LabelledImages, recipe: Recipe, resolution: int, execution: Execution) -> TrainingImages:
    """A training's micro-batches at a resolution in pixels, as its recipe has them."""
    return TrainingImages(
        images,
        recipe.preprocessing,
        resolution,
        recipe.micro_batch_size or recipe.batch_size,
        recipe.seed,
        repeats=recipe.repeats,
        workers=execution.workers,
        in_memory=execution.in_memory,
    )


def steps_of(images: TrainingImages, recipe: Recipe) -> int:
    """Optimiser steps of a whole training."""
    return max(1, recipe.epochs * images.batches_per_epoch // recipe.micro_batches)


class ClassificationStep:
    """The `Step` of a single network: cross-entropy with label smoothing, and a teacher's loss where there is one.

    Args:
        network: with a second classifier where there is a teacher. One with a single classifier learns from the teacher
            alone.
        label_smoothing: of the labels' cross-entropy; Mixup's shares are smooth already, unless `partly_labelled`.
        teacher: sees the same augmented and mixed images, before they are shrunk for the network.
        distillation: what is learnt from it.
        resolution: side in pixels that the network sees; None for the images' own.
        partly_labelled: whether there are images without labels, as in `labelled_classification`.
    """

    def __init__(
        self,
        network: MobileViG,
        label_smoothing: float,
        teacher: AskTeacher | None = None,
        distillation: Distillation | None = None,
        *,
        resolution: int | None = None,
        partly_labelled: bool = False,
    ) -> None:
        self.model = network
        self.label_smoothing = label_smoothing
        self.resolution = resolution
        self.partly_labelled = partly_labelled
        self.teacher = teacher
        self.distillation = distillation or Distillation()
        if teacher is not None:
            network.set_distilled_training()

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        """Nothing changes between steps."""
        del step, steps, optimizer
        return False

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int = 0) -> dict[str, Tensor]:
        """The backward pass of one micro-batch."""
        taught = None if self.teacher is None else self.teacher(images, number)
        answers = self.model(images if self.resolution is None else resized(images, self.resolution))
        if taught is None:
            loss = self._of_labels(answers, targets)
            backward(loss)
            return {"loss": loss.detach(), **self._right(targets, top1=answers)}
        if isinstance(answers, Tensor):
            loss = teacher_loss(answers, taught, self.distillation)
            backward(loss)
            right = self._right(targets, top1=answers, top1_teacher=taught)
            return {"loss": loss.detach(), **right, "agreement": _share(answers, taught.argmax(dim=1))}
        logits, distilled = cast(tuple[Tensor, Tensor], answers)
        loss_labels = self._of_labels(logits, targets)
        loss_teacher = teacher_loss(distilled, taught, self.distillation)
        share = self.distillation.share
        # labels that reach one classifier alone take nothing from what the teacher has to say
        share_labels = 1.0 if self.distillation.kind == "logits" and self.distillation.is_alone else 1 - share
        loss = share_labels * loss_labels + share * loss_teacher
        backward(loss)
        judged = {"top1": logits} | ({} if self.distillation.kind == "logits" else {"top1_teacher": taught})
        return {
            "loss": loss.detach(),
            "loss_labels": loss_labels.detach(),
            "loss_teacher": loss_teacher.detach(),
            **self._right(targets, **judged),
            "agreement": _share(distilled, taught.argmax(dim=1)),
        }

    def _of_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = labelled_classification if self.partly_labelled else classification
        return loss(logits, targets, self.label_smoothing)

    def _right(self, targets: Tensor, **judged: Tensor) -> dict[str, Tensor]:
        """How often logits of our classes are right, by their names; nothing where some images have no label."""
        if self.partly_labelled:
            return {}
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        return {name: _share(logits, labels) for name, logits in judged.items()}


def _share(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(dim=1) == labels).float().mean()


class SupernetStep:
    """The `Step` of a supernet's training.

    Args:
        supernet: to train.
        sampling: the sub-networks of every step.
        distillation: how sub-networks learn from the largest, one of `DISTILLATIONS`; None, or uniform sampling: from
            the labels.
        label_smoothing: of the cross-entropy.
        teacher: normalised images to the logits that the largest network learns from, besides the labels.
        teacher_share: the teacher's share in the largest network's loss, from 0 to 1.

    Raises:
        MvigNasError: an unknown distillation, or a share outside [0, 1].
    """

    def __init__(
        self,
        supernet: Supernet,
        sampling: Sampling,
        *,
        distillation: str | None = "kl",
        label_smoothing: float = 0.1,
        teacher: Callable[[Tensor], Tensor] | None = None,
        teacher_share: float = 0.5,
    ) -> None:
        if distillation is not None and distillation not in DISTILLATIONS:
            raise MvigNasError(f"a distillation must be one of {tuple(DISTILLATIONS)}, got {distillation!r}.")
        if not 0 <= teacher_share <= 1:
            raise MvigNasError(f"`teacher_share` must be from 0 to 1, got {teacher_share}.")
        self.model = supernet
        self.sampling = sampling
        self.distillation = None if sampling.rule == "uniform" else distillation
        self.label_smoothing = label_smoothing
        self.teacher = teacher
        self.teacher_share = teacher_share
        self.networks: tuple[Architecture, ...] = ()

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        """Draw the step's sub-networks, sort channels where widths open, and tell whether a phase begins."""
        self.networks = self.sampling.networks(step, steps)
        phase = self.sampling.phase(step, steps)
        begins = step > 0 and phase != self.sampling.phase(step - 1, steps)
        if begins and phase == WIDTHS_OPEN:
            self.model.sort_channels(optimizer)
        return begins

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int = 0) -> dict[str, Tensor]:
        """Backward passes of all of the step's sub-networks; the first one's loss is the one that is watched."""
        del number
        largest = self.networks[0]
        logits = self._logits(images, largest)
        loss = classification(logits, targets, self.label_smoothing)
        if self.teacher is not None:
            with torch.no_grad():
                shares = F.softmax(self.teacher(images).float(), dim=1)
            loss = (1 - self.teacher_share) * loss + self.teacher_share * F.cross_entropy(logits.float(), shares)
        backward(loss)
        others = []
        for architecture in self.networks[1:]:
            student = self._logits(images, architecture)
            if self.distillation is None:
                other = classification(student, targets, self.label_smoothing)
            else:
                other = DISTILLATIONS[self.distillation](student, logits)
            backward(other)
            others.append(other.detach())
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        first = loss.detach()
        return {
            "loss": first if self.sampling.rule == "sandwich" else torch.stack([first, *others]).mean(),
            "loss_largest": first,
            "loss_others": torch.stack(others).mean() if others else first,
            "top1_largest": (logits.detach().argmax(dim=1) == labels).float().mean(),
        }

    def _logits(self, images: Tensor, architecture: Architecture) -> Tensor:
        return cast(Tensor, self.model(resized(images, architecture.resolution), architecture))
