"""One training step of a supernet: several sub-networks on one batch, the largest teaching the others."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mvig_nas.architecture import Architecture
from mvig_nas.errors import MvigNasError
from mvig_nas.image_data import resized
from mvig_nas.supernet import Supernet
from mvig_nas.training.losses import DISTILLATIONS, classification
from mvig_nas.training.step import Backward
from mvig_nas.training.subnetwork_sampling import WIDTHS_OPEN, Sampling

Teacher = Callable[[Tensor], Tensor]  # normalised images (B, 3, R, R) to logits (B, classes)


class SupernetStep:
    """The `Step` of a supernet's training.

    Args:
        supernet: to train.
        sampling: the sub-networks of every step.
        distillation: how sub-networks learn from the largest, one of `DISTILLATIONS`; None, or uniform sampling: from
            the labels.
        label_smoothing: of the cross-entropy.
        teacher: of the largest network, besides the labels.
        teacher_share: its share in the largest network's loss.

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
        teacher: Teacher | None = None,
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
        """Draw the step's sub-networks; when widths open, sort channels first. Whether a phase begins."""
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
