"""Self-supervision as knowledge: what a teacher makes of transformed views (stage option ``views:``).

Xu et al., *Knowledge Distillation Meets Self-Supervision*, ECCV 2020 (arXiv 2006.07114); checked against
xuguodong03/SSKD. View 0 of a sample is the sample itself, the others are transformed; ``index`` tells which rows are
views of one sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.softened import soft_divergence
from kd_core.losses.tensors import as_float32, same_rows, same_shape, shape
from kd_core.ranges import PositiveFloat, Probability

FAR = -1e4
"""The similarity to what is no candidate: its probability is 0."""


@LOSSES("view_contrast")
@over_batch
def view_contrast(input: Tensor, index: Tensor, view: Tensor) -> Tensor:
    """Cross-entropy of finding, for each transformed view, the sample it is a view of.

    input (B, ...), flattened; index (B,) the samples; view (B,), 0 where it is the sample itself -> scalar, the mean
    over transformed views of minus the log softmax of the cosine similarities with the batch's view 0 rows. KDError
    where shapes do not fit. SSKD's first stage trains the teacher's projection head on it.
    """
    rows, index, view = _rows("input", input, index, view)
    targets = _own(index, view)
    entropies = F.cross_entropy(_similarity(rows, view), targets, reduction="none")
    return _mean(entropies, view != 0)


@LOSSES("self_supervised_kd")
@over_batch
def self_supervised_kd(
    student: Tensor,
    teacher: Tensor,
    index: Tensor,
    view: Tensor,
    *,
    temperature: PositiveFloat = 0.5,
    keep: Probability = 0.75,
) -> Tensor:
    """KL divergence between student and teacher of how similar each transformed view is to each sample of the batch.

    student (B, ...), teacher (B, ...), flattened; index (B,) the samples; view (B,), 0 where it is the sample itself
    -> scalar, temperature squared times the mean over transformed views. Of the views whose sample the teacher does
    not rank first, ``keep`` (a share) count: those it ranks highest. KDError where shapes do not fit.
    """
    student, teacher = same_rows(student, teacher)
    _, index, view = _rows("student", student, index, view)
    student, teacher = _similarity(student, view), _similarity(teacher, view)
    counts = _kept(_rank(teacher, _own(index, view)), index, view, keep)
    return soft_divergence(student, teacher, counts, temperature, 1)


@LOSSES("transformed_kd")
@over_batch
def transformed_kd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    index: Tensor,
    view: Tensor,
    *,
    temperature: PositiveFloat = 4.0,
    keep: Probability = 1.0,
) -> Tensor:
    """``kd`` on the transformed views that the teacher gets right, and on a share ``keep`` of the others.

    student, teacher (B, C) logits; target (B,) labels of the rows of view 0; index (B,) the samples; view (B,), 0 where
    it is the sample itself -> scalar, the mean over the transformed views that count. Of those the teacher gets wrong
    they are the ones it ranks the label highest in; views of an unlabelled sample (-100) all count. KDError where
    shapes do not fit.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    _, index, view = _rows("student", student, index, view)
    labels = _of_each_row("target", target, student)[_own(index, view)]
    rank = torch.where(labels < 0, 0, _rank(teacher, labels.clamp(min=0)))
    return soft_divergence(student, teacher, _kept(rank, index, view, keep), temperature, 1)


def _rows(name: str, rows: Tensor, index: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``rows`` as (B, D) in full precision, with the checked index and view."""
    if rows.ndim < 2:
        raise KDError(f"{name} {shape(rows)} must be (B, ...), one row a view", path=name)
    index, view = (_of_each_row(*pair, rows, name) for pair in (("index", index), ("view", view)))
    return as_float32(rows).flatten(1), index, view


def _of_each_row(name: str, numbers: Tensor, rows: Tensor, of: str = "student") -> Tensor:
    if numbers.shape != rows.shape[:1]:
        raise KDError(f"{name} {shape(numbers)} does not fit {of} {shape(rows)}: it has one number a row", path=name)
    return numbers


def _own(index: Tensor, view: Tensor) -> Tensor:
    """(B,): for each row the row of view 0 of the same sample."""
    return ((index[:, None] == index) & (view == 0)).byte().argmax(1)


def _similarity(rows: Tensor, view: Tensor) -> Tensor:
    """(B, D) -> (B, B): cosines with the rows of view 0, ``FAR`` elsewhere."""
    rows = F.normalize(rows, eps=1e-8)
    return (rows @ rows.T).masked_fill(view != 0, FAR)


def _rank(scores: Tensor, chosen: Tensor) -> Tensor:
    """(B, C), (B,) -> (B,): how many scores of a row are above the chosen one."""
    return (scores > scores.gather(1, chosen[:, None])).sum(1)


def _kept(rank: Tensor, index: Tensor, view: Tensor, keep: float) -> Tensor:
    """(B,): transformed views of rank 0, and of the others, lowest rank first, a share ``keep`` rounded down.

    Among equal ranks the sample of lower index is first, then the lower view: the order of rows does not matter.
    """
    candidates = view != 0
    wrong = (candidates & (rank > 0)).sum()
    quota = candidates.sum() - wrong + (wrong * keep).floor()
    order = view.argsort(stable=True)
    for key in (index, torch.where(candidates, rank, torch.iinfo(rank.dtype).max)):
        order = order[key[order].argsort(stable=True)]
    return candidates & (order.argsort() < quota)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of the unmasked elements, 0 where all are masked."""
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)
