"""COCO's format: what is read of it, and all that is wrong with a file, at once."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_core.data.rows import skip_unreadable
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_vision.detection.data.categories import COCO, COCO_BY_ID, PERSON
from kd_vision.detection.data.late import LateBoxes
from kd_vision.detection.data.sources import BoxSubset
from kd_vision.detection.data.spec import DataSpec
from kd_vision.detection.task import ObjectDetection

PERSON_ID, CAT, TOOTHBRUSH = 1, 17, 90
COCO_LIST = [{"id": number, "name": name} for number, name in COCO_BY_ID.items()]
Entry = dict[str, Any]


def entry(number: int, box: list[float], category: int = CAT, image: int = 1, **more: Any) -> Entry:
    """An annotation; its shape is its box."""
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "iscrowd": 0,
        "area": width * height,
        "segmentation": [polygon],
        **more,
    }


def image(number: int, **more: Any) -> Entry:
    """An image of 60 x 50 pixels."""
    return {"id": number, "file_name": f"{number:03}.jpg", "width": 60, "height": 50, **more}


def written(
    folder: Path, entries: list[Entry], images: list[Entry] | None = None, categories: Any = None, name: str = "a.json"
) -> Path:
    """A file of annotations in ``folder`` with its images; returns it."""
    images = [image(1)] if images is None else images
    folder.mkdir(parents=True, exist_ok=True)
    for each in images:
        if isinstance(each.get("file_name"), str) and not (folder / each["file_name"]).exists():
            Image.new("RGB", (60, 50)).save(folder / each["file_name"])
    categories = [{"id": CAT, "name": "cat"}, {"id": 30, "name": "dog"}] if categories is None else categories
    content = {"images": images, "annotations": entries, "categories": categories}
    (folder / name).write_text(json.dumps(content))
    return folder / name


def read(path: Path, **more: Any) -> Parts[BoxSubset]:
    """The data set of one file."""
    return DataSpec(name="coco_json", root=str(path.parent), annotations=path.name, **more).read()


def coco2017(root: Path, entries: list[Entry], **more: Any) -> DataSpec:
    """A data set of COCO's layout, the same in both of its splits."""
    for split in ("train2017", "val2017"):
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        path = written(root / split, entries, [image(1), image(2)], COCO_LIST)
        path.rename(root / "annotations" / f"instances_{split}.json")
    return DataSpec(name="coco2017", root=str(root), **more)


def test_boxes_labels_and_numbers(tmp_path: Path) -> None:
    crowd = {"size": [50, 60], "counts": [10, 40] * 60}
    path = written(
        tmp_path,
        [
            entry(7, [1, 2, 30, 40.5], 30, 9),
            entry(5, [0, 0, 5, 5], CAT, 4, area=12.5),
            entry(6, [0, 0, 60, 50], CAT, 9, iscrowd=1, segmentation=crowd),
        ],
        [image(9), image(4), image(6)],
    )
    train = read(path).train
    assert [train.name(row) for row in range(3)] == ["004", "006", "009"]
    first, empty, last = (train.annotated(row) for row in range(3))
    assert last.boxes.tolist() == [[1, 2, 31, 42.5], [0, 0, 60, 50]]
    assert (last.boxes.dtype, last.labels.dtype, last.areas.dtype) == (np.float32, np.int64, np.float32)
    assert (last.labels.tolist(), last.crowds.tolist(), last.image_id) == ([2, 1], [False, True], 9)
    assert (first.areas.tolist(), first.size, first.shapes) == ([12.5], (50, 60), None)
    assert (len(empty.boxes), empty.boxes.shape) == (0, (0, 4))
    assert train.boxes.categories.ids == (-1, CAT, 30)
    assert train.boxes.categories.names == ("background", "cat", "dog")


def test_shapes_are_read_where_masks_are_wanted(tmp_path: Path) -> None:
    crowd = {"size": [50, 60], "counts": [10, 40] * 60}
    text = {"size": [50, 60], "counts": "hm2"}
    boxes = [entry(1, [1, 2, 30, 40]), entry(2, [0, 0, 60, 50], iscrowd=1, segmentation=crowd)]
    boxes[0]["segmentation"].append([0, 0, 9, 0, 9, 9])
    annotated = read(written(tmp_path, boxes), masks=True).train.annotated(0)
    assert annotated.shapes is not None
    polygons, runs = annotated.shapes
    assert [each.tolist() for each in polygons] == boxes[0]["segmentation"]
    assert runs == crowd
    with pytest.raises(KDError, match=r"annotation 3 has a 'segmentation' with no polygon"):
        read(written(tmp_path, [entry(3, [1, 2, 30, 40], segmentation=text)]), masks=True)


