"""Losses: of the labels, of a teacher through the second classifier, and of a supernet's largest network.

Student and teacher logits have shape (B, classes), results are the batch's mean, and no gradient reaches the teacher.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mvig_nas.recipes import Distillation

ALPHAS = (-1.0, 1.0)  # of the adaptive alpha-divergence, and its ceiling for importance weights; AlphaNet's
LARGEST_WEIGHT = 5.0


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student), soft targets at temperature 1 (arXiv 1503.02531, as in BigNAS, arXiv 2003.11142)."""
    target = F.log_softmax(teacher.detach().float(), dim=1)
    return F.kl_div(F.log_softmax(student.float(), dim=1), target, reduction="batchmean", log_target=True)


def alpha_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Adaptive alpha-divergence (AlphaNet, arXiv 2102.07954): per image, of two alphas the one that differs more.

    With p the teacher's, q the student's distribution and w = p / q,
    D_alpha = E_q[w^alpha - 1] / (alpha (alpha - 1)), which is KL(p || q) at alpha 1, and whose gradient is
    -E_q[w^alpha / alpha * grad log q]. w^alpha is clipped, so the value returned has that gradient, not D's value.
    """
    log_p = F.log_softmax(teacher.detach().float(), dim=1)
    log_q = F.log_softmax(student.float(), dim=1)
    q, log_w = log_q.detach().exp(), log_p - log_q.detach()
    divergences, losses = [], []
    for alpha in ALPHAS:
        weight = torch.exp(alpha * log_w).clamp(max=LARGEST_WEIGHT)
        per_class = weight * log_w if alpha == 1 else (weight - 1) / (alpha * (alpha - 1))
        divergences.append((q * per_class).sum(dim=1))
        losses.append(-(q * weight / alpha * log_q).sum(dim=1))
    first_is_larger = divergences[0] > divergences[1]
    return torch.where(first_is_larger, losses[0], losses[1]).mean()


DISTILLATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl_divergence, "alpha": alpha_divergence}


def classification(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing; targets (B,) numbers, or (B, classes) shares, which are smooth already."""
    soft = targets.ndim == 2
    return F.cross_entropy(logits.float(), targets, label_smoothing=0.0 if soft else smoothing)


def teacher_loss(student: Tensor, teacher: Tensor, distillation: Distillation) -> Tensor:
    """What the second classifier learns from a teacher (DeiT, arXiv 2012.12877).

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
