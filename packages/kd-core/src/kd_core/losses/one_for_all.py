"""OFA-KD: distillation between architectures of different kinds, on the logits of the student and of its branches."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.reduction import UNLABELLED, labelled, mean_over
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import hidden, masked_alike, same_shape, shape
from kd_core.ranges import PositiveFloat


@LOSSES("ofa")
@mean_over(labelled)
def ofa(
    student: Tensor, teacher: Tensor, target: Tensor, *, eps: PositiveFloat = 1.0, temperature: PositiveFloat = 1.0
) -> Tensor:
    """OFA-KD's loss: cross-entropy with the teacher's softened outputs, in which the target class counts for more.

    student, teacher (B, C) logits; target (B,) whole numbers, -100 where there is no label, or (B, C) probabilities, of
    which the largest counts -> scalar: -sum ((p + y)^eps - y) log q over the classes, the mean over the labelled
    samples, 0 where none is; y is 1 for the target class and 0 for all others. ``eps`` is the paper's gamma. Not
    multiplied by the squared temperature. KDError where shapes do not fit, there is one class, or a value is not above
    0.
    Hao et al., One-for-All, NeurIPS 2023, eq. 6 (arXiv 2310.19444); checked against Hao840/OFAKD.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    if student.ndim != 2 or student.shape[1] == 1:
        raise KDError(f"student {shape(student)} must be logits (B, C) of at least two classes", path="student")
    is_target, counts = _target(target, student)
    student, teacher = masked_alike(*hidden(counts, student, teacher, dim=1))
    p, log_q = (teacher / temperature).softmax(1) + is_target, (student / temperature).log_softmax(1)
    raised = torch.where(p > 0, p.clamp(min=torch.finfo(p.dtype).tiny) ** eps, 0.0)  # of 0 the gradient would be NaN
    values = ((is_target - raised) * log_q).sum(1)
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)


def _target(target: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """1 for each sample's target class and 0 for all others (B, C); which samples are labelled (B,)."""
    if target.is_floating_point():
        target = same_shape(student, target, other="target")[1].argmax(1)
    if target.shape != student.shape[:1]:
        rule = "integer labels have one number a sample"
        raise KDError(f"target {shape(target)} does not fit student {shape(student)}: {rule}", path="target")
    counts = target != UNLABELLED
    try:
        labels = target.long().where(counts, 0).unsqueeze(1)
        return torch.zeros_like(student).scatter(1, labels, 1.0), counts
    except (IndexError, RuntimeError) as reason:
        message = f"target holds a label that is not below {student.shape[1]}, student's classes: {reason}"
        raise KDError(message, path="target") from reason
