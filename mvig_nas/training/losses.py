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
# against division by 0: of logits that are all the same, and of probabilities that are
_LEAST_DEVIATION, _LEAST_PRODUCT = 1e-7, 1e-8


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


def labelled_classification(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing where some images have no label; its mean over those that have one.

    Targets are (B,) numbers, the number of classes for an image without a label, or (B, classes) shares without
    smoothing, which add up to the labelled part of a mixed image. Less than one labelled image counts as one.
    """
    classes = logits.shape[1]
    shares = targets.float() if targets.ndim == 2 else F.one_hot(targets, classes + 1)[:, :classes].float()
    labelled = shares.sum(dim=1, keepdim=True)
    smooth = (1 - smoothing) * shares + smoothing / classes * labelled
    return -(smooth * F.log_softmax(logits.float(), dim=1)).sum() / labelled.sum().clamp(min=1)


def teacher_loss(student: Tensor, teacher: Tensor, distillation: Distillation) -> Tensor:
    """What a classifier learns from a teacher, at the distillation's temperature T.

    `hard`: CE(student, argmax teacher) (DeiT, arXiv 2012.12877). Otherwise, of p = softmax(teacher / T) and
    q = softmax(student / T), T^2 KL(p || q), as in DeiT's paper and in timm (DeiT's own code divides that by the number
    of classes besides), or T^2 DIST(q, p), as in `dist`. Logits are `standardised` first if that is asked for.
    """
    student, teacher = student.float(), teacher.detach().float()
    if distillation.kind == "hard":
        return F.cross_entropy(student, teacher.argmax(dim=1))
    if distillation.standardised:
        student, teacher = standardised(student), standardised(teacher)
    temperature = distillation.temperature
    if distillation.loss == "dist":
        return temperature**2 * dist(F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1))
    target = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1), target, reduction="batchmean", log_target=True)
    return divergence * torch.as_tensor(temperature**2, dtype=divergence.dtype)


def dist(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST of probabilities (B, classes) (arXiv 2205.10536, equations 8 to 10, with beta = gamma = 1).

    One less Pearson's correlation of the two rows of an image (which classes are likelier), averaged over the images,
    plus one less that of the two columns of a class (which images are likelier), averaged over the classes; from 0 to
    4. A row or column that does not vary correlates with nothing.
    """
    return (1 - _correlation(student, teacher)).mean() + (1 - _correlation(student.T, teacher.T)).mean()


def standardised(logits: Tensor) -> Tensor:
    """Each image's logits less their mean, over their deviation (logit standardisation, arXiv 2403.01427)."""
    deviation = logits.std(dim=1, correction=0, keepdim=True)
    return (logits - logits.mean(dim=1, keepdim=True)) / (deviation + _LEAST_DEVIATION)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's, of each row of one with the same row of the other."""
    first, second = (each - each.mean(dim=1, keepdim=True) for each in (first, second))
    norms: Tensor = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    return (first * second).sum(dim=1) / (norms + _LEAST_PRODUCT)