def test_what_trains_is_inside_the_image(tmp_path: Path) -> None:
    boxes = [entry(1, [-0.5, 0, 30, 50.9]), entry(2, [5, 5, 9, 9], iscrowd=1)]
    train = read(written(tmp_path, boxes)).train
    annotated = train.annotated(0)
    assert annotated.boxes.tolist()[0] == [-0.5, 0, 29.5, np.float32(50.9)]
    inside = annotated.for_training((50, 60))
    assert inside.boxes.tolist() == [[0, 0, 29.5, 50]]
    assert [note.text for note in train.notes()] == [
        "1 box: of each class: cat 1, dog 0",
        f"{tmp_path / 'a.json'}: 1 box leaves its image, and trains as far as it is inside (annotation 1 of 001)",
    ]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    good = entry(1, [0, 0, 9, 9])
    wrong = [
        entry(2, [0, 0, 9, 0]),
        entry(3, [50, 0, 20, 9]),
        entry(4, [0, 0, 9, 9], 999),
        entry(5, [0, 0, 9, 9], image=77),
        entry(6, [0, 0, 9, float("nan")], area=1),
        entry(1, [0, 0, 9, 9]),
        entry(7, [0, 0, -9, 9]),
        entry(8, [0, 0, 9, 9], area=float("inf")),
        {"id": 9, "image_id": 1, "category_id": CAT},
        entry(10, [0, 0, 9, 9], bbox=[1, 2, 3]),
        entry(11, [0, 0, 9, 9], iscrowd=2),
        entry(12, [0, 0, 9, 9], image="x"),
    ]
    images = [image(1), image(2), {"id": 3}, image(1), image(4, file_name="../x.jpg"), image(5)]
    path = written(tmp_path, [good, *wrong, entry(13, [0, 0, 9, 9], image=2)], images)
    (tmp_path / "002.jpg").unlink()
    with pytest.raises(KDError) as caught:
        read(path)
    (problem,) = caught.value.problems
    assert problem.hint == "`data.on_error: skip` leaves them out"
    head, *lines = problem.message.splitlines()
    assert head == f"{path}: 16 faults:"
    assert [line.strip() for line in lines] == [
        "image 2 of the list 'images' has no 'file_name' that is a string",
        "image 3 of the list 'images' has the id 1, which another image has",
        "image 4 of the list 'images' has the file name '../x.jpg', which leads out of the folder of the images",
        f"there is no file {tmp_path / '002.jpg'} of the image 2",
        "annotation 2 has a 'bbox' without an area: [0, 0, 9, 0]",
        "annotation 3 has a 'bbox' that leaves its image of 60 x 50 by 10 pixels: [50, 0, 20, 9]",
        "annotation 4 is of the category 999, which there is not",
        "annotation 5 is of the image 77, which the file does not list",
        "annotation 6 has a 'bbox' that is not finite: [0, 0, 9, nan]",
        "annotation 1 has an id that another annotation has",
        "and 6 more",
    ]
    parts = read(path, on_error="skip")
    assert (len(parts.train), len(parts.train.annotated(0).boxes)) == (2, 1)
    (note,) = parts.notes
    assert note.is_warning
    for text in (
        "16 annotations or images are left out:\n",
        "annotation 7 has a 'bbox' of a negative width or height: [0, 0, -9, 9]",
        "annotation 8 has an 'area' of inf",
        "annotation 9 has no 'bbox'",
        "annotation 10 has a 'bbox' that is not four numbers but [1, 2, 3]",
        "annotation 11 has an 'iscrowd' of 2: it is 0 or 1",
        "annotation 12 has an 'image_id' that is not an integer but \"x\"",
    ):
        assert text in note.text


