"""Contrastive representation distillation: a sample's embedding against a memory of all others'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.sampling import ContrastRows
from kd_core.losses.tensors import same_shape, shape
from kd_core.ranges import Momentum, PositiveFloat, PositiveInt

EPSILON = 1e-7
DENSE = 32
"""A memory of up to so many times the rows asked for is multiplied whole: gathering them would cost more."""


@LOSSES("crd")
@over_batch
class CRD(nn.Module):
    """Noise-contrastive estimation of which memory row belongs to a sample, student against teacher and back.

    student, teacher (B, dim) L2-normalised embeddings (adapter ``embedding``); index (B,), a row of the memory a sample
    -> scalar, the sum over ``negatives`` and one positive, the mean over the batch, of both directions. In training
    each pass then moves the batch's memory rows: ``momentum`` times the old one plus the rest of the embedding,
    L2-normalised. ``num_samples`` and ``targets`` are ``!run num_samples`` and ``!run targets``. Negatives are samples
    of other classes, without ``targets`` any samples; the positive is the sample itself (``mode: exact``) or any of its
    class (``relaxed``). What is drawn is a pure function of the seed, the pass and the sample. KDError where shapes do
    not fit or values are out of range.
    Tian, Krishnan & Isola, ICLR 2020, eq. 17-18 (arXiv 1910.10699); checked against HobbitLong/RepDistiller, whose
    data loader draws without replacement.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    log_z: Tensor
    """(2,): logarithms of the normalising constants, which the first pass sets."""
    seed: Tensor

    def __init__(
        self,
        *,
        num_samples: PositiveInt,
        targets: Sequence[int] | None = None,
        dim: PositiveInt = 128,
        negatives: PositiveInt = 16384,
        temperature: PositiveFloat = 0.07,
        momentum: Momentum = 0.5,
        mode: Literal["exact", "relaxed"] = "exact",
    ) -> None:
        super().__init__()
        if mode == "relaxed" and targets is None:
            raise KDError("relaxed positives are of the sample's class", hint="write `targets: !run targets`")
        self.temperature, self.momentum, self.dim = temperature, momentum, dim
        self.rows = ContrastRows(num_samples, targets, negatives=negatives, relaxed=mode == "relaxed")
        bound = 1 / math.sqrt(dim / 3)
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(num_samples, dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.zeros(2))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.passes = 0

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        student, teacher = same_shape(student, teacher)
        if student.ndim != 2 or student.shape[1] != self.dim:
            hint = "an adapter `embedding` makes them"
            raise KDError(f"student {shape(student)} must be embeddings (B, {self.dim})", hint=hint, path="student")
        if index.shape != student.shape[:1]:
            raise KDError(
                f"index {shape(index)} does not fit student {shape(student)}: it has one row a sample", path="index"
            )
        rows = self.rows(index, self.seed + self.passes)
        scores = (
            self._scores(student, self.teacher_memory, rows),
            self._scores(teacher, self.student_memory, rows),
        )
        log_z = self.log_z if self.passes else self._normalisers(scores)
        loss = sum(self._estimation(score - z) for score, z in zip(scores, log_z, strict=True))
        if self.training:
            self.log_z.copy_(log_z)
            self.passes += 1
            self.remember(index, student, teacher)
        assert isinstance(loss, Tensor)
        return loss

    def _scores(self, anchors: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
        """Inner products of (B, dim) with ``rows`` (B, K) of the memory, over the temperature: (B, K)."""
        if len(memory) <= DENSE * rows.shape[1]:
            memory = memory.to(anchors.dtype, copy=True)  # the backward pass wants it as it is before the update
            return (anchors / self.temperature @ memory.T).gather(1, rows)
        return torch.einsum("bd,bkd->bk", anchors / self.temperature, memory[rows].to(anchors.dtype))

    @torch.no_grad()
    def _normalisers(self, scores: tuple[Tensor, Tensor]) -> Tensor:
        """(2,) logarithms of Z: the mean exponential of the first pass's scores times the number of samples."""
        shares = (math.log(self.rows.candidates / score.numel()) for score in scores)
        return torch.stack([score.flatten().logsumexp(0) + share for score, share in zip(scores, shares, strict=True)])

    def _estimation(self, log_p: Tensor) -> Tensor:
        """The loss of (B, 1 + K) log probabilities, the positive's first (eq. 18, with the authors' 1e-7)."""
        noise = (log_p.shape[1] - 1) / self.rows.candidates
        level = math.log(noise + EPSILON)
        positives = F.logsigmoid(log_p[:, 0] - level)
        negatives = F.logsigmoid(level - log_p[:, 1:]) + (math.log(noise) - level)
        return -(positives.sum() + negatives.sum()) / len(log_p)

    def get_extra_state(self) -> int:
        """The number of training passes, which the draws depend on."""
        return self.passes

    def set_extra_state(self, state: int) -> None:
        """Go on after so many passes."""
        self.passes = state

    @torch.no_grad()
    def remember(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Move the memory rows ``index`` (B,) towards the embeddings (B, dim) of their samples.

        Of a sample that is there several times, the last embedding counts.
        """
        last = last_of_same(index)
        for memory, rows in ((self.student_memory, student), (self.teacher_memory, teacher)):
            moved = self.momentum * memory[index] + (1 - self.momentum) * rows[last].to(memory.dtype)
            memory.index_copy_(0, index, F.normalize(moved))


def last_of_same(index: Tensor) -> Tensor:
    """For each of the rows ``index`` (B,) the last place that has the same one, (B,): most often its own."""
    places = torch.arange(len(index), device=index.device)
    return (places * (index[:, None] == index)).amax(1)
