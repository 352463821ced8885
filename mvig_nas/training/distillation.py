"""What a network learns from a teacher, through its second classifier (DeiT, arXiv 2012.12877)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mvig_nas.errors import MvigNasError

KINDS = ("hard", "soft")


@dataclass(frozen=True)
class Distillation:
    """How the second classifier learns; the loss is (1 - share) x the labels' + share x the teacher's.

    Args:
        kind: `hard`, cross-entropy with the teacher's likeliest class (equation 3), or `soft`, the divergence from its
            probabilities (equation 2).
        share: of the teacher in the loss; lambda and 1/2 in the paper.
        temperature: of both probabilities where `kind` is `soft`.

    Raises:
        MvigNasError: a value out of range.
    """

    kind: str = "hard"
    share: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MvigNasError(f"distillation must be one of {KINDS}, got {self.kind!r}; take one of them.")
        if not 0 <= self.share <= 1:
            raise MvigNasError(f"the teacher's share must be from 0 to 1, got {self.share}; 0.5 is usual.")
        if not 0 < self.temperature < float("inf"):
            raise MvigNasError(f"`temperature` must be above 0, got {self.temperature}; 1 to 4 are usual.")


def teacher_loss(student: Tensor, teacher: Tensor, distillation: Distillation) -> Tensor:
    """Mean over the batch, from logits (B, classes) of the second classifier and of the teacher, which has no gradient.

    Hard: CE(student, argmax teacher). Soft: T^2 KL(softmax(teacher / T) || softmax(student / T)), as in the paper and
    in timm; DeiT's own code divides that by the number of classes besides.
    """
    student, teacher = student.float(), teacher.detach().float()
    if distillation.kind == "hard":
        return F.cross_entropy(student, teacher.argmax(dim=1))
    temperature = distillation.temperature
    target = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1), target, reduction="batchmean", log_target=True)
    return divergence * torch.as_tensor(temperature**2, dtype=divergence.dtype)
