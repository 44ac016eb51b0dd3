"""Batches of tensors, lists and nested targets: cut into rows and into views."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd_core.data.batch import SHARED, Batch
from kd_core.data.views import UNLABELLED, views_of
from kd_core.errors import KDError


@pytest.fixture
def batch() -> Batch:
    """Three images of different sizes, with one, two and three boxes."""
    images = [torch.full((3, 4 + row, 5), float(row)) for row in range(3)]
    target = [
        {"boxes": torch.full((row + 1, 4), float(row)), "labels": torch.full((row + 1,), row)} for row in range(3)
    ]
    extra = {"sizes": torch.tensor([4, 5, 6]), "names": ["a", "b", "c"], "classes": ("x", "y"), "scale": 2.0}
    return Batch({SHARED: {"images": images, "targets": target}}, target, torch.tensor([7, 8, 9]), extra)


def test_take_by_a_mask_takes_the_samples_that_it_marks(batch: Batch) -> None:
    taken = batch.take(torch.tensor([True, False, True]))
    assert taken.index.tolist() == [7, 9]
    assert taken.extra["names"] == ["a", "c"]


@pytest.mark.parametrize("rows", [[2, 0], torch.tensor([2, 0])])
def test_take_cuts_lists_and_tensors_alike(batch: Batch, rows: Any) -> None:
    taken = batch.take(rows)
    assert [image.shape[1] for image in taken.inputs[SHARED]["images"]] == [6, 4]
    assert [len(item["labels"]) for item in taken.target] == [3, 1]
    assert taken.inputs[SHARED]["targets"][0] is batch.target[2]
    assert taken.index.tolist() == [9, 7]
    assert taken.extra["sizes"].tolist() == [6, 4]
    assert taken.extra["names"] == ["c", "a"]
    assert (taken.extra["classes"], taken.extra["scale"]) == (("x", "y"), 2.0)


def test_split_gives_every_sample_once(batch: Batch) -> None:
    one, two = batch.split([1, 2])
    assert [part.index.tolist() for part in (one, two)] == [[7], [8, 9]]
    assert [len(item["boxes"]) for part in (one, two) for item in part.target] == [1, 2, 3]
    assert two.extra["names"] == ["b", "c"]


def test_views_repeat_lists_and_hide_their_labels(batch: Batch) -> None:
    inputs = batch.inputs
    views = views_of(batch, [inputs, inputs])
    assert len(views.inputs[SHARED]["images"]) == 6
    assert views.extra["names"] == ["a", "b", "c"] * 2
    assert views.index.tolist() == [7, 8, 9] * 2
    assert [item["labels"].tolist() for item in views.target[:3]] == [[0], [1, 1], [2, 2, 2]]
    assert all((item["labels"] == UNLABELLED).all() for item in views.target[3:])
    assert torch.equal(views.target[5]["boxes"], batch.target[2]["boxes"])
    assert [len(item["boxes"]) for item in views.take([1, 4]).target] == [2, 2]


def test_views_need_labels_in_lists_too(batch: Batch) -> None:
    masks = Batch(batch.inputs, [item["boxes"] for item in batch.target], batch.index)
    with pytest.raises(KDError, match="needs class labels"):
        views_of(masks, [masks.inputs, masks.inputs])


def test_on_a_device_the_target_is_known_on_the_cpu_in_every_part(batch: Batch) -> None:
    labelled = Batch(batch.inputs, torch.tensor([3, 1, 2]), batch.index).to(torch.device("meta"))
    assert labelled.target.is_meta
    assert [part.known_target.tolist() for part in labelled.split([1, 2])] == [[3], [1, 2]]
    assert labelled.map(torch.zeros_like).known_target is None
