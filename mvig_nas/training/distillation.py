"""What a network learns from a teacher, through its second classifier (DeiT, arXiv 2012.12877)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mvig_nas.recipes import Distillation


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
