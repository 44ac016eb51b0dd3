"""Data sets that a config calls: torchvision's, or the user's own."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from kd_core.data.images import refuse_programs
from kd_core.data.sources import SPLITS, Parts
from kd_core.errors import ConfigError, ConfigProblem, KDError, did_you_mean
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset
from kd_vision.data.loading import seeded
from kd_vision.data.sample_contents import SampleContents
from kd_vision.data.sources import SOURCES, ImageSource

NOT_DATASETS = (bool, int, float, str, dict)
LABELS = ("targets", "labels", "_labels", "y")
"""Attributes in which data sets commonly keep the labels of all samples."""
COMPARED = 32
"""How many samples are read to compare their labels with that list."""


def check_datasets(dataset: dict[str, Any]) -> dict[str, Any]:
    """Data sets, or calls of them, by split; ValueError for anything else."""
    wrong = [
        ConfigProblem(f"unknown key {key!r}", key, hint=did_you_mean(key, SPLITS), at_key=True)
        if key not in SPLITS
        else ConfigProblem("must be a !call of a data set of (image, label) pairs", key)
        for key, value in dataset.items()
        if key not in SPLITS or isinstance(value, NOT_DATASETS)
    ]
    if dataset.get("train") is None and not wrong:
        wrong = [ConfigProblem("missing required key 'train': a !call of a data set of (image, label) pairs")]
    if wrong:
        raise ValueError(ConfigError(wrong))
    return dataset


def read_torch_datasets(*, dataset: Annotated[dict[str, Any], AfterValidator(check_datasets)]) -> Parts[LabelledSubset]:
    """Torch data sets of (image, label) by split, with labels 0, 1, ...; a negative label is none."""
    datasets = {key: value for key, value in dataset.items() if value is not None}
    subsets = {key: dataset_subset(value, f"dataset.{key}") for key, value in datasets.items()}
    names = getattr(datasets["train"], "classes", None)
    count = max(int(subset.target.max()) + 1 for subset in subsets.values())
    hint = "take 1 off, in the list of labels and in the samples"
    check_labels(torch.cat([subset.target for subset in subsets.values()]), names, "dataset.train", hint)
    classes = tuple(map(str, names)) if isinstance(names, (list, tuple)) and len(names) >= count else None
    places = {key: type(value).__name__ for key, value in datasets.items()}
    return Parts(subsets["train"], subsets.get("val"), subsets.get("test"), classes, places)


def check_labels(target: Tensor, names: Any, path: str, hint: str) -> None:
    """KDError, at the key ``path``, where labels begin at 1: there would be a class 0 that nothing has."""
    labels = target[target >= 0]
    if len(labels) and int(labels.min()) == 1 and not (names and len(names) > int(labels.max())):
        message = f"the labels run from 1 to {int(labels.max())}, and those of the first class must be 0"
        raise KDError(message, hint=hint, path=path)


SOURCES("dataset")(
    ImageSource("torch data sets that the config calls: {train: !call:... {}, val:, test:}", read_torch_datasets)
)


def dataset_subset(dataset: Any, where: str) -> LabelledSubset:
    """A torch data set as a subset; KDError where it has no samples to count, or no whole numbers for labels."""
    refuse_programs()
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise KDError(
            f"{type(dataset).__name__} is not a map-style data set: it needs __len__ and __getitem__", path=where
        )
    if not len(dataset):
        raise KDError(f"{type(dataset).__name__} is empty", path=where)
    target = labels_of(dataset, where)
    compare_labels(dataset, target, where)
    state = hashlib.sha256(f"{type(dataset).__module__}.{type(dataset).__qualname__} {len(dataset)}".encode())
    state.update(target.numpy().tobytes())
    contents = SampleContents(dataset, state.hexdigest())
    return LabelledSubset(dataset, target, torch.arange(len(target)), contents)


def labels_of(dataset: Any, where: str) -> Tensor:
    """The labels (N,) of all samples: from where the data set keeps them, else by reading every sample once."""
    labels = _kept_labels(dataset)
    if labels is None:
        try:
            with seeded(0):
                labels = [dataset[row][1] for row in range(len(dataset))]
        except (TypeError, IndexError, KeyError) as error:
            raise KDError(f"its samples are not pairs of an image and a label ({error})", path=where) from error
    try:
        target = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise KDError(f"its labels are not integers ({error})", path=where) from error
    if target.is_floating_point() or target.dtype == torch.bool or target.ndim != 1 or len(target) != len(dataset):
        raise KDError("classification needs one integer label per image", path=where)
    return target.to(torch.int64).where(target >= 0, UNLABELLED)


def compare_labels(dataset: Any, target: Tensor, where: str) -> None:
    """KDError where labels are not those of the samples: of :data:`COMPARED` rows, evenly spread, each is looked at."""
    if _kept_labels(dataset) is None:
        return
    for row in dict.fromkeys(torch.linspace(0, len(target) - 1, COMPARED).long().tolist()):
        with seeded(0):
            sample = dataset[row]
        label = sample[1] if isinstance(sample, (tuple, list)) and len(sample) > 1 else None
        if label is None or not isinstance(label, (int, np.integer, Tensor)) or torch.as_tensor(label).numel() != 1:
            continue  # told by whoever reads it
        number = int(label) if int(label) >= 0 else UNLABELLED
        if number != int(target[row]):
            message = (
                f"sample {row} has the label {int(label)}, and the data set's list of labels says {int(target[row])}"
            )
            hint = "a `target_transform` does not change the list: give both the same labels, or no list"
            raise KDError(message, hint=hint, path=where)


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
