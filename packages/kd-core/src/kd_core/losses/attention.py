"""Losses on the self-attention of text models, from its queries, keys and values or from its attention maps.

The attention maps that models of transformers return are those after dropout, with zeros in them while a model trains,
and none without eager attention. The projections ``attention.self.query``, ``.key`` and ``.value`` of BERT have
neither flaw.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, hidden, shape
from kd_core.ranges import PositiveInt

MASKED = -1e2
"""Scores that are not above this are those of masked positions, and count as 0."""


def pairs(mask: Tensor | None = None) -> Tensor | None:
    """The number of pairs of unmasked positions of a sequence."""
    return None if mask is None else (mask != 0).sum(1).square().sum()


def sequences(mask: Tensor | None = None) -> Tensor | None:
    """The number of sequences with an unmasked position."""
    return None if mask is None else (mask != 0).any(1).sum()


@LOSSES("attention_mse")
@mean_over(pairs)
def attention_mse(
    student: Tensor | list[Tensor],
    teacher: Tensor | list[Tensor],
    mask: Tensor | None = None,
    *,
    heads: PositiveInt = 12,
) -> Tensor:
    """TinyBERT's attention loss: mean squared difference of the scores, before the softmax, of one layer.

    student, teacher: scores (B, heads, L, L), or [queries, keys] of (B, L, H) each, split into ``heads`` whose scores
    are q k / sqrt(H / heads); H may differ; mask (B, L), zero where a position (of padding) is masked -> scalar,
    the mean over heads and all pairs of unmasked positions, 0 where there are none. Scores of -100 and below are of
    masked positions and count as 0. KDError where shapes do not fit.
    Jiao et al., TinyBERT, Findings of EMNLP 2020, eq. 7 (arXiv 1909.10351); checked against
    huawei-noah/Pretrained-Language-Model, which averages over padding: its value is that without ``mask``.
    """
    student, teacher = _visible(student, mask), _visible(teacher, mask)
    scores = [_scores(name, tensor, heads) for name, tensor in (("student", student), ("teacher", teacher))]
    _same(scores, student, teacher)
    ours, target = (torch.where(score > MASKED, score, 0.0) for score in scores)
    squares = (ours - target).square()
    if mask is None:
        return squares.mean()
    seen = _seen(mask, squares)
    pairs = seen[:, None, :, None] & seen[:, None, None, :]
    return torch.where(pairs, squares, 0.0).sum() / (pairs.sum() * squares.shape[1]).clamp(min=1)


@LOSSES("attention_kl")
@mean_over(sequences)
def attention_kl(
    student: Tensor | list[Tensor],
    teacher: Tensor | list[Tensor],
    mask: Tensor | None = None,
    *,
    heads: PositiveInt = 12,
) -> Tensor:
    """MiniLM's and MiniLMv2's losses: KL divergence of the student's attention or relations from the teacher's.

    student, teacher: vectors (B, L, H), split into ``heads``, whose relations are softmax(x x / sqrt(H / heads)); or
    [queries, keys] of (B, L, H) each, whose attention is softmax(q k / sqrt(H / heads)); or attention maps
    (B, heads, L, L), of probabilities. H may differ. mask (B, L), zero where a position (of padding) is masked
    -> scalar: the mean over heads and the unmasked positions of a sequence, then over the sequences that have any,
    0 where none has. KDError where shapes do not fit.
    Wang et al., MiniLM, NeurIPS 2020, eq. 6 to 8 (arXiv 2002.10957): the attention of [queries, keys] and the relation
    of values. Wang et al., MiniLMv2, Findings of ACL 2021, eq. 5 to 8 (arXiv 2012.15828): relations of queries, of
    keys and of values, in more ``heads`` than there are of attention. Their authors published no code; checked
    against bloomberg/minilmv2.bb.
    """
    student, teacher = _visible(student, mask), _visible(teacher, mask)
    scores = [_logits(name, tensor, heads) for name, tensor in (("student", student), ("teacher", teacher))]
    _same(scores, student, teacher)
    if mask is None:
        log_student, log_teacher = (score.log_softmax(-1) for score in scores)
        return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()
    seen = _seen(mask, scores[0])
    # Not -inf: a sequence without any position would make NaN.
    hidden = ~seen[:, None, None, :]
    log_student, log_teacher = (
        score.masked_fill(hidden, torch.finfo(score.dtype).min).log_softmax(-1).masked_fill(hidden, 0.0)
        for score in scores
    )
    soft = log_teacher.exp().masked_fill(hidden, 0.0)
    divergence = (soft * (log_teacher - log_student)).sum(-1).mean(1)
    lengths = seen.sum(1)
    return (torch.where(seen, divergence, 0.0).sum(1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


def _visible(attention: Tensor | list[Tensor], mask: Tensor | None) -> Any:
    """Vectors or attention with 0 at masked positions; what does not fit the mask stays, for an error."""
    if mask is None or mask.ndim != 2:
        return attention
    if not isinstance(attention, Tensor):
        return [_visible(tensor, mask) for tensor in attention]
    if attention.ndim == 3 and attention.shape[:2] == mask.shape:
        return hidden(mask != 0, attention, dim=2)[0]
    if attention.ndim == 4 and attention[:, 0].shape == (*mask.shape, mask.shape[1]):
        return hidden(((mask[:, :, None] != 0) & (mask[:, None] != 0)), attention, dim=1)[0]
    return attention


def _scores(name: str, attention: Tensor | list[Tensor], heads: int) -> Tensor:
    """(B, heads, L, L): scores as they are, or those of a pair."""
    if isinstance(attention, Tensor):
        if attention.ndim == 4 and attention.shape[2] == attention.shape[3]:
            return as_float32(attention)
        hint = f"write `{name}: [MODEL....query, MODEL....key]`"
        raise KDError(f"{name} {shape(attention)} must be scores (B, heads, L, L) or two wires", hint=hint, path=name)
    return _products(name, attention, heads)


def _logits(name: str, attention: Tensor | list[Tensor], heads: int) -> Tensor:
    """(B, heads, L, L), whose softmax is the attention or the relation."""
    if not isinstance(attention, Tensor):
        return _products(name, attention, heads)
    if attention.ndim != 4:
        return _products(name, [attention, attention], heads)
    if attention.shape[2] != attention.shape[3]:
        raise KDError(f"{name} {shape(attention)} must be an attention map (B, heads, L, L)", path=name)
    attention = as_float32(attention)
    return attention.clamp(min=torch.finfo(attention.dtype).tiny).log()


def _products(name: str, pair: list[Tensor], heads: int) -> Tensor:
    """The scaled inner products of all positions: two of (B, L, H) -> (B, heads, L, L)."""
    if len(pair) != 2 or pair[0].ndim != 3 or pair[0].shape != pair[1].shape:
        rule = "must be (B, L, H), or [queries, keys] of that shape"
        raise KDError(f"{name} {_shapes(pair)} {rule}", path=name)
    width = pair[0].shape[2]
    if width % heads:
        raise KDError(
            f"{name} {_shapes(pair)} cannot be split into {heads} heads: the width {width} is not a multiple of that",
            path=name,
        )
    queries, keys = (as_float32(tensor).unflatten(2, (heads, width // heads)).transpose(1, 2) for tensor in pair)
    return queries @ keys.mT / math.sqrt(width // heads)


def _same(scores: list[Tensor], student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> None:
    """KDError where the two (B, heads, L, L) differ in shape."""
    if scores[0].shape != scores[1].shape:
        both = f"student {_shapes(student)} and teacher {_shapes(teacher)}"
        raise KDError(f"{both} must have the same B, L and number of heads")


def _seen(mask: Tensor, scores: Tensor) -> Tensor:
    """(B, L), where ``mask`` is not zero."""
    batch, length = scores.shape[0], scores.shape[-1]
    if mask.shape != (batch, length):
        raise KDError(
            f"mask {shape(mask)} does not fit student: it must be (B, L), here {(batch, length)}", path="mask"
        )
    return mask != 0


def _shapes(attention: Tensor | list[Tensor]) -> str:
    """``(2, 3)`` or ``[(2, 3), (2, 3)]``; a pair of one tensor is that tensor."""
    if isinstance(attention, Tensor):
        return shape(attention)
    if len(attention) == 2 and attention[0] is attention[1]:
        return shape(attention[0])
    return f"[{', '.join(map(shape, attention))}]"
