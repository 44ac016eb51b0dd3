"""What a user's images are: in folders of classes, in a table, or with boxes."""

from __future__ import annotations

from pathlib import Path

from kd_core.config import Call
from kd_core.errors import KDError
from kd_core.starters import IMAGES, TABLES, Starter, column, columns_of, images_in, label_column, splits_beside

STUDENT = {"zoo": "torchvision.resnet18", "new_head": True}
ANNOTATIONS = "*annotations*.json"
HINT = "a folder with train/CLASS/*.jpg, a table of paths and classes, a YOLO data.yaml, or COCO's annotations"


def starter(path: Path) -> Starter:
    """A config for the images at ``path``; KDError where it is none of what is known."""
    if path.suffix.lower() in TABLES:
        return _table(path)
    if path.suffix.lower() == ".json":
        return _coco(path)
    if path.name.endswith((".yaml", ".yml")) or (path / "data.yaml").is_file():
        return _detector({"name": "yolo", "root": str(path.resolve())}, ["boxes in the layout of YOLO's trainers"])
    if path.is_dir():
        annotations = sorted((path / "train").glob(ANNOTATIONS)) or sorted(path.glob(ANNOTATIONS))
        return _coco(annotations[0]) if annotations else _folder(path)
    raise KDError(f"{path}: this is nothing that a config can be made for", hint=HINT)


def _folder(root: Path) -> Starter:
    """Images in folders of classes."""
    train = root / "train"
    classes = {folder.name: len(images_in(folder)) for folder in sorted(train.iterdir())} if train.is_dir() else {}
    classes = {name: number for name, number in classes.items() if number and not name.startswith(".")}
    if len(classes) < 2:
        there = [folder.name for folder in sorted(root.iterdir()) if folder.is_dir() and images_in(folder)]
        hint = f"move the folders {', '.join(there[:3])} into {train}" if there else HINT
        raise KDError(f"{train}: there are no folders of at least two classes with images", hint=hint)
    number = sum(classes.values())
    seen = [f"{number} training images of {len(classes)} classes: {', '.join(list(classes)[:8])}"]
    seen += [f"the split {split} is there" for split in ("val", "test") if (root / split).is_dir()]
    data = {"name": "image_folder", "root": str(root.resolve()), "num_classes": len(classes), "size": 224}
    return Starter("image_classification", data, dict(STUDENT), batch_size=min(32, number), seen=seen)


def _table(table: Path) -> Starter:
    """A table of paths and classes."""
    header, rows = columns_of(table)
    named = column(header, ("image", "path", "file", "filename", "file_name", "img"))
    by_content = (
        name for place, name in enumerate(header) if all(row[place].lower().endswith(IMAGES) for row in rows[:20])
    )
    image = named or next(by_content, None)
    if image is None:
        raise KDError(f"{table}: no column has paths of images", hint=f"its columns are {', '.join(header)}")
    label = label_column(header, rows, [image])
    if label is None:
        raise KDError(f"{table}: no column has classes", hint=f"its columns are {', '.join(header)}")
    data = {"files": splits_beside(table), "image": image, "label": label, "size": 224}
    seen = [f"images in the column {image!r}, classes in {label!r}; {len(rows)} rows were looked at"]
    return Starter("image_classification", data, dict(STUDENT), seen=seen)


def _coco(annotations: Path) -> Starter:
    """Annotations in COCO's format."""
    data = {"name": "coco_json", "root": str(annotations.parent.resolve()), "annotations": annotations.name}
    for part in ("valid", "val", "test"):
        beside = sorted((annotations.parent.parent / part).glob(ANNOTATIONS))
        if annotations.parent.name == "train" and beside:
            data["root"] = str(annotations.parent.parent.resolve())
            data["annotations"] = f"train/{annotations.name}"
            data[f"{'test' if part == 'test' else 'val'}_annotations"] = f"{part}/{beside[0].name}"
    return _detector(data, ["boxes in COCO's format"])


def _detector(data: dict[str, str], seen: list[str]) -> Starter:
    """A detector for boxes."""
    losses = {"detector": {"loss": "identity", "value": "student.output/loss", "mean_over": "samples"}}
    student = {"zoo": "torchvision.fasterrcnn_resnet50_fpn", "new_head": True}
    optimizer = Call("torch.optim.SGD", kwargs={"lr": 0.005, "momentum": 0.9, "weight_decay": 1e-4})
    stage = {"eval_batch_size": 1}
    return Starter("object_detection", dict(data), student, losses, 10, 4, optimizer, seen, stage)