def test_images_that_cannot_be_read_are_told_with_the_faults(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(1, [0, 0, 9, 9]), entry(2, [0, 0, 9, 0])], [image(1), image(2)])
    (tmp_path / "002.jpg").write_bytes((tmp_path / "002.jpg").read_bytes()[:300])
    with pytest.raises(KDError) as caught:
        read(path)
    fault, damaged = (problem.message for problem in caught.value.problems)
    assert fault == f"{path}: annotation 2 has a 'bbox' without an area: [0, 0, 9, 0]"
    assert damaged.startswith(f"{tmp_path / '002.jpg'}: is not a readable image")


def test_coco_itself_has_boxes_without_an_area(tmp_path: Path) -> None:
    parts = coco2017(tmp_path, [entry(3, [0, 5, 9, 0]), entry(4, [0, 0, 9, 9], TOOTHBRUSH)]).read()
    assert parts.classes == COCO.names
    assert parts.train.annotated(0).labels.tolist() == [CAT, TOOTHBRUSH]
    assert parts.train.annotated(0).for_training((50, 60)).labels.tolist() == [TOOTHBRUSH]
    last = parts.train.notes()[-1].text
    assert last.endswith("instances_train2017.json: 1 box has no area: it does not train (annotation 3 of 001)")
    assert (len(parts.train), len(parts.train.with_objects())) == (2, 1)
    assert "1 image without a box to train on left out" in parts.train.with_objects().notes()[0].text


def test_scoring_needs_no_training_images(tmp_path: Path) -> None:
    data = coco2017(tmp_path, [entry(4, [0, 0, 9, 9], TOOTHBRUSH)])
    (tmp_path / "annotations" / "instances_train2017.json").unlink()
    splits = ObjectDetection().load(data, seed=0)
    scored = splits.scored()
    scored.screen(whole=True)
    assert [line.partition(":")[0] for line in scored.describe()][:2] == ["classes", "val"]
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(KDError) as caught:
        ObjectDetection().load(data, seed=0).screen()
    assert [problem.path for problem in caught.value.problems] == ["data", "data"]
    for problem, split in zip(caught.value.problems, ("train2017", "val2017"), strict=True):
        assert problem.message.startswith(
            f"there is no {tmp_path / 'annotations'}/instances_{split}.json: data.root is"
        )


def test_images_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    data = coco2017(tmp_path, [entry(4, [0, 0, 9, 9], TOOTHBRUSH)])
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    val = data.read().val
    assert val is not None
    assert val.boxes.paths(0) == (tmp_path / "images" / "val2017" / "001.jpg",)


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    data = coco2017(tmp_path, [entry(4, [0, 0, 9, 9], TOOTHBRUSH)])
    first, second = (data.read().train.boxes for _ in range(2))
    assert isinstance(first, LateBoxes)
    assert isinstance(second, LateBoxes)
    assert first.boxes is second.boxes
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace('"id": 4, "image', '"id": 400, "image'))
    assert data.read().train.boxes.fingerprint != first.fingerprint


def test_faults_of_coco_are_told_and_skipped_likewise(tmp_path: Path) -> None:
    data = coco2017(tmp_path, [entry(3, [0, 0, 9, 9], 12), entry(4, [0, 0, 9, 9], TOOTHBRUSH)])
    with pytest.raises(KDError) as caught:
        ObjectDetection().load(data, seed=0).screen()
    assert [problem.message.partition(": ")[2] for problem in caught.value.problems] == [
        "annotation 3 is of the category 12, which there is not"
    ] * 2
    train = coco2017(tmp_path, [entry(3, [0, 0, 9, 9], 12)], on_error="skip").read().train
    (note,) = [note.text for note in train.notes() if note.is_warning]
    assert "1 annotation or image is left out:\n    annotation 3 is of the category 12" in note


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1, "name": "crack"}], "has the category 1 'crack', which in COCO is 'person'"),
        ([{"id": 99, "name": "crack"}], "has the category 99 'crack', which in COCO is none"),
        ([{"id": 1}], "category 0 of the list 'categories' is not a mapping with an 'id' and a 'name'"),
        ([{"id": "1", "name": "person"}], "category 0 of the list 'categories' has an 'id' that is not an integer"),
        ([{"id": 1, "name": "person"}] * 2, "category 1 of the list 'categories' has the id 1, which another"),
        (3, "has no list 'categories': annotations in COCO's format are a mapping with"),
    ],
)
def test_categories_that_are_not_cocos(tmp_path: Path, categories: Any, message: str) -> None:
    data = coco2017(tmp_path, [])
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    with pytest.raises(KDError, match=rf"instances_train2017\.json: {message}"):
        len(data.read().train)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"images": [], "annotations": 3}'])
