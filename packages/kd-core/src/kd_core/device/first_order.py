"""Gradients that are written out, and have none themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from kd_core.errors import KDError

Gradients = tuple[Tensor | None, ...]


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Mark a backward pass of which there is no gradient: KDError where one is asked for, not a wrong number.

    torch's ``once_differentiable`` lets that pass where the gradient that comes in, 1 for a loss, has no history.
    """

    @wraps(backward)
    def once(ctx: Any, *gradients: Tensor) -> Gradients:
        if not torch.is_grad_enabled():
            return backward(ctx, *gradients)
        with torch.no_grad():
            found = backward(ctx, *gradients)
        history = torch.zeros((), requires_grad=True)
        return tuple(None if each is None else _Once.apply(each, history) for each in found)

    return once


class _Once(torch.autograd.Function):
    """A gradient as it is, with a history that cannot be followed."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, history: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """KDError: there is none."""
        raise KDError(
            "a gradient that is written out, as those of some losses and of `cpu_kernels`, has no gradient itself",
            hint="keep penalties on gradients away from it: take a loss of torch, and no `cpu_kernels`",
        )
