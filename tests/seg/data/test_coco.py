"""COCO in VOC's classes: masks drawn from instances, equal to those of torchvision's reference code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_core.errors import KDError
from kd_seg.data.coco import CATEGORIES, CocoPairs, TrainImages, read_coco
from kd_seg.data.sources import VOID
from kd_seg.data.splits import SegSplit
from kd_seg.data.transforms import Whole

GOLDEN = json.loads(Path(__file__).parents[2].joinpath("golden", "coco_masks.json").read_text())
PERSON, CAT, TOOTHBRUSH = 1, 17, 90
Annotation = dict[str, Any]


def box(left: int, top: int, right: int, bottom: int, category: int, image: int = 1, **more: Any) -> Annotation:
    """An instance that is a rectangle, one polygon."""
    polygon = [left, top, right, top, right, bottom, left, bottom]
    area = (right - left) * (bottom - top)
    return {"image_id": image, "category_id": category, "area": area, "segmentation": [polygon], "iscrowd": 0, **more}


def written(root: Path, annotations: list[Annotation], images: int = 1, split: str = "train2017") -> Path:
    """A split of images of 60 x 50 pixels."""
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    (root / split).mkdir(exist_ok=True)
    listed = [{"id": number, "file_name": f"{number:012}.jpg"} for number in range(images, 0, -1)]
    for each in listed:
        Image.new("RGB", (60, 50)).save(root / split / str(each["file_name"]))
    content = {"images": listed, "annotations": annotations, "categories": []}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def annotation(entry: Annotation) -> str:
    """A file of one image and one annotation."""
    return json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [entry]})


def masks(root: Path, choice: TrainImages | None = "voc_classes") -> list[np.ndarray]:
    pairs = CocoPairs(root, "train2017", choice)
    return [pairs.read(row)[1] for row in range(len(pairs))]


@pytest.mark.realdata
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_masks_are_those_of_torchvisions_reference(real_data: Path, split: str) -> None:
    pairs = CocoPairs(real_data / "coco2017_subset", split, "voc_classes" if split == "train2017" else None)
    found = {}
    for row in range(len(pairs)):
        mask = pairs.read(row)[1]
        voids = np.where(mask == VOID, 255, mask).astype(np.uint8)
        found[pairs.name(row)] = hashlib.sha256(voids.tobytes()).hexdigest()[:16]
    assert found == GOLDEN["masks"][split]


def test_instances_are_drawn_by_class(tmp_path: Path) -> None:
    (mask,) = masks(written(tmp_path, [box(0, 0, 40, 40, PERSON), box(45, 5, 55, 15, TOOTHBRUSH)]))
    assert mask.shape == (50, 60)
    assert np.unique(mask).tolist() == [0, 15]
    assert (mask[:40, :40] == 15).all()
    assert (mask == 15).sum() == 1600


def test_overlaps_are_void_even_of_one_class(tmp_path: Path) -> None:
    for other in (CAT, PERSON):
        (mask,) = masks(written(tmp_path, [box(0, 0, 40, 40, PERSON), box(20, 20, 60, 50, other)]))
        assert (mask[20:40, 20:40] == VOID).all()
        assert (mask == VOID).sum() == 400
        assert mask[45, 50] == CATEGORIES.index(other)


def test_polygons_of_one_instance_do_not_overlap(tmp_path: Path) -> None:
    one = box(0, 0, 40, 40, PERSON)
    one["segmentation"].append(box(20, 20, 60, 50, PERSON)["segmentation"][0])
    (mask,) = masks(written(tmp_path, [one]))
    assert np.unique(mask).tolist() == [0, 15]


def test_crowds_are_drawn_from_run_lengths(tmp_path: Path) -> None:
    """Runs go down the columns: ten of background, forty of a crowd, and so on."""
    runs = {"size": [50, 60], "counts": [10, 40] * 60}
    (mask,) = masks(written(tmp_path, [box(0, 0, 60, 40, PERSON, segmentation=runs, iscrowd=1)]))
    assert (mask[:10] == 0).all()
    assert (mask[10:] == 15).all()


def test_images_with_little_to_see_do_not_train(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        [
            box(0, 0, 40, 40, PERSON, 1),
            box(0, 0, 40, 25, CAT, 2),  # 1,000 pixels are not more than 1,000
            box(0, 0, 60, 50, TOOTHBRUSH, 3),
            box(0, 0, 40, 15, CAT, 5),
            box(0, 20, 40, 40, PERSON, 5),
        ],
        images=5,
    )
    assert [CocoPairs(root, "train2017", "voc_classes").name(row) for row in range(2)] == [f"{1:012}", f"{5:012}"]
    assert len(masks(root)) == 2
    everything = masks(root, choice=None)
    assert [int(each.max()) for each in everything] == [15, 8, 0, 0, 15]


def test_images_with_any_annotation_train_where_a_config_asks_for_it(tmp_path: Path) -> None:
    """As in torchvision's references for detection: any category, unless no box is more than a pixel wide and high."""
    boxes = [
        box(0, 0, 60, 50, TOOTHBRUSH, 1, bbox=[0, 0, 60, 50]),
        box(0, 0, 40, 1, CAT, 2, bbox=[0, 0, 40, 1]),
        box(0, 0, 40, 1, CAT, 4, bbox=[0, 0, 40, 1]),
        box(0, 0, 5, 5, CAT, 4, bbox=[0, 0, 5, 5]),
    ]
    parts = read_coco(written(tmp_path, boxes, images=4), train_images="annotated")
    assert [parts.train.name(row) for row in range(len(parts.train))] == [f"{1:012}", f"{4:012}"]