def test_files_of_another_form(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(KDError, match=r"a\.json: (is not JSON: Expecting|has other content: annotations in COCO's)"):
        read(tmp_path / "a.json")


def test_splits_in_files_of_their_own(tmp_path: Path) -> None:
    written(tmp_path / "train", [entry(1, [0, 0, 9, 9])])
    written(tmp_path / "valid", [entry(1, [0, 0, 9, 9], image=5)], [image(5)])
    data = {"name": "coco_json", "root": str(tmp_path), "annotations": "train/a.json"}
    parts = DataSpec(**data, val_annotations="valid/a.json").read()
    assert parts.val is not None
    assert (parts.train.name(0), parts.val.name(0)) == ("001", "005")
    assert parts.places == {"train": f"{tmp_path}/train/a.json", "val": f"{tmp_path}/valid/a.json"}
    parts = DataSpec(**data, images="train", test_annotations="valid/a.json", test_images="valid", val=0).read()
    assert parts.test is not None
    assert parts.test.name(0) == "005"
    with pytest.raises(KDError, match=r"there is no file .*train/005\.jpg of the image 5"):
        DataSpec(**data, images="train", val_annotations="valid/a.json").read()
    with pytest.raises(KDError, match=r"data\.images: there is no folder .*/nowhere"):
        DataSpec(**data, images="nowhere").read()
    with pytest.raises(ValueError, match="val_images: needs val_annotations"):
        DataSpec(**data, val_images="valid")
    written(tmp_path / "valid", [], [image(5)], [{"id": CAT, "name": "dog"}])
    with pytest.raises(
        KDError, match=r"valid/a\.json: has the category 17 'dog', where in .*train/a\.json there is 'cat'"
    ):
        DataSpec(**data, val_annotations="valid/a.json").read()


def test_sizes_that_are_not_told_are_those_of_the_images(tmp_path: Path) -> None:
    untold = {"id": 1, "file_name": "001.jpg"}
    train = read(written(tmp_path, [entry(1, [0, 0, 60, 50])], [untold])).train
    assert train.size(0) == (50, 60)
    (tmp_path / "001.jpg").write_bytes(b"no image")
    with pytest.raises(KDError, match=r"a\.json: .*001\.jpg: is not a readable image"):
        read(tmp_path / "a.json")


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(1, [0, 0, 9, 9])], [image(1, width=70), image(2)])
    with pytest.raises(KDError, match=r"001\.jpg: is 60 x 50 pixels, and .*a\.json says 70 x 50"):
        read(path).train.read(0)
    parts = skip_unreadable(read(path, on_error="skip"))
    assert parts.train.rows.tolist() == [1]
    assert "1 of 2 samples cannot be read" in parts.notes[0].text


@pytest.mark.parametrize("file", ["../a.jpg", "/tmp/a.jpg", "C:\\a.jpg", "x\\..\\..\\a.jpg", "", "a/../../b.jpg"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, file: str) -> None:
    path = written(tmp_path, [])
    content = {"images": [image(1, file_name=file)], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(content))
    with pytest.raises(KDError, match=r"image 0 of the list 'images' has the file name .*, which leads out"):
        read(path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("x", "has a 'segmentation' that is neither polygons nor run lengths"),
        ([1, 2, 3], "has a 'segmentation' that is neither polygons nor run lengths: \\[1, 2, 3"),
        ([[1, 1, 9, 9, 4, 3, 2]], "has a polygon of 7 numbers: it takes x and y of each point"),
        ([[0, 0, 5, 5, 0, 5], [1, 1, 1e9, 9, 4, 3]], "has a polygon with a point that is more than 100,000"),
        ([[0, 0, float("nan"), 5, 0, 5]], "has a polygon with a point that is more than 100,000 pixels away, or now"),
        ([[1, 1, 9, 1, 5, 1]], "has a 'segmentation' with no polygon with an area and no pixel"),
        ({"size": [50, 60]}, "has run lengths without 'counts'"),
        ({"size": [50, 60], "counts": [1, 2]}, "has run lengths of 3 pixels of 50 x 60 in an image of 50 x 60"),
        ({"size": [60, 50], "counts": [1, 2999]}, "has run lengths of 3,000 pixels of 60 x 50 in an image of 50 x 60"),
        ({"size": [50, 60], "counts": [1, -1, 3000]}, "has run lengths that are not whole numbers"),
        ({"size": [50, 60], "counts": "\x00"}, "has run lengths in a text that COCO's encoder does not write"),
        ({"size": 3, "counts": [1, 2999]}, "has run lengths that are not whole numbers"),
    ],
)
def test_shapes_that_cannot_be(tmp_path: Path, shape: Any, message: str) -> None:
    path = written(tmp_path, [entry(5, [0, 0, 9, 9]), entry(6, [0, 0, 9, 9], segmentation=shape)])
    with pytest.raises(KDError, match=rf"a\.json: annotation 6 {message}"):
        read(path, masks=True)
    assert len(read(path).train.annotated(0).labels) == 2


