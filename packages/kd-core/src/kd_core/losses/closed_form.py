"""Parts of losses whose gradients are written out, as autograd functions, and what such functions have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_core.device.first_order import Gradients, first_order

LIMITS = {torch.float32: (2.0**-126, 2.0**96, 2.0**64), torch.float64: (2.0**-1022, 2.0**768, 2.0**512)}
"""By type what stands for a probability of 0 under a logarithm; for an infinite log(p / q), of which 0 times is 0; and
what times makes a share of that infinite again."""
SHORTEST = 1e-12
"""The length below which a vector is one of zeros."""


def log_ratio(p: Tensor, log_q: Tensor) -> Tensor:
    """log(p / q), finite: what masks do is done by bounds, since truth values are slow on a CPU."""
    tiny, most, _ = LIMITS[p.dtype]
    return p.clamp_min(tiny).log_().sub_(log_q).clamp_max_(most)


def unit(rows: Tensor, dim: int = -1) -> Tensor:
    """Vectors of length 1 along ``dim``; one of zeros stays zeros, and has no gradient."""
    result: Tensor = _Unit.apply(rows, dim)
    return result


class _Unit(torch.autograd.Function):
    """Half as many passes over the numbers as ``normalize`` makes in both directions."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, dim: int) -> Tensor:
        lengths = torch.linalg.vector_norm(rows, dim=dim, keepdim=True)
        lengths.masked_fill_(lengths < SHORTEST, torch.inf)
        units = rows / lengths
        ctx.save_for_backward(units, lengths)
        ctx.dim = dim
        return units

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """What of the gradient is across the vector, over its length."""
        units, lengths = ctx.saved_tensors
        along = (units * gradient).sum(ctx.dim, keepdim=True)
        return torch.addcmul(gradient, units, along, value=-1).div_(lengths), None


def mean_square(features: Tensor) -> Tensor:
    """(B, C, ...) -> (B, ...), the mean of the squares of the channels."""
    result: Tensor = _MeanSquare.apply(features)
    return result


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return features.square().mean(1)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Twice the features over their number."""
        (features,) = ctx.saved_tensors
        return (features * (gradient * (2 / features.shape[1])).unsqueeze(1),)


def gram(rows: Tensor) -> Tensor:
    """(B, D) or (..., B, D) -> (..., B, B): inner products of each two rows."""
    result: Tensor = _Gram.apply(rows)
    return result


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows @ rows.mT

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """One product of matrices where there are two without the knowledge that both factors are the same."""
        (rows,) = ctx.saved_tensors
        return ((gradient + gradient.mT) @ rows,)
