"""Logits of two models beside labels: the rows that have one, checked, and what is computed of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import UNLABELLED
from kd_core.losses.tensors import LOW, hidden, same_shape, shape, standardized


class Rows(NamedTuple):
    """Logits (N, C) of both models, labels (N,) from 0 on, and where there is one (N,).

    An unlabelled row has logits of 0 and the label 0; a class that both models mask has the logit ``LOW``.
    """

    student: Tensor
    teacher: Tensor
    target: Tensor
    counts: Tensor

    @property
    def own(self) -> Tensor:
        """(N, C), true at the label's class."""
        return at(self.student, self.target)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of (N,) over the labelled rows, 0 where none is."""
        return torch.where(self.counts, values, 0.0).sum() / self.counts.sum().clamp(min=1)


def labelled_rows(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    standardize: bool = False,
    other: str = "teacher",
    as_they_are: bool = False,
) -> Rows:
    """The rows of logits (B, C) or (B, C, ...) with integer labels (B,) or (B, ...), -100 where there is none.

    ``as_they_are`` leaves the logits as they are: for a loss that bears minus infinity and skips unlabelled rows
    itself. KDError where shapes do not fit or labels are no integers.
    """
    student, teacher = same_shape(student, teacher, dim=1, other=other)
    rows, labels = flat_labels(student, target)
    counts = labels != UNLABELLED
    teacher = teacher.movedim(1, -1).reshape(rows.shape)
    if standardize:
        rows, teacher = (standardized(each) for each in hidden(counts, rows, teacher, dim=1))
    labels = labels.where(counts, 0)
    if as_they_are:
        return Rows(rows, teacher, labels, counts)
    # As masked_alike and hidden, in one step: LOW where both models mask a class, 0 in an unlabelled row.
    keep = counts[:, None] & ~(rows.isneginf() & teacher.isneginf())
    fill = torch.where(counts, LOW, 0.0).to(rows.dtype)[:, None]
    return Rows(torch.where(keep, rows, fill), torch.where(keep, teacher, fill), labels, counts)


def enough_classes(name: str, student: Tensor, least: int, reason: str) -> None:
    """KDError with the ``reason`` where logits (B, C, ...) have fewer classes than the loss ``name`` is defined for."""
    if student.ndim > 1 and student.shape[1] < least:
        hint = "take kd, or multilabel_kd for a yes/no output"
        raise KDError(f"{name} of student {shape(student)}: {reason}", path="student", hint=hint)


def flat_labels(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C, ...) as (N, C), and labels (B, ...) as int64 (N,). KDError where they do not fit."""
    if target.is_floating_point() or target.shape != student.shape[:1] + student.shape[2:]:
        rule = "it has integer labels in student's shape without its dimension 1, the classes"
        raise KDError(f"target {shape(target)} does not fit student {shape(student)}: {rule}", path="target")
    return student.movedim(1, -1).reshape(-1, student.shape[1]), target.long().flatten()


def at(rows: Tensor, classes: Tensor) -> Tensor:
    """(N, C), true at one class (N,) of each row."""
    return torch.arange(rows.shape[1], device=rows.device) == classes[:, None]


def chosen(rows: Tensor, classes: Tensor) -> Tensor:
    """(N, C), (N,) -> (N,): the element of one class of each row. KDError where there is no such class."""
    try:
        return rows.gather(1, classes[:, None])[:, 0]
    except (IndexError, RuntimeError) as reason:
        raise KDError(
            f"target holds a label that is not below {rows.shape[1]}, student's classes: {reason}", path="target"
        ) from reason


def against_rest(logits: Tensor, classes: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C), (N,) -> the log-odds (N,) of one class of each row against all others, and their log-softmax (N, C).

    ``own`` (N, C) is true at that class, which is left out of the latter: its logarithm there is that of 0.
    """
    others = logits.masked_fill(own, LOW)
    rest = others.logsumexp(1)
    return chosen(logits, classes) - rest, others - rest[:, None]


def binary_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """(N,), (N,) -> (N,): KL divergence of two yes/no distributions from their log-odds."""
    return F.logsigmoid(teacher) - F.logsigmoid(student) + (-teacher).sigmoid() * (student - teacher)
