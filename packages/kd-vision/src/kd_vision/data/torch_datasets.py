"""Data sets that a config calls: torchvision's, or the user's own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from kd_core.errors import KDError
from kd_vision.data.loading import seeded
from kd_vision.data.pool import UNLABELLED, LabelledSubset
from kd_vision.data.sources import Parts, Source

if TYPE_CHECKING:
    from kd_vision.data.spec import DataSpec

LABELS = ("targets", "labels", "_labels", "y")
"""Where data sets commonly keep the labels of all samples."""


def read_called(data: DataSpec) -> Parts:
    """``data.dataset``: torch data sets of (image, label) with labels 0, 1, ...; a negative label is none."""
    assert data.dataset is not None
    given = {key: dataset for key, dataset in data.dataset.items() if dataset is not None}
    pools = {key: dataset_pool(dataset, f"data.dataset.{key}") for key, dataset in given.items()}
    train, val, test = pools["train"], pools.get("val"), pools.get("test")
    names = getattr(given["train"], "classes", None)
    count = max(int(pool.target.max()) + 1 for pool in pools.values())
    if isinstance(names, (list, tuple)) and len(names) >= count:
        return Parts(train, val, test, tuple(map(str, names)))
    return Parts(train, val, test, tuple(map(str, range(max(count, data.num_classes or 0)))))


CUSTOM = Source("data sets of your own", read_called)
"""The data sets of ``data.dataset``, of which nothing is known before they are built."""


def dataset_pool(dataset: Any, where: str) -> LabelledSubset:
    """A torch data set as a pool; KDError where it has no samples to count, or no whole numbers for labels."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise KDError(
            f"{where}: {type(dataset).__name__} is not a map-style data set: it needs __len__ and __getitem__"
        )
    if not len(dataset):
        raise KDError(f"{where}: {type(dataset).__name__} is empty")
    target = labels_of(dataset, where)
    state = hashlib.sha256(f"{type(dataset).__module__}.{type(dataset).__qualname__} {len(dataset)}".encode())
    state.update(target.numpy().tobytes())
    return LabelledSubset(dataset, target, torch.arange(len(target)), state.hexdigest())


def labels_of(dataset: Any, where: str) -> Tensor:
    """The labels (N,) of all samples: from where the data set keeps them, else by reading every sample once."""
    labels = _kept_labels(dataset)
    if labels is None:
        try:
            with seeded(0):
                labels = [dataset[row][1] for row in range(len(dataset))]
        except (TypeError, IndexError, KeyError) as error:
            raise KDError(f"{where}: its samples are not pairs of an image and a label ({error})") from error
    try:
        target = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise KDError(f"{where}: its labels are not integers ({error})") from error
    if target.is_floating_point() or target.dtype == torch.bool or target.ndim != 1 or len(target) != len(dataset):
        raise KDError(f"{where}: classification needs one integer label per image")
    return target.to(torch.int64).where(target >= 0, UNLABELLED)


def _kept_labels(dataset: Dataset[Any]) -> Any:
    if isinstance(dataset, Subset):
        inner = _kept_labels(dataset.dataset)
        return None if inner is None else torch.as_tensor(inner)[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_kept_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat([torch.as_tensor(part) for part in parts])
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return dataset.tensors[1]
    return next((getattr(dataset, name) for name in LABELS if getattr(dataset, name, None) is not None), None)
