"""Losses whose gradients are written out, as autograd functions: what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradients = tuple[Tensor | None, ...]
LIMITS = {torch.float32: (2.0**-126, 2.0**96, 2.0**64), torch.float64: (2.0**-1022, 2.0**768, 2.0**512)}
"""By type what stands for a probability of 0 under a logarithm; for an infinite log(p / q), of which 0 times is 0; and
what times makes a share of that infinite again."""


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Mark a backward pass of which there is no gradient: to ask for one is an error of torch, not a wrong number.

    As torch's ``once_differentiable``, but where no graph of the backward pass is made it costs nothing.
    """
    marked: Callable[..., Gradients] = once_differentiable(backward)

    @wraps(backward)
    def choose(ctx: Any, *gradients: Tensor) -> Gradients:
        return (marked if torch.is_grad_enabled() else backward)(ctx, *gradients)

    return choose


def log_ratio(p: Tensor, log_q: Tensor) -> Tensor:
    """log(p / q), finite: what masks do is done by bounds, since truth values are slow on a CPU."""
    tiny, most, _ = LIMITS[p.dtype]
    return p.clamp_min(tiny).log_().sub_(log_q).clamp_max_(most)