def test_scoring_needs_no_training_images(tmp_path: Path) -> None:
    parts = read_coco(written(tmp_path, [], split="val2017"))
    assert parts.val is not None
    assert len(parts.val) == 1
    with pytest.raises(KDError, match=r"there is no .*train2017: data\.root is the folder that holds .*\n +hint: they"):
        len(parts.train)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: Expecting"),
        ("[]", "has other content: COCO's instance annotations are a mapping with the lists"),
        ("{}", "has other content: COCO's instance annotations are a mapping with the lists"),
        ('{"images": [{"id": 1}], "annotations": []}', "image 0 of the list 'images' has no 'file_name'"),
        ('{"images": [3], "annotations": []}', "image 0 of the list 'images' has a value of another type"),
        (annotation({"category_id": PERSON, "image_id": 1}), "annotation 0 of the list 'annotations' has no 'segm"),
        (annotation({"id": 12, "category_id": PERSON, "image_id": 1}), "annotation 12 has no 'segmentation'"),
        (annotation(box(0, 0, 9, 9, PERSON, 7)), "0 of the list 'annotations' is of the image 7, which the list"),
        (annotation(box(0, 0, 9, 9, PERSON, segmentation={"counts": []})), "'annotations' has no 'size'"),
        (
            annotation(box(0, 0, 9, 9, PERSON, segmentation=[[1, 1, 9, 9, 4]])),
            "has a polygon of 5 numbers: it takes x and y",
        ),
        ('{"images": [], "annotations": [], "categories": 3}', "has 'categories' that are no list: COCO's"),
        ('{"images": [], "annotations": [], "categories": [{}]}', "category 0 of the list 'categories' has no 'id'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "crack"}]}',
            "has the category 1 'crack', which in COCO is 'person'",
        ),
        (
            annotation(box(0, 0, 9, 9, PERSON, segmentation="x")),
            "has a 'segmentation' that is neither polygons nor run",
        ),
        (annotation(box(0, 0, 9, 9, PERSON, area=None)), "has a value of another type: float"),
    ],
)
def test_annotations_of_another_form(tmp_path: Path, content: str, message: str) -> None:
    written(tmp_path, [])
    (tmp_path / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(KDError, match=rf"instances_train2017\.json: .*{message}"):
        masks(tmp_path)


def test_an_image_of_another_size_than_is_told_is_named(tmp_path: Path) -> None:
    written(tmp_path, [])
    file = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": 60, "height": 50}
    file.write_text(json.dumps(content))
    assert len(masks(tmp_path, choice=None)) == 1
    content["images"][0]["height"] = 25
    file.write_text(json.dumps(content))
    with pytest.raises(KDError, match=r"0001\.jpg: is 60 x 50 pixels, and .*train2017\.json says 60 x 25"):
        masks(tmp_path, choice=None)


def test_missing_images_are_named(tmp_path: Path) -> None:
    written(tmp_path, [], images=3)
    for number in (2, 3):
        (tmp_path / "train2017" / f"{number:012}.jpg").unlink()
    with pytest.raises(
        KDError, match=r"000000000002\.jpg is missing, and 1 more, which .*instances_train2017\.json names"
    ):
        masks(tmp_path, choice=None)


@pytest.mark.parametrize(
    "shape",
    [
        [[1, 2, 3]],
        [["a"]],
        {"size": [50, 60], "counts": "\x00"},
        {"size": [9, 9], "counts": [0, 81]},
        {"size": [50, 60], "counts": "52"},
        {"size": [50, 60], "counts": [1, 2]},
    ],
)
def test_shapes_that_cannot_be_drawn(tmp_path: Path, shape: Any) -> None:
    written(tmp_path, [box(0, 0, 40, 40, PERSON, segmentation=shape)])
    with pytest.raises(KDError, match=r"instances_train2017\.json: "):
        masks(tmp_path)


def test_an_instance_without_polygons_is_nowhere(tmp_path: Path) -> None:
    (mask,) = masks(written(tmp_path, [box(0, 0, 40, 40, PERSON), box(0, 0, 9, 9, CAT, segmentation=[])]))
    assert np.unique(mask).tolist() == [0, 15]


@pytest.mark.parametrize(
    "shape",
    [
        *([], [[]], [[1, 2]], [[1, 2, 3, 4], []], [[1, 1, 9, 1, 5, 1]]),
        *({"size": [50, 60], "counts": [3000]}, {"size": [50, 60], "counts": [5, 0, 2995]}),
        {"size": [50, 60], "counts": "hm2"},
    ],
)
def test_annotations_that_draw_nothing_are_counted(tmp_path: Path, shape: Any) -> None:
    nothing = [box(0, 0, 9, 9, CAT, segmentation=shape, id=number) for number in (7, 8)]
    root = written(tmp_path, [box(0, 0, 40, 40, PERSON), *nothing])
    train = SegSplit(read_coco(root).train, Whole(), workers=0)
    assert np.unique(train.part.read(0)[1]).tolist() == [0, 15]
    (line,) = [note.text for note in train.notes() if "annotations" in note.text.split(":")[0]]
    assert "has 2 annotations with no polygon with an area and no run of pixels" in line
    assert "(annotation 7 of 000000000001.jpg, annotation 8 of 000000000001.jpg)" in line


def test_run_lengths_as_text_are_drawn(tmp_path: Path) -> None:
    from pycocotools import mask as runs

    pixels = np.zeros((50, 60), np.uint8, order="F")
    pixels[5:40, 3:50] = 1
    text = runs.encode(pixels)["counts"].decode()
    pairs = CocoPairs(
        written(tmp_path, [box(0, 0, 60, 50, CAT, segmentation={"size": [50, 60], "counts": text})]), "train2017"
    )
    assert pairs.read(0)[1].astype(bool).sum() == pixels.sum()
    assert pairs.notes(np.array([0])) == []


def test_unknown_categories_are_counted(tmp_path: Path) -> None:
    root = written(tmp_path, [box(0, 0, 40, 40, PERSON), box(0, 0, 9, 9, TOOTHBRUSH), box(0, 0, 9, 9, 999, id=4)])
    pairs = CocoPairs(root, "train2017")
    assert np.unique(pairs.read(0)[1]).tolist() == [0, 15]
    (note,) = pairs.notes(np.array([0]))
    assert note.is_warning
    assert note.text.endswith(
        "has 1 annotation of categories that there are not: nothing is drawn for them (annotation 4"
        " of 000000000001.jpg)"
    )
    assert pairs.notes(np.array([], np.int64)) == []


def test_the_fingerprint_is_that_of_the_annotations(tmp_path: Path) -> None:
    first = CocoPairs(written(tmp_path, []), "train2017", "voc_classes").fingerprint
    assert CocoPairs(tmp_path, "train2017").fingerprint != first
    written(tmp_path, [box(0, 0, 9, 9, CAT)])
    assert CocoPairs(tmp_path, "train2017", "voc_classes").fingerprint != first
