"""Choosing among samples: limits, samples held out to validate, and which split plays which role.

Every choice is a pure function of the data set, the config and the seed. Where samples have one class each, classes
keep their shares; elsewhere a hash of (purpose, seed, position) chooses.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.rng import derive_key, random_u64
from kd_core.data.sources import Origin, Parts, S
from kd_core.data.spec import DataSpec, check_roles
from kd_core.errors import KDError, error_path

VAL_SHARE = 0.1
"""The share of the training samples that validates, where the data set has no validation split and the config says
nothing."""
LABELLED = "labelled"
"""The purpose that training samples are chosen for, be it to be there or to keep their labels: a limit of N leaves just
the samples whose labels another run keeps."""


def stratified(labels: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
    """Positions, ascending, of ``count`` samples in which every class keeps its share to within one sample.

    A pure function of (labels, count, seed, purpose). KDError where there are fewer than ``count``.
    """
    if count > len(labels):
        raise KDError(f"asks for {count} samples, and there are {len(labels)}", path=f"data.{purpose}")
    _, sizes = np.unique(labels.numpy(), return_counts=True)
    exact = sizes * (count / max(len(labels), 1))
    quota = np.floor(exact).astype(np.int64)
    largest_rest = np.argsort(quota - exact, kind="stable")
    quota[largest_rest[: count - quota.sum()]] += 1
    return _first_of_each_class(labels, quota, derive_key(purpose, seed))


def balanced(labels: Tensor, per_class: int, *, seed: int) -> Tensor:
    """Positions, ascending, of ``per_class`` samples of each class; KDError where a class has fewer."""
    classes, sizes = np.unique(labels.numpy(), return_counts=True)
    if sizes.min() < per_class:
        message = f"asks for {per_class} samples of each class, and class {classes[sizes.argmin()]} has {sizes.min()}"
        raise KDError(message, path="data.per_class")
    return _first_of_each_class(labels, np.full_like(sizes, per_class), derive_key("per_class", seed))


def _first_of_each_class(labels: Tensor, quota: NDArray[np.int64], key: int) -> Tensor:
    """The first ``quota[k]`` positions of the k-th class, in an order that ``key`` decides."""
    classes = labels.numpy()
    order = np.lexsort((random_u64(key, np.arange(len(classes))), classes))
    _, starts, sizes = np.unique(classes[order], return_index=True, return_counts=True)
    rank = np.arange(len(classes)) - np.repeat(starts, sizes)
    return torch.from_numpy(np.sort(order[rank < np.repeat(quota, sizes)]))


def complement(length: int, positions: Tensor) -> Tensor:
    """The positions of 0 .. length - 1 that are not among ``positions``, ascending."""
    keep = torch.ones(length, dtype=torch.bool)
    keep[positions] = False
    return keep.nonzero().flatten()


def chosen(samples: S, count: int, *, seed: int, purpose: str) -> Tensor:
    """Positions, ascending, of ``count`` samples: stratified, or by a hash where samples have no single class."""
    labels = samples.labels
    labels = torch.zeros(len(samples), dtype=torch.int64) if labels is None else labels
    return stratified(labels, count, seed=seed, purpose=purpose)


def limited(samples: S, count: int | None, *, seed: int, purpose: str) -> S:
    """``count`` of the samples where there are more."""
    if count is None or count >= len(samples):
        return samples
    return samples.take(chosen(samples, count, seed=seed, purpose=purpose))


def hold_out(train: S, val: float | None, *, seed: int) -> tuple[S, S | None]:
    """The samples that train and those that validate: ``val`` is their number or share, :data:`VAL_SHARE` for None.

    KDError where none would be left to train on.
    """
    share = VAL_SHARE if val is None else val
    count = share if isinstance(share, int) else round(len(train) * share)
    if not count:
        return train, None
    if count >= len(train):
        raise KDError(f"{count} of {len(train)} samples for validation leave none to train on", path="data.val")
    positions = chosen(train, count, seed=seed, purpose="val")
    return train.take(complement(len(train), positions)), train.take(positions)


def split(parts: Parts[S], data: DataSpec, seed: int) -> Parts[S]:
    """The data set as a run uses it: roles, then the limit of training samples, then validation, then other limits.

    ``data.seed``, where it is given, replaces ``seed``. KDError where the config asks for what the data cannot give.
    """
    seed, limits = data.seed_or(seed), data.limits
    parts = _with_roles(parts.with_origins(), data)
    train, val, test, origins = parts.train, parts.val, parts.test, dict(parts.origins)
    if train is not None:
        train = limited(train, limits.train, seed=seed, purpose=LABELLED)
        if val is None:
            train, val = hold_out(train, data.val, seed=seed)
            if val is not None:
                origins["val"] = replace(origins["train"], held_out=True)
    if val is not None:
        val = limited(val, limits.val, seed=seed, purpose="limit.val")
    if test is not None:
        test = limited(test, limits.test, seed=seed, purpose="limit.test")
    return replace(parts, train=train, val=val, test=test, origins=origins)


def _with_roles(parts: Parts[S], data: DataSpec) -> Parts[S]:
    """The data set's own splits in the roles that ``data.test`` gives them."""
    with error_path("data"):
        check_roles(data, tuple(parts.items()))
    if data.test != "val":
        return parts
    origins: dict[str, Origin] = {name: origin for name, origin in parts.origins.items() if name != "val"}
    return replace(parts, val=None, test=parts.val, origins={**origins, "test": parts.origins["val"]})
