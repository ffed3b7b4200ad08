"""Distillation of the box head, bounded by the ground truth (Eq. 12 to 15).

Shapes: R of the teacher's proposals, F foreground ones among them, K classes (class K is
background).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def correct_rows(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """q of Eq. 14: (R,) bool, set for proposals whose label is the teacher's first choice,
    background included.

    Args:
        teacher_logits: (R, K+1). labels: (R,) in [0, K].
    """
    return teacher_logits.argmax(dim=1) == labels


def bounded_classification_distillation(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """`T^2 KL(p_t || p_s)` at temperature T, averaged over the proposals that the teacher
    classifies correctly (Eq. 14).

    Eq. 14 prints a sum over proposals. A mean does not depend on how many of them the teacher
    classifies correctly.

    Args:
        student_logits, teacher_logits: (R, K+1) of the same proposals. The teacher's logits get no
            gradient.
        labels: (R,) in [0, K], from the ground truth.

    Returns:
        A scalar. It is 0 and has a gradient of 0 if no proposal counts.

    Example:
        >>> student, teacher = torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> both = bounded_classification_distillation(student, teacher, torch.tensor([0, 0]), 1.0)
        >>> wrong = bounded_classification_distillation(student, teacher, torch.tensor([1, 1]), 1.0)
        >>> round(float(both), 4), float(wrong)
        (0.3278, 0.0)
    """
    correct = correct_rows(teacher_logits, labels)
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (divergence * correct).sum() / correct.sum().clamp(min=1)


def bounded_box_distillation(
    student_deltas: Tensor, teacher_deltas: Tensor, gt_deltas: Tensor
) -> Tensor:
    """`min(||t_s - t_t||_1, ||t_s - t*||_1)` for each box, averaged (Eq. 15). The nearer target
    counts.

    Args:
        student_deltas, teacher_deltas, gt_deltas: (F, 4) of foreground proposals. Only the
            student's deltas get a gradient.

    Returns:
        A scalar. Without rows it is 0 and has a gradient of 0.

    Example:
        >>> student, teacher, truth = torch.zeros(1, 4), torch.ones(1, 4), torch.full((1, 4), 3.0)
        >>> bounded_box_distillation(student, teacher, truth)
        tensor(4.)
    """
    student = student_deltas.float()
    to_teacher = (student - teacher_deltas.detach().float()).abs().sum(dim=1)
    to_truth = (student - gt_deltas.detach().float()).abs().sum(dim=1)
    return torch.minimum(to_teacher, to_truth).sum() / max(len(student), 1)