def test_numbers_of_other_types_and_missing_keys(tmp_path: Path) -> None:
    plain = {"image_id": 1.0, "category_id": 17.0, "bbox": [1, 2, 3, 4]}
    train = read(written(tmp_path, [plain, dict(plain, area=None)])).train
    annotated = train.annotated(0)
    assert (annotated.areas.tolist(), annotated.crowds.tolist()) == ([12, 12], [False, False])
    with pytest.raises(KDError, match="annotation 1 of the list 'annotations' has a 'bbox' without an area"):
        read(written(tmp_path, [plain, dict(plain, bbox=[1, 2, 0, 4])]))


def test_annotations_may_stand_before_images(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(1, [0, 0, 9, 9])])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: content[key] for key in ("annotations", "categories", "images")}))
    assert read(path).train.annotated(0).labels.tolist() == [1]


def test_what_a_model_does_to_its_targets_changes_no_data(tmp_path: Path) -> None:
    train = read(written(tmp_path, [entry(1, [0, 0, 9, 9])])).train
    for array in (train.annotated(0).labels, train.annotated(0).boxes, train.annotated(0).crowds):
        array[:] = True
    assert train.annotated(0).labels.tolist() == [1]
    assert train.annotated(0).boxes.tolist() == [[0, 0, 9, 9]]
    assert not train.annotated(0).crowds.any()


def test_workers_get_arrays(tmp_path: Path) -> None:
    boxes = read(written(tmp_path, [entry(1, [0, 0, 9, 9])]), masks=True).train.boxes
    again = pickle.loads(pickle.dumps(boxes))
    assert again.annotated(0).boxes.tolist() == boxes.annotated(0).boxes.tolist()


def test_keypoints(tmp_path: Path) -> None:
    points = [value for number in range(17) for value in (number, 2 * number, 2 if number < 10 else 0)]
    categories = [{"id": 1, "name": "person", "keypoints": list(PERSON.keypoints), "skeleton": [[16, 14]]}]
    boxes = [
        entry(1, [0, 0, 9, 9], 1, 1, keypoints=points),
        entry(2, [0, 0, 9, 9], 1, 2, keypoints=[0] * 51),
        entry(3, [0, 0, 9, 9], 1, 2),
    ]
    path = written(tmp_path, boxes, [image(1), image(2)], categories)
    parts = read(path, keypoints=True)
    keypoints = parts.train.annotated(0).keypoints
    assert keypoints is not None
    assert keypoints.shape == (1, 17, 3)
    assert keypoints[0, 9].tolist() == [9, 18, 2]
    assert parts.train.boxes.categories.skeleton == ((15, 13),)
    assert parts.train.with_objects().rows.tolist() == [0]
    path = written(tmp_path, [entry(1, [0, 0, 9, 9], 1, keypoints=[1, 2, 2])], None, categories)
    with pytest.raises(KDError, match=r"annotation 1 has another number of keypoints than 17"):
        read(path, keypoints=True)


