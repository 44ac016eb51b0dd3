"""Losses on how the samples of a batch relate to one another. With one sample there is no relation: they are 0.

Student and teacher may be of any two widths: only their batch sizes must be equal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.first_order import Gradients, first_order
from kd_core.losses.closed_form import gram, unit
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_rows


@LOSSES("similarity_preserving")
@over_batch
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the B x B matrices of inner products, each row normalised.

    student (B, ...), teacher (B, ...), flattened -> scalar, divided by B squared. KDError where B differs.
    Tung & Mori, ICCV 2019 (arXiv 1907.09682); checked against HobbitLong/RepDistiller (verified by the author).
    """
    student, teacher = same_rows(student, teacher)
    return F.mse_loss(unit(gram(student)), unit(gram(teacher)))


@LOSSES("pkt")
@over_batch
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence between the probabilities that two samples are neighbours, from their cosine similarity.

    student (B, ...), teacher (B, ...), flattened -> scalar, the mean over B x B pairs. KDError where B differs.
    Passalis & Tefas, ECCV 2018 (arXiv 1803.10837); checked against passalis/probabilistic_kt, its 1e-7 included.
    """
    student, teacher = (_neighbours(rows) for rows in same_rows(student, teacher))
    return (teacher * ((teacher + 1e-7) / (student + 1e-7)).log()).mean()


def _neighbours(rows: Tensor) -> Tensor:
    """(B, D) -> (B, B), each row a distribution."""
    rows = rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-7)
    similarity = (gram(rows) + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


@LOSSES("rkd_distance")
@over_batch
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the distances of all pairs, each in units of its batch's mean distance.

    student (B, ...), teacher (B, ...), flattened -> scalar, the mean over B x B. KDError where B differs.
    Park et al., RKD, CVPR 2019, section 3.2.1 (arXiv 1904.05068); checked against lenscloth/RKD.
    """
    student, teacher = same_rows(student, teacher)
    apart = F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="sum")
    return 2 * apart / len(student) ** 2  # each pair stands for two of the B x B; the diagonal adds 0


def _distances(rows: Tensor) -> Tensor:
    """(B, D) -> (B (B - 1) / 2,), divided by their mean; as in the reference no pair is nearer than 1e-6.

    Sums of squared differences: inner products, as the reference takes them, lose near pairs in float32.
    """
    distances = F.pdist(rows).clamp(min=1e-6)
    return distances / distances.mean()


@LOSSES("rkd_angle")
@over_batch
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles that all triples of samples form.

    student (B, ...), teacher (B, ...), flattened -> scalar, the mean over B x B x B. KDError where B differs.
    Park et al., RKD, CVPR 2019, section 3.2.2 (arXiv 1904.05068); checked against lenscloth/RKD.
    Where two of a student's samples coincide, the gradient of that pair is 0 (1e12 times another in the reference).
    """
    ours, theirs = (unit(rows - rows[:, None]) for rows in same_rows(student, teacher))
    loss: Tensor = _CosineErrors.apply(ours, theirs)
    return loss


class _CosineErrors(torch.autograd.Function):
    """Vectors (B, B, D) of unit length twice -> the mean Huber loss between the cosines of each two of a sample.

    At [i, j, k] is the cosine of the angle at sample i between samples j and k. The backward pass knows that these
    are symmetric, and of the (B, B, B) matrices one is kept.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        apart = torch.baddbmm(student @ student.mT, teacher, teacher.mT, alpha=-1)
        clipped = apart.clamp(-1, 1)
        ctx.save_for_backward(student, teacher, clipped)
        return apart.sub_(clipped, alpha=0.5).mul_(clipped).mean()  # d^2 / 2 up to 1, and |d| - 1 / 2 beyond

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """The clipped differences times the vectors, once for the rows and once for the columns of the cosines."""
        student, teacher, clipped = ctx.saved_tensors
        gradient = 2 * gradient / clipped.numel()
        return (
            (clipped @ student).mul_(gradient) if ctx.needs_input_grad[0] else None,
            (clipped @ teacher).mul_(-gradient) if ctx.needs_input_grad[1] else None,
        )
