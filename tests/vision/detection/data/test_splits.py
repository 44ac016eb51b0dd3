"""Which images are in which batch, and what a batch holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kd_core.data.batch import SHARED, Batch
from kd_core.data.shapes import runs_from
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_vision.detection.data.categories import Categories
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.sources import Annotated, BoxSubset, Faults
from kd_vision.detection.data.splits import DetectionSplit
from kd_vision.detection.data.transforms import parse

SIZES = [(30, 40), (40, 30), (20, 20), (25, 40), (40, 25)]
NAMES = ("nose", "left_eye", "right_eye")


def rectangle(box: NDArray[np.float32], size: tuple[int, int]) -> Any:
    """The run lengths of a box."""
    mask = np.zeros(size, bool)
    x1, y1, x2, y2 = box.astype(int)
    mask[y1:y2, x1:x2] = True
    return runs_from(mask)


@dataclass
class Own:
    """Images of the sizes given, with two boxes and a crowd each."""

    sizes: list[tuple[int, int]] = field(default_factory=lambda: SIZES)
    shapes: bool = True
    fingerprint: str = "own"
    categories: Categories = field(default_factory=lambda: Categories(("background", "cat", "dog"), (-1, 3, 9)))
    faults: Faults = field(default_factory=lambda: Faults("own"))

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, row: int) -> str:
        return f"image{row}"

    def paths(self, row: int) -> tuple[Path, ...]:
        return ()

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        return []

    def size(self, row: int) -> tuple[int, int]:
        return self.sizes[row]

    def annotated(self, row: int) -> Annotated:
        size = height, width = self.sizes[row]
        boxes = np.array([[2, 3, 12, 9], [5, 4, width, height], [0, 0, 9, 9]], np.float32)
        shapes = tuple(rectangle(box, size) for box in boxes)
        points = np.tile(np.array([[4, 5, 2], [3, 4, 2], [0, 0, 0]], np.float32), (3, 1, 1))
        labels, crowds = np.array([1, 2, 1]), np.array([False, False, True])
        areas = np.array([60, 200, 81], np.float32)
        shapes_there = shapes if self.shapes else None
        return Annotated(self.name(row), boxes, labels, areas, crowds, shapes_there, points, 70 + row, size)

    def image(self, row: int) -> Image.Image:
        height, width = self.sizes[row]
        ramp = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3)
        return Image.fromarray((ramp % 251 + row).astype(np.uint8))

    def read(self, row: int) -> tuple[Image.Image, Annotated]:
        return self.image(row), self.annotated(row)

    def objects(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.arange(len(rows)).repeat(2), np.tile([1, 2], len(rows))

    def trainable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(rows), bool)


def split_of(augment: Any = None, boxes: Any = None, workers: int = 0, **options: Any) -> DetectionSplit:
    augmentation = None if augment is None else parse(augment)
    return DetectionSplit(BoxSubset(boxes or Own()), augmentation, workers=workers, **options)


def batches(split: DetectionSplit, *orders: Any, epoch: int = 0, augment: bool = True) -> list[Batch]:
    return list(split.batches(map(torch.tensor, orders), epoch=epoch, seed=0, augment=augment))


def test_a_batch_of_evaluation_has_everything_as_it_is_in_the_files() -> None:
    (batch,) = batches(split_of(masks=True, keypoint_names=NAMES), [3, 1], augment=False)
    images = batch.inputs[SHARED]["images"]
    assert [(image.shape, image.dtype) for image in images] == [
        ((3, 25, 40), torch.uint8),
        ((3, 40, 30), torch.uint8),
    ]
    assert all(image.is_contiguous() for image in images)
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), np.asarray(Own().image(1)))
    assert batch.index.tolist() == [3, 1]
    target = batch.target[0]
    assert {key: (tuple(value.shape), value.dtype) for key, value in target.items()} == {
        "boxes": ((3, 4), torch.float32),
        "labels": ((3,), torch.int64),
        "area": ((3,), torch.float32),
        "iscrowd": ((3,), torch.uint8),
        "image_id": ((), torch.int64),
        "size": ((2,), torch.int64),
        "masks": ((3, 25, 40), torch.uint8),
        "keypoints": ((3, 3, 3), torch.float32),
    }
    assert target["iscrowd"].tolist() == [0, 0, 1]
    assert (target["image_id"].item(), target["size"].tolist()) == (73, [25, 40])
    assert target["area"].tolist() == [60, 200, 81]
    x1, y1, x2, y2 = target["boxes"][0].int().tolist()
    assert target["masks"][0].sum() == target["masks"][0, y1:y2, x1:x2].sum() == 60


def test_crowds_are_left_out_of_training_and_masks_are_drawn_only_where_they_are_asked_for() -> None:
    (batch,) = batches(split_of("hflip", training=True), [0])
    assert batch.target[0]["labels"].tolist() == [1, 2]
    assert list(batch.target[0]) == ["boxes", "labels", "area", "iscrowd", "image_id", "size"]
    (batch,) = batches(split_of("hflip", training=True, masks=True, keypoint_names=NAMES), [0])
    assert {len(batch.target[0][key]) for key in ("boxes", "labels", "area", "iscrowd", "masks", "keypoints")} == {2}


def test_a_batch_is_cut_by_samples() -> None:
    (batch,) = batches(split_of(), [0, 1, 2, 3], augment=False)
    part = batch.take(slice(1, 3))
    assert [image.shape[1:] for image in part.inputs[SHARED]["images"]] == SIZES[1:3]
    assert [target["image_id"].item() for target in part.target] == [71, 72]
    assert part.index.tolist() == [1, 2]


def same(left: Batch, right: Batch) -> bool:
    pairs = zip(left.inputs[SHARED]["images"], right.inputs[SHARED]["images"], strict=True)
    targets = zip(left.target, right.target, strict=True)
    return all(torch.equal(*pair) for pair in pairs) and all(
        torch.equal(value, other[key]) for target, other in targets for key, value in target.items()
    )


AUGMENT = ["colours", "zoom_out", "ssd_crop", "flip", {"op": "multi_scale", "sizes": [20, 30, 40], "max_size": 60}]


def test_a_sample_depends_on_the_seed_and_the_epoch_and_on_no_other_sample() -> None:
    split = split_of(AUGMENT, training=True, masks=True, keypoint_names=NAMES)
    together = batches(split, [0, 1, 2, 3, 4], epoch=3)[0]
    alone = batches(split, [4], [2], epoch=3)
    assert same(alone[0], together.take([4]))
    assert same(alone[1], together.take([2]))
    others = [batches(split, [0, 1, 2, 3, 4], epoch=epoch)[0] for epoch in range(3)]
    assert not any(same(together, other) for other in others)
    part = BoxSubset(Own()).take(torch.tensor([2, 4]))
    chosen = DetectionSplit(part, parse(AUGMENT), workers=0, training=True, masks=True, keypoint_names=NAMES)
    assert same(batches(chosen, [1], epoch=3)[0], together.take([4]))


@pytest.mark.slow
def test_a_sample_does_not_depend_on_the_number_of_workers() -> None:
    options: dict[str, Any] = {"training": True, "masks": True, "keypoint_names": NAMES}
    alone = batches(split_of(AUGMENT, **options), [0, 1], [2, 3, 4])
    split = split_of(AUGMENT, workers=2, **options)
    for epoch in range(2):
        read = batches(split, [0, 1], [2, 3, 4], epoch=epoch)
        assert [same(*pair) for pair in zip(alone, read, strict=True)] == [epoch == 0] * 2
    split.close()


def test_nothing_is_left_to_chance_without_augmentation() -> None:
    split = split_of(AUGMENT, training=True)
    plain = split_of(training=True)
    assert (split.fixed, plain.fixed, split_of("none").fixed) == (False, True, True)
    assert same(batches(split, [0, 1], augment=False)[0], batches(plain, [0, 1])[0])


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_batches_are_of_one_range_of_shapes_and_nothing_is_lost(groups: int) -> None:
    random = np.random.default_rng(0)
    sizes = [(int(height), int(width)) for height, width in random.integers(20, 61, (203, 2))]
    split = split_of(boxes=Own(sizes), groups=groups)
    order = torch.from_numpy(random.permutation(203)[:200])
    arranged = split.arrange(order, 8)
    assert sorted(arranged.tolist()) == sorted(order.tolist())
    assert torch.equal(arranged, split.arrange(order, 8))
    bins = 2 ** np.linspace(-1, 1, 2 * groups + 1) if groups else np.array([1.0])
    kinds = np.array([sum(height / width >= edge for edge in bins) for height, width in sizes])
    mixed = [len(set(kinds[batch.numpy()])) > 1 for batch in arranged.split(8)]
    assert sum(mixed) < len(set(kinds))
    assert sorted(mixed) == mixed  # what fills no batch of its own comes last
    firsts = [
        order.tolist().index(int(batch[-1])) for batch, odd in zip(arranged.split(8), mixed, strict=True) if not odd
    ]
    assert firsts == sorted(firsts)


def test_batches_are_as_they_come_where_no_groups_are_asked_for() -> None:
    order = torch.tensor([4, 1, 0, 2])
    assert split_of().arrange(order, 2) is order
    assert split_of(groups=3).arrange(order, 4).tolist() == order.tolist()


def test_what_is_said_of_the_data() -> None:
    split = split_of(training=True)
    assert split.class_counts == {"cat": 5, "dog": 5}
    assert [note.text for note in split.notes()] == ["10 boxes: 5 of each class"]
    split.look(0, (Image.new("RGB", (4, 4), (9, 9, 9)), Own().annotated(0)))
    assert "no image is brighter than 9 of 255" in split.notes()[-1].text
    assert (len(split), split.name(3), split.files()) == (5, "image3", None)
    assert split.fingerprint == split_of().fingerprint
    assert split.fingerprint != split_of(boxes=Own(fingerprint="other")).fingerprint
    part = BoxSubset(Own()).take(torch.tensor([1]))
    assert DetectionSplit(part, workers=0).fingerprint != split.fingerprint


def test_masks_and_keypoints_that_are_not_there_are_an_error() -> None:
    with pytest.raises(KDError, match="image image0 has no masks"):
        batches(split_of(boxes=Own(shapes=False), masks=True), [0])

    class Pointless(Own):
        def annotated(self, row: int) -> Annotated:
            return Annotated(**{**vars(super().annotated(row)), "keypoints": None})

    with pytest.raises(KDError, match="image image0 has no keypoints"):
        batches(split_of(boxes=Pointless(), keypoint_names=NAMES), [0])


def test_keypoints_without_names_cannot_be_mirrored() -> None:
    with pytest.raises(KDError, match="image image0 has 3 keypoints of an object, and the data set names 0"):
        batches(split_of("hflip", keypoint_names=()), [0])
    assert len(batches(split_of(keypoint_names=()), [0])[0].target[0]["keypoints"]) == 3


def test_run_lengths_of_another_size_are_an_error() -> None:
    class Wrong(Own):
        def read(self, row: int) -> tuple[Image.Image, Annotated]:
            return self.image(row), self.annotated(row + 1)

    with pytest.raises(
        KDError, match=r"image image1: the mask of object 0 cannot be drawn \(run lengths of \[40, 30\]"
    ):
        batches(split_of(boxes=Wrong(), masks=True), [0])


def test_a_split_is_made_of_what_the_config_says() -> None:
    data = SimpleNamespace(workers=0, masks=True, keypoints=True, augment="hflip", group_by_aspect_ratio=3)
    info = DetectionInfo(keypoint_names=NAMES)
    train = DetectionSplit.of(BoxSubset(Own()), data, info, training=True)  # type: ignore[arg-type]
    test = DetectionSplit.of(BoxSubset(Own()), data, info, training=False)  # type: ignore[arg-type]
    assert (train.fixed, train.groups, test.fixed, test.groups) == (False, 3, True, None)
    for split, count in ((train, 2), (test, 3)):
        assert {len(batches(split, [0])[0].target[0][key]) for key in ("boxes", "masks", "keypoints")} == {count}
