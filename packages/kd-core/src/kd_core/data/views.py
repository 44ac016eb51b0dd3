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
from kd_core.taps.nested import map_tensors, tensors

View = Callable[..., Batch]
"""``(batch, *, values...) -> Batch``: what VIEWS holds. ``batch`` is as the models take it; see :func:`views_of`."""
UNLABELLED = -100
NEEDS_LABELS = "views hide the labels of all views but the first, which needs class labels as targets"


def validate_view(name: str, view: View) -> None:
    """KDError where ``view`` cannot be named in a config. Called by every registration."""
    declared = parameters(view)
    inputs_taken = [str(p) if is_open(p) else p.name for p in declared if not is_value(p)]
    if inputs_taken != ["batch"]:
        raise KDError(f"view {name!r}, {owner_of(view)}, must take (batch, *, ...), not ({', '.join(inputs_taken)})")
    refuse("view", name, view, [p for p in declared if is_value(p)])


VIEWS: Registry[View] = Registry("view", "kd.views", validate_view)


def identity(batch: Batch) -> Batch:
    """The view of a stage without any."""
    return batch


def views_of(batch: Batch, inputs: Sequence[Mapping[str, Any]]) -> Batch:
    """One batch of all views, the rows of one after those of another.

    ``inputs`` are the models' inputs of each view, view 0 being the samples themselves: only its rows keep their
    labels. ``batch.view`` (kB,) numbers the views, ``batch.original`` (kB,) is true in view 0; ``batch.index`` and
    further entries are repeated, as are lists of one value a sample, such as images of different sizes. Of a sample's
    target in a list the integers are labels, and what stands beside them (boxes) is kept. KDError where targets are no
    class labels.
    """
    count, size, device = len(inputs), len(batch), batch.index.device
    view = torch.arange(count, device=device).repeat_interleave(size)

    def stacked(*parts: Any) -> Any:
        if isinstance(parts[0], Mapping):
            return {key: stacked(*(part[key] for part in parts)) for key in parts[0]}
        if isinstance(parts[0], (list, tuple)):
            if all(len(part) == size for part in parts):
                return [item for part in parts for item in part]
            return [stacked(*items) for items in zip(*parts, strict=True)]
        return torch.cat(parts)

    return replace(
        batch,
        inputs=stacked(*inputs),
        target=_labels(batch.target, size, count),
        index=batch.index.repeat(count),
        extra={**_repeated(batch.extra, size, count), "view": view, "original": view == 0},
    )


def _repeated(value: Any, size: int, count: int) -> Any:
    """``count`` times the values of ``size`` samples."""
    if isinstance(value, Mapping):
        return {key: _repeated(item, size, count) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(value) * count if len(value) == size else [_repeated(item, size, count) for item in value]
    if isinstance(value, Tensor) and value.ndim:
        return value.repeat(count, *[1] * (value.ndim - 1))
    return value


def _labels(target: Any, size: int, count: int) -> Any:
    """The labels of ``size`` samples, followed by hidden ones of the other views."""
    if isinstance(target, Mapping):
        return {key: _labels(item, size, count) for key, item in target.items()}
    if isinstance(target, (list, tuple)) and len(target) == size:
        return [*target, *([_hidden(item) for item in target] * (count - 1))]
    if not isinstance(target, Tensor) or target.is_floating_point():
        raise KDError(NEEDS_LABELS)
    return torch.cat([target, target.new_full((size * (count - 1), *target.shape[1:]), UNLABELLED)])


def _hidden(target: Any) -> Any:
    """The target of one sample with its labels hidden; KDError where it has none."""
    labels = [tensor for tensor in tensors(target) if not tensor.is_floating_point()]
    if not labels:
        raise KDError(NEEDS_LABELS)
    return map_tensors(lambda item: item if item.is_floating_point() else torch.full_like(item, UNLABELLED), target)
