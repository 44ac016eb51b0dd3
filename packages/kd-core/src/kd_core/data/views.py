"""Views: what a stage's ``views:`` makes of a training batch, B samples becoming kB rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_core.registry import Registry, owner_of
from kd_core.signatures import is_open, is_value, parameters, refuse
from kd_core.taps.nested import map_tensors

View = Callable[..., Batch]
"""``(batch, *, values...) -> Batch``: what VIEWS holds. ``batch`` is as the models take it; see :func:`views_of`."""
UNLABELLED = -100


def check(name: str, view: View) -> None:
    """KDError where ``view`` cannot be named in a config. Called by every registration."""
    found = parameters(view)
    given = [str(p) if is_open(p) else p.name for p in found if not is_value(p)]
    if given != ["batch"]:
        raise KDError(f"view {name!r}, {owner_of(view)}, must take (batch, *, ...), not ({', '.join(given)})")
    refuse("view", name, view, [p for p in found if is_value(p)])


VIEWS: Registry[View] = Registry("view", "kd.views", check)


def identity(batch: Batch) -> Batch:
    """The view of a stage without any."""
    return batch


def views_of(batch: Batch, inputs: Sequence[Mapping[str, Any]]) -> Batch:
    """One batch of all views, the rows of one after those of another.

    ``inputs`` are the models' inputs of each view, view 0 being the samples themselves: only its rows keep their
    labels. ``batch.view`` (kB,) numbers the views, ``batch.original`` (kB,) is true in view 0; ``batch.index`` and
    further entries are repeated. KDError where targets are no class labels.
    """
    count, size, device = len(inputs), len(batch), batch.index.device
    view = torch.arange(count, device=device).repeat_interleave(size)

    def stacked(*parts: Any) -> Any:
        if isinstance(parts[0], Mapping):
            return {key: stacked(*(part[key] for part in parts)) for key in parts[0]}
        return torch.cat(parts)

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat(count, *[1] * (tensor.ndim - 1))

    def labels(target: Tensor) -> Tensor:
        if target.is_floating_point():
            raise KDError("views hide the labels of all views but the first, which needs class labels as targets")
        return torch.cat([target, target.new_full((size * (count - 1), *target.shape[1:]), UNLABELLED)])

    return replace(
        batch,
        inputs=stacked(*inputs),
        target=map_tensors(labels, batch.target),
        index=repeated(batch.index),
        extra={**map_tensors(repeated, batch.extra), "view": view, "original": view == 0},
    )