def test_categories_of_coco_keep_its_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(1, [0, 0, 9, 9], TOOTHBRUSH)], categories=COCO_LIST)
    parts = read(path)
    assert parts.train.boxes.categories == COCO
    assert parts.train.annotated(0).labels.tolist() == [TOOTHBRUSH]


@pytest.mark.realdata
def test_the_real_annotations(real_data: Path) -> None:
    root = real_data / "coco2017_subset"
    parts = DataSpec(name="coco2017", root=str(root), masks=True).read()
    assert parts.val is not None
    for part, split in ((parts.train, "train2017"), (parts.val, "val2017")):
        content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        by_image = {each["id"]: [] for each in content["images"]}
        for each in content["annotations"]:
            by_image[each["image_id"]].append(each)
        assert [part.annotated(row).image_id for row in range(len(part))] == sorted(by_image)
        for row in range(len(part)):
            annotated = part.annotated(row)
            expected = by_image[annotated.image_id]
            assert annotated.labels.tolist() == [each["category_id"] for each in expected]
            assert annotated.crowds.tolist() == [bool(each["iscrowd"]) for each in expected]
            boxes = np.array([each["bbox"] for each in expected]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            assert np.array_equal(annotated.boxes, boxes.astype(np.float32))
            assert annotated.shapes is not None
            for shape, each in zip(annotated.shapes, expected, strict=True):
                plain = shape if isinstance(shape, dict) else [polygon.tolist() for polygon in shape]
                assert plain == each["segmentation"]


def test_an_object_with_few_keypoints_trains_with_all_of_them(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "rod", "keypoints": ["one", "other"]}]
    boxes = [
        entry(1, [0, 0, 9, 9], 1, 1, keypoints=[1, 1, 2, 5, 5, 1]),
        entry(2, [0, 0, 9, 9], 1, 2, keypoints=[1, 1, 2, 0, 0, 0]),
    ]
    parts = read(written(tmp_path, boxes, [image(1), image(2)], categories), keypoints=True)
    assert parts.train.with_objects().rows.tolist() == [0]


def test_a_name_that_no_file_system_takes_is_of_a_missing_file(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(1, [0, 0, 9, 9])])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "images": [*content["images"], image(2, file_name=5000 * "a")]}))
    with pytest.raises(KDError, match=r"there is no file .*aaa of the image 2"):
        read(path)
    assert len(read(path, on_error="skip").train) == 1


def test_a_message_has_the_article_of_its_key(tmp_path: Path) -> None:
    path = written(tmp_path, [], [image(1, width="60"), {**image(2), "id": "2"}])
    with pytest.raises(KDError, match=r"has a 'width' that is not an integer(.|\n)*has an 'id' that is not an integer"):
        read(path)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[2J", "\ud800"])
def test_names_that_no_run_can_show_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KDError, match=r"category 0 .* has the name .*, which (is empty|has a control character)"):
        read(written(tmp_path, [], None, [{"id": 1, "name": name}]))


@pytest.mark.parametrize(
    ("keypoints", "skeleton", "message"),
    [
        ("lr", [], "not a list of names"),
        ({"l": 1}, [], "not a list of names"),
        (["l", None], [], "not a list of names"),
        (["l", "l"], [], "the keypoint 'l' twice"),
        (["l", "\x1b"], [], "a keypoint that has the name .* control character"),
        (["l", "r"], [[1, 3]], r"the pair \[1, 3\]: its ends count from 1, and there are 2 keypoints"),
        (["l", "r"], [[0, 1]], r"the pair \[0, 1\]"),
        (["l", "r"], [[1, 1e400]], "not a list of pairs of numbers"),
    ],
)
def test_keypoints_that_cannot_be(tmp_path: Path, keypoints: Any, skeleton: Any, message: str) -> None:
    categories = [{"id": 1, "name": "rod", "keypoints": keypoints, "skeleton": skeleton}]
    with pytest.raises(KDError, match=message):
        read(written(tmp_path, [], None, categories), keypoints=True)


def test_an_image_of_two_splits_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(1, [0, 0, 9, 9])], [image(1), image(2)])
    written(tmp_path, [entry(1, [0, 0, 9, 9], image=2)], [image(2), image(3)], name="v.json")
    (note,) = read(path, val_annotations="v.json").notes
    assert (note.level, note.text) == ("warning", "1 image of the split val is in train, too (002.jpg)")
