"""Partners: for each sample of a batch another one of its class, or the sample in another augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kd_core.data.batch import PARTNER, PARTNERS, SHARED, Batch, Split
from kd_core.errors import KDError


def partners(targets: Tensor, seed: int) -> Tensor:
    """For each of N samples the position of one of its class, each as likely, itself among them: (N,) -> (N,).

    A pure function of the classes and of ``seed``.
    """
    order = targets.argsort(stable=True)
    _, inverse, counts = targets.unique(return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    draw = torch.rand(len(targets), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    within = (draw * counts[inverse]).long().clamp(max=counts[inverse] - 1)
    return order[starts[inverse] + within]


def classes_of(split: Split, needed: str = "partners are of one class") -> Tensor:
    """The class of each sample of a split; KDError, which says what they are ``needed`` for, where one has none."""
    targets = split.sample_classes
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        raise KDError(f"{needed}, and these data have no class for each sample")
    if (unlabelled := int((targets < 0).sum())) > 0:
        raise KDError(f"{needed}, and {unlabelled} training samples have no label")
    return targets


def partner_rows(kind: str, split: Split, seed: int) -> Tensor:
    """For each sample of a split the position of its partner, (N,): one of its ``class``, else its own.

    KDError where partners are of one class and a sample has none.
    """
    return partners(classes_of(split), seed) if kind == "class" else torch.arange(len(split))


def partner_split(kind: str | None, split: Split) -> Split:
    """The split that partners are read from: with strong augmentation where it is asked for."""
    return split.strong() if kind == "strong" else split


def with_partners(batch: Batch, inputs: Any, others: Mapping[str, Any] | None = None) -> Batch:
    """The batch with the ``inputs`` of its samples' partners, in their order, and as ``others`` take them."""
    return replace(batch, extra={**batch.extra, PARTNER: inputs, **({PARTNERS: others} if others else {})})


def prepared(raw: Batch, prepare: Callable[[Batch], Batch], model: str) -> Batch:
    """A batch as models take it, where it has partners with those: as ``model`` takes them and as the others do."""
    if PARTNER not in raw.extra:
        return prepare(raw)
    extra = {key: value for key, value in raw.extra.items() if key != PARTNER}
    plain = replace(raw, extra=extra)
    beside = prepare(replace(plain, inputs=raw.extra[PARTNER]))
    others = {name: inputs for name, inputs in beside.inputs.items() if name not in (model, SHARED)}
    return with_partners(prepare(plain), beside.for_model(model), others)
