"""Losses that treat the label's class and the other classes of a teacher's softened outputs apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_core.device.first_order import Gradients, first_order
from kd_core.losses.closed_form import LIMITS, log_ratio
from kd_core.losses.labelled import Rows, against_rest, at, binary_divergence, chosen, enough_classes, labelled_rows
from kd_core.losses.reduction import labelled, mean_over
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import LOW, divergence, same_shape
from kd_core.ranges import PositiveFloat

SINGLE = "the label's class has a single class beside it, whose share among the others is always 1"
SMALL = 1e-7
"""What the authors of WSLD add to the teacher's cross-entropy."""


@LOSSES("dkd")
@mean_over(labelled)
def dkd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: PositiveFloat = 4.0,
    dim: int = 1,
    standardize: bool = False,
) -> Tensor:
    """``kd`` decoupled: the divergence of the label's class from all others, and that among the others.

    student, teacher (B, C) or (B, C, ...) logits, or with ``dim`` those whose classes are in another dimension; target
    in that shape without ``dim``, labels, -100 for unlabelled -> scalar: ``temperature`` squared times ``alpha`` times
    the target-class and ``beta`` times the non-target-class term, the mean over what is labelled, 0 where nothing is.
    ``standardize`` as in ``kd``. KDError where shapes do not fit, a label is not below C, there are less than three
    classes, or the temperature is not above 0.
    Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022, eq. 7 (arXiv 2203.08679); checked against
    megvii-research/mdistiller.
    """
    if dim != 1:
        student, teacher = (logits.movedim(dim, 1) for logits in same_shape(student, teacher, dim=dim))
    enough_classes("dkd", student, 3, SINGLE)
    rows = labelled_rows(student, teacher, target, standardize=standardize, as_they_are=True)
    return decoupled(rows, alpha, beta, temperature)


def decoupled(rows: Rows, alpha: float, beta: float, temperature: float, weight: Tensor | None = None) -> Tensor:
    """``dkd`` of rows, each times its ``weight`` (N,) above 0, the mean over the labelled ones, 0 where none is."""
    counts = rows.counts.to(rows.student.dtype)
    shares = (counts if weight is None else counts * weight) / counts.sum().clamp(min=1)
    loss: Tensor = _Decoupled.apply(*rows[:3], shares[:, None], alpha, beta, temperature)
    return loss


class _Decoupled(torch.autograd.Function):
    """Student, teacher (N, C), target (N,), shares (N, 1) -> the sum of the shares times the losses of the rows.

    With p and q the probabilities of teacher and student among the other classes, and s and t the log-odds of the
    label's class against all others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        shares: Tensor,
        alpha: float,
        beta: float,
        temperature: float,
    ) -> Tensor:
        _, most, scale = LIMITS[student.dtype]
        own, others = _apart(student, target, temperature)
        log_q = others.log_softmax(1)
        s = (own - others.amax(1, keepdim=True) + log_q.amax(1, keepdim=True)).clamp_min_(-most)
        own, others = _apart(teacher, target, temperature)
        p = others.softmax(1)
        t = (own - others.amax(1, keepdim=True) + p.amax(1, keepdim=True).log_()).clamp_min_(-most)
        among = log_ratio(p, log_q).mul_(p).sum(1, keepdim=True)
        ctx.save_for_backward(log_q, p, s, t, among, target, shares)
        ctx.alpha, ctx.beta, ctx.temperature = alpha, beta, temperature
        values = torch.where(shares > 0, alpha * binary_divergence(t, s) + beta * among, 0.0)
        return values.mul_(shares).sum().mul_(scale).mul_(temperature**2 / scale)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """For q it is q - p; for a logit it is what it does to s or t, and to q or p."""
        log_q, p, s, t, among, target, shares = ctx.saved_tensors
        row = gradient * ctx.temperature * shares
        by_label, by_others, skipped, label = ctx.alpha * row, ctx.beta * row, shares == 0, target[:, None]
        student = teacher = None
        if ctx.needs_input_grad[0]:
            by_odds = (s.sigmoid() - t.sigmoid()) * by_label
            student = log_q.exp().mul_(by_others - by_odds).addcmul_(p, by_others, value=-1)
            student.scatter_(1, label, by_odds).masked_fill_(skipped, 0.0)
        if ctx.needs_input_grad[1]:
            by_odds = t.sigmoid() * (-t).sigmoid() * (t - s) * by_label
            teacher = log_ratio(p, log_q).sub_(among).mul_(by_others).sub_(by_odds).mul_(p)
            teacher.scatter_(1, label, by_odds).masked_fill_(skipped, 0.0)
        return student, teacher, *[None] * 5


def _apart(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(N, C), (N,) -> over the temperature: the label's logit (N, 1), and all with the lowest in its place (N, C)."""
    others = logits / temperature
    own = chosen(others, target)[:, None]
    return own, others.scatter_(1, target[:, None], LOW)


