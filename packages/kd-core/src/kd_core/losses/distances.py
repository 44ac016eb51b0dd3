"""Losses of heads that predict for each side of a box a distribution over distances, as generalised focal loss does."""

from __future__ import annotations

from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, divergence, hidden, masked_alike, same_shape, shape
from kd_core.ranges import PositiveFloat

SIDES = 4
TINY = 1e-12
"""The least sum of weights."""


@LOSSES("ld")
@over_batch
def ld(student: Tensor, teacher: Tensor, importance: Tensor, *, temperature: PositiveFloat = 10.0) -> Tensor:
    """Localization distillation: KL divergence of where the student puts the sides of a box from the teacher's.

    student, teacher (B, A, 4, N) logits of N distances; importance (B, A), how much an anchor counts -> scalar: the sum
    over the anchors, the mean over sides and distances, times the squared ``temperature``. It is a sum over the batch,
    as in the authors' code. KDError where shapes do not fit, there is one distance, or the temperature is not above 0.
    Zheng et al., *Localization Distillation for Dense Object Detection*, CVPR 2022 (arXiv 2102.12252); checked against
    HikariTJU/LD.
    """
    return _weighed(student, teacher, importance, temperature).sum() / student.shape[3]


def certainties(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """The sum of how sure a head is of an object at each anchor."""
    return _certainty(logits, mask).sum()


@LOSSES("crosskd_distances")
@mean_over(certainties)
def crosskd_distances(
    student: Tensor, teacher: Tensor, logits: Tensor, mask: Tensor | None = None, *, temperature: PositiveFloat = 1.0
) -> Tensor:
    """CrossKD's loss of distributions: ``ld`` summed over the distances, weighted by how sure the teacher is.

    student (what the teacher's head makes of the student's features), teacher (B, A, 4, N) logits of N distances;
    logits (B, A, K), the teacher's, whose most probable class is the weight; mask (B, A), zero for the anchors that do
    not count -> scalar: the mean over the sides and, by the weights, over the anchors, times the squared
    ``temperature``; 0 where no anchor counts. KDError where shapes do not fit, there is one distance, or the
    temperature is not above 0.
    Wang et al., *CrossKD*, CVPR 2024 (arXiv 2306.11369); checked against jbwang1997/CrossKD.
    """
    if logits.shape[:-1] != student.shape[:2]:
        raise KDError(f"logits {shape(logits)} does not fit: it is (B, A, K), student {shape(student)}", path="logits")
    if mask is not None:
        if mask.shape != student.shape[:2]:
            rule = f"it has one number an anchor of student {shape(student)}"
            raise KDError(f"mask {shape(mask)} does not fit: {rule}", path="mask")
        student, teacher = (tensor.masked_fill((mask == 0)[..., None, None], 0.0) for tensor in (student, teacher))
    weight = _certainty(logits, mask)
    return _weighed(student, teacher, weight, temperature).sum() / weight.sum().clamp(min=TINY)


def _certainty(logits: Tensor, mask: Tensor | None) -> Tensor:
    """(B, A): the probability of the most probable class, 0 where the mask is."""
    if mask is None:
        return as_float32(logits).amax(2).sigmoid()
    (logits,) = hidden(mask != 0, as_float32(logits), dim=-1)
    return logits.amax(2).sigmoid().masked_fill(mask == 0, 0.0)


def _weighed(student: Tensor, teacher: Tensor, importance: Tensor, temperature: float) -> Tensor:
    """(B, A): the divergences, their mean over the sides, times importance and squared temperature."""
    student, teacher = same_shape(student, teacher, dim=3)
    if student.shape[2] != SIDES or student.shape[3] < 2:
        raise KDError(f"student {shape(student)} must be (B, A, 4, N) with more than one distance", path="student")
    if importance.shape != student.shape[:2]:
        rule = f"it has one number an anchor of student {shape(student)}"
        raise KDError(f"importance {shape(importance)} does not fit: {rule}", path="importance")
    ours, theirs = ((logits / temperature).log_softmax(3) for logits in masked_alike(student, teacher))
    return divergence(theirs, ours, 3).mean(2) * as_float32(importance) * temperature**2
