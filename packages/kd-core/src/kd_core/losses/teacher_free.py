"""Losses without a teacher model: a virtual teacher, and a student's own ranking of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.losses.labelled import Rows, at, chosen, enough_classes, flat_labels, labelled_rows
from kd_core.losses.reduction import UNLABELLED, labelled, mean_over, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.softened import mean_of
from kd_core.losses.tensors import LOW, as_float32, hidden
from kd_core.ranges import OpenFraction, PositiveFloat

SURE = 0.9
"""The label's share in the target of USKD's weak logits; all classes share the rest."""
EPSILON = 1e-6
"""What the authors of USKD add to what they divide by."""


@LOSSES("tf_kd")
@mean_over(labelled)
def tf_kd(
    student: Tensor, target: Tensor, *, probability: OpenFraction = 0.99, temperature: PositiveFloat = 20.0
) -> Tensor:
    """Tf-KD's virtual teacher: KL divergence of the student's outputs from a softened label.

    student (B, C) or (B, C, ...) logits; target (B,) or (B, ...) labels, -100 for unlabelled -> scalar, the mean over
    the classes and over what is labelled, 0 where nothing is. As in the authors' code the teacher is the softmax of
    probabilities over the ``temperature``, ``probability`` at the label, and the student is not softened. Classes that
    the student masks with minus infinity, which make the authors' loss infinite, are none: the teacher has the others
    alone. It is infinite only where the label's is masked, as ``cross_entropy`` is. KDError where shapes do not fit, a
    label is not below C, there is one class, or a hyperparameter is out of its range.
    Yuan et al., CVPR 2020 (arXiv 1909.11723); checked against yuanli2333/Teacher-free-Knowledge-Distillation.
    """
    enough_classes("tf_kd", student, 2, "one class has always the probability 1")
    rows, labels = flat_labels(as_float32(student), target)
    counts = labels != UNLABELLED
    (rows,) = hidden(counts, rows, dim=1)
    masked = rows.isneginf()
    classes = (~masked).sum(1).to(rows.dtype)
    own, other = _virtual(probability, temperature, classes)
    entropy = own.xlogy(own) + (classes - 1) * other.xlogy(other)
    log_student = rows.log_softmax(1)
    crossed = (own - other) * chosen(log_student, labels.where(counts, 0))
    crossed = crossed + other * log_student.masked_fill(masked, 0.0).sum(1)
    return mean_of((entropy - crossed) / classes, counts)


def _virtual(probability: float, temperature: float, classes: Tensor) -> tuple[Tensor, Tensor]:
    """What the virtual teacher gives the label and each other one of so many classes, (N,) each."""
    rest = (classes - 1).clamp(min=1)
    ratio = ((1 - probability) / rest / temperature - probability / temperature).exp()  # of another class's to its own
    own = 1 / (1 + (classes - 1) * ratio)
    return own, own * ratio


@LOSSES("uskd")
@over_batch
def uskd(
    student: Tensor, weak: Tensor, target: Tensor, *, alpha: float = 1.0, beta: float = 0.1, mu: float = 0.005
) -> Tensor:
    """USKD: the student's own logits, and weak ones from an earlier layer, share out a soft label among the classes.

    student (B, C) logits; weak (B, C) logits of a linear layer on features of an earlier layer; target (B,) labels,
    -100 for unlabelled -> scalar: ``alpha`` times the cross-entropy of the label, weighted by 1 and by how much the
    squared probability is above the batch's mean; ``beta`` times the cross-entropy of the other classes with shares of
    1, 1/2, 1/3, ... in the order in which weak and student rank them; ``mu`` times the cross-entropy of the weak logits
    with the label smoothed by 0.1; means over what is labelled, 0 where nothing is. Weights and order have no
    gradient. As in the authors' code the ranking adds the weak probabilities to the student's log-probabilities, each
    divided by 1 less that of the label. KDError where shapes do not fit, a label is not below C, or there are less than
    three classes.
    Yang et al., ICCV 2023 (arXiv 2303.13005); checked against yzd-v/cls_KD.
    """
    enough_classes("uskd", student, 3, "the label's class has a single class beside it, whose share is always 1")
    rows = labelled_rows(student, weak, target, other="weak")
    log_student, log_weak = (each.log_softmax(1) for each in rows[:2])
    own = chosen(log_student, rows.target)
    squares = own.detach().exp().square()
    first = rows.mean(-(squares + 1 - rows.mean(squares)) * own)
    smoothed = SURE * chosen(log_weak, rows.target) + (1 - SURE) * log_weak.mean(1)
    others = rows.student.masked_fill(rows.own, LOW).log_softmax(1)
    second = rows.mean(-(_shares(rows, log_student, log_weak) * others).sum(1))
    return alpha * first + beta * second - mu * rows.mean(smoothed)


@torch.no_grad()
def _shares(rows: Rows, log_student: Tensor, log_weak: Tensor) -> Tensor:
    """(N, C): Zipf's shares of the classes other than the label's, by their rank among all."""
    weak = log_weak.exp()
    scores = weak / (1 - chosen(weak, rows.target) + EPSILON)[:, None]
    scores = scores + log_student / (1 - chosen(log_student, rows.target) + EPSILON)[:, None]
    place = scores.argsort(dim=1, descending=True).argsort(dim=1)
    shares = (1 / (1 + place).to(scores.dtype)).masked_fill(at(scores, rows.target), 0.0)
    return shares / shares.sum(1, keepdim=True)