@LOSSES("nkd")
@mean_over(labelled)
def nkd(
    student: Tensor, teacher: Tensor, target: Tensor, *, gamma: float = 1.5, temperature: PositiveFloat = 1.0
) -> Tensor:
    """Cross-entropy weighted by the teacher's probability of the label, and that among the normalised other classes.

    student, teacher (B, C) or (B, C, ...) logits; target (B,) or (B, ...) labels, -100 for unlabelled -> scalar: the
    first term without a temperature, plus ``gamma`` times the squared ``temperature`` times the second, the mean over
    what is labelled, 0 where nothing is. KDError where shapes do not fit, a label is not below C, there are less than
    three classes, or the temperature is not above 0.
    Yang et al., *From Knowledge Distillation to Self-Knowledge Distillation*, ICCV 2023 (arXiv 2303.13005);
    checked against yzd-v/cls_KD.
    """
    enough_classes("nkd", student, 3, SINGLE)
    rows = labelled_rows(student, teacher, target)
    log_student, log_teacher = (chosen(each.log_softmax(1), rows.target) for each in rows[:2])
    other_student, other_teacher = ((each / temperature).masked_fill(rows.own, LOW) for each in rows[:2])
    others = (other_teacher.softmax(1) * other_student.log_softmax(1)).sum(1)
    return rows.mean(-log_teacher.exp() * log_student - gamma * temperature**2 * others)


@LOSSES("wsld")
@mean_over(labelled)
def wsld(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: PositiveFloat = 2.0) -> Tensor:
    """Soft cross-entropy whose samples weigh the less, the better the student already is compared with the teacher.

    student, teacher (B, C) or (B, C, ...) logits; target (B,) or (B, ...) labels, -100 for unlabelled -> scalar: the
    squared ``temperature`` times the softened cross-entropy times 1 - exp(-s / t), where s and t are the
    cross-entropies of student and teacher with the label; the mean over what is labelled, 0 where nothing is. The
    weight has no gradient. KDError where shapes do not fit, a label is not below C, there is one class, or the
    temperature is not above 0.
    Zhou et al., *Rethinking Soft Labels for Knowledge Distillation*, ICLR 2021 (arXiv 2102.00650); checked
    against bellymonster/Weighted-Soft-Label-Distillation.
    """
    enough_classes("wsld", student, 2, "one class has always the probability 1")
    rows = labelled_rows(student, teacher, target)
    soft = ((rows.teacher / temperature).softmax(1) * (rows.student / temperature).log_softmax(1)).sum(1)
    ours, theirs = (-chosen(each.detach().log_softmax(1), rows.target) for each in rows[:2])
    weight = 1 - (-ours / (theirs + SMALL)).exp()
    return rows.mean(-weight * soft) * temperature**2


@LOSSES("rld")
@mean_over(labelled)
def rld(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: PositiveFloat = 4.0,
    confidence_temperature: PositiveFloat = 1.0,
    standardize: bool = False,
) -> Tensor:
    """Refined logits: the teacher's confidence goes to the label, and only classes that it ranks below are matched.

    student, teacher (B, C) or (B, C, ...) logits; target (B,) or (B, ...) labels, -100 for unlabelled -> scalar:
    ``alpha`` times the divergence of (label, rest) from the teacher's (largest, rest) at ``confidence_temperature``,
    plus ``beta`` times that among the classes whose teacher logit is below the label's at ``temperature``, each times
    its squared temperature; the mean over what is labelled, 0 where nothing is. ``standardize`` as in ``kd``. KDError
    where shapes do not fit, a label is not below C, there are less than three classes, or a temperature is not above 0.
    Sun et al., *Knowledge Distillation with Refined Logits*, 2024 (arXiv 2408.07703); checked against zju-SWJ/RLD.
    """
    reason = "at most one class is ranked below the label's, and its share is always 1"
    enough_classes("rld", student, 3, reason)
    rows = labelled_rows(student, teacher, target, standardize=standardize)
    largest = rows.teacher.argmax(1)
    ours, _ = against_rest(rows.student / confidence_temperature, rows.target, rows.own)
    theirs, _ = against_rest(rows.teacher / confidence_temperature, largest, at(rows.teacher, largest))
    confidence = binary_divergence(theirs, ours) * confidence_temperature**2
    above = rows.teacher >= chosen(rows.teacher, rows.target)[:, None]
    below_student, below_teacher = ((each / temperature).masked_fill(above, LOW).log_softmax(1) for each in rows[:2])
    below = divergence(below_teacher, below_student) * temperature**2
    return rows.mean(alpha * confidence + beta * below)
