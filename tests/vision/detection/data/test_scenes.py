"""Scenes with boxes and masks of what is seen of each shape."""

from __future__ import annotations

import numpy as np

from kd_core.data.scenes import CLASSES, scene
from kd_core.data.shapes import pixels_of
from kd_vision.detection.data.scenes import SEEN, read_scenes
from kd_vision.detection.data.spec import DataSpec, info_of, with_objects


def test_boxes_and_masks_are_those_of_what_is_seen() -> None:
    val = DataSpec(name="scenes", masks=True).read().val
    assert val is not None
    for position in range(20):
        image, annotated = val.read(position)
        drawn = scene(400 + position)
        assert np.array_equal(np.asarray(image), drawn.image)
        assert annotated.size == (image.height, image.width) == val.size(position)
        assert annotated.shapes is not None
        masks = [pixels_of(shape, *annotated.size) for shape in annotated.shapes]
        seen = [number for number in range(1, len(drawn.kinds) + 1) if (drawn.owners == number).sum() >= SEEN]
        assert len(masks) == len(seen)
        for number, mask, box, area, label in zip(
            seen, masks, annotated.boxes.astype(int).tolist(), annotated.areas, annotated.labels, strict=True
        ):
            assert np.array_equal(mask.astype(bool), drawn.owners == number)
            left, top, right, bottom = box
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum() == area
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            assert label == drawn.kinds[number - 1]


def test_the_data_set() -> None:
    parts = read_scenes(masks=False)
    assert parts.val is not None
    assert (len(parts.train), len(parts.val), parts.classes) == (400, 100, CLASSES)
    assert parts.train.annotated(0).shapes is None
    assert parts.train.boxes.fingerprint != read_scenes(masks=True).train.boxes.fingerprint
    assert parts.train.boxes.fingerprint != parts.val.boxes.fingerprint
    assert parts.val.name(7) == "scene_0407"
    assert parts.val.files() is None
    info = info_of(DataSpec(name="scenes"))
    assert (info.num_classes, info.classes) == (6, CLASSES)


def test_scenes_are_summed_up() -> None:
    data = DataSpec(name="scenes")
    train = with_objects(data.read(), data).train
    boxes = sum(len(train.annotated(position).labels) for position in range(len(train)))
    assert train.notes()[0].text.startswith(f"{boxes:,} boxes: of each class: disc ")
    assert min(train.class_counts.values()) > 150
    assert list(train.class_counts) == list(CLASSES[1:])
