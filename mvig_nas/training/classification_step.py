"""One training step of a single network, from labels and perhaps from a teacher."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from mvig_nas.network import MobileViG
from mvig_nas.recipes import Distillation
from mvig_nas.training.losses import classification, teacher_loss
from mvig_nas.training.step import Backward

# normalised images (B, 3, R, R) and the micro-batch's number to logits (B, classes)
AskTeacher = Callable[[Tensor, int], Tensor]


class ClassificationStep:
    """The `Step` of a single network: cross-entropy with label smoothing, and a teacher's loss where there is one.

    Args:
        network: with a second classifier where there is a teacher.
        label_smoothing: of the labels' cross-entropy; Mixup's shares are smooth already.
        teacher: sees the same augmented and mixed images.
        distillation: what is learnt from it.
    """

    def __init__(
        self,
        network: MobileViG,
        label_smoothing: float,
        teacher: AskTeacher | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        self.model = network
        self.label_smoothing = label_smoothing
        self.teacher = teacher
        self.distillation = distillation or Distillation()
        if teacher is not None:
            network.set_distilled_training()

    def start(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> bool:
        """All steps are of one kind."""
        del step, steps, optimizer
        return False

    def __call__(self, images: Tensor, targets: Tensor, backward: Backward, number: int = 0) -> dict[str, Tensor]:
        """The backward pass of one micro-batch."""
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        if self.teacher is None:
            logits = cast(Tensor, self.model(images))
            loss = classification(logits, targets, self.label_smoothing)
            backward(loss)
            return {"loss": loss.detach(), "top1": _share(logits, labels)}
        taught = self.teacher(images, number)
        logits, distilled = cast(tuple[Tensor, Tensor], self.model(images))
        loss_labels = classification(logits, targets, self.label_smoothing)
        loss_teacher = teacher_loss(distilled, taught, self.distillation)
        share = self.distillation.share
        loss = (1 - share) * loss_labels + share * loss_teacher
        backward(loss)
        return {
            "loss": loss.detach(),
            "loss_labels": loss_labels.detach(),
            "loss_teacher": loss_teacher.detach(),
            "top1": _share(logits, labels),
            "top1_teacher": _share(taught, labels),
            "agreement": _share(distilled, taught.argmax(dim=1)),
        }


def _share(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(dim=1) == labels).float().mean()
