"""Schedulers that are made of others: each of these takes the optimizer, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kd_core.config.syntax.lazy import Call

CHAINS = ("torch.optim.lr_scheduler.SequentialLR", "torch.optim.lr_scheduler.ChainedScheduler")


def chained(value: Any) -> tuple[Any, list[Any]]:
    """A scheduler's call without the schedulers that it is made of, and the calls of these; none for another call."""
    if not isinstance(value, Call) or value.target not in CHAINS:
        return value, []
    inner = value.kwargs.get("schedulers")
    if not isinstance(inner, list) or not all(isinstance(part, Call) for part in inner):
        return value, []
    return replace(value, kwargs={**value.kwargs, "schedulers": []}), inner
