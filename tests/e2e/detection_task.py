"""A task outside this repository: torchvision's detectors, which take targets and give losses in training mode only.

The tests copy this module beside a config, whose ``imports:`` names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_tensor

from kd_core.config.schema import StrictModel
from kd_core.data.batch import SHARED, Batch, DatasetInfo, Split, Splits
from kd_core.models.registry import MODELS
from kd_core.task import TASKS, Metrics, Reducer, Task

CLASSES = ("thing", "person", "vehicle")
Target = dict[str, Tensor]


class DataSpec(StrictModel):
    """``images`` of each split: random ones, of one size or of several, or those of a folder laid out as COCO's."""

    name: Literal["random", "coco"] = "random"
    root: str = ""
    images: int = 6
    equal: bool = False


class InputSpec(StrictModel):
    """Every detector takes images in [0, 1] and resizes them itself."""


class Images(Split):
    """Images (3, H, W) of any sizes, with the boxes (n, 4) and labels (n,) of each."""

    fixed = True

    def __init__(self, images: list[Tensor], targets: list[Target]) -> None:
        self.images, self.targets = images, targets

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(image.numpy().tobytes() for image in self.images)).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        for positions in order:
            rows = positions.tolist()
            yield Batch({SHARED: [self.images[row] for row in rows]}, [self.targets[row] for row in rows], positions)


def random_images(count: int, seed: int, equal: bool) -> Images:
    """Noise with one box in the first image, two in the second, three in the third, one in the fourth and so on."""
    random = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for row in range(count):
        height = 64 if equal else 48 + 16 * (row % 3)
        boxes = torch.rand(1 + row % 3, 4, generator=random) * 20 + torch.tensor([0.0, 0.0, 24.0, 24.0])
        labels = torch.randint(1, len(CLASSES), (len(boxes),), generator=random)
        images.append(torch.rand(3, height, 64, generator=random))
        targets.append({"boxes": boxes, "labels": labels})
    return Images(images, targets)


def coco_images(root: Path, split: str, count: int) -> Images:
    """The first images of a split that have boxes; people, and everything else."""
    listed = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    images, targets = [], []
    for entry in listed["images"]:
        found = [item for item in listed["annotations"] if item["image_id"] == entry["id"] and not item["iscrowd"]]
        if found and len(images) < count:
            boxes = torch.tensor([item["bbox"] for item in found])
            boxes[:, 2:] += boxes[:, :2]
            labels = torch.tensor([1 if item["category_id"] == 1 else 2 for item in found])
            images.append(to_tensor(Image.open(root / split / entry["file_name"]).convert("RGB")))
            targets.append({"boxes": boxes, "labels": labels})
    return Images(images, targets)


class Recall(Metrics):
    """The share of boxes that a detection of their class covers with an IoU of at least 0.5."""

    reduces = True

    def __init__(self) -> None:
        self.counts = torch.zeros(2)

    def update(self, output: list[Target], batch: Batch) -> None:
        for detected, target in zip(output, batch.target, strict=True):
            covers = box_iou(target["boxes"], detected["boxes"]) >= 0.5
            right = covers & (target["labels"][:, None] == detected["labels"])
            self.counts += torch.tensor([right.any(dim=1).sum().item(), len(right)])

    def reduce(self, processes: Reducer) -> None:
        processes.sum(self.counts)

    def compute(self) -> dict[str, float]:
        return {"recall": (self.counts[0] / self.counts[1]).item(), "boxes": self.counts[1].item()}


@TASKS("my_detection")
class Detection(Task):
    """Images of different sizes with boxes; a detector's losses in training mode, its detections in evaluation mode."""

    name = "my_detection"
    monitor = "recall"
    Data = DataSpec
    Input = InputSpec

    def info(self, data: DataSpec) -> DatasetInfo:
        return DatasetInfo(classes=CLASSES, model_parameters={"num_classes": len(CLASSES)})

    def load(self, data: DataSpec, *, seed: int, inputs: Mapping[str, InputSpec] | None = None) -> Splits:
        if data.name == "coco":
            root = Path(data.root)
            splits = [coco_images(root, name, data.images) for name in ("train2017", "val2017")]
        else:
            splits = [random_images(data.images, seed, data.equal) for seed in (0, 1)]
        return Splits(*splits, None, self.info(data))

    def prepare(self, batch: Batch, inputs: Mapping[str, InputSpec], data: DataSpec, *, training: bool) -> Batch:
        """In training, a detector takes the targets too."""
        taken = {"images": batch.for_model(SHARED), **({"targets": batch.target} if training else {})}
        return Batch({SHARED: taken}, batch.target, batch.index)

    def dummy_batch(self, data: DataSpec, size: int, *, training: bool) -> Batch:
        images = random_images(size, 0, data.equal)
        return next(images.batches([torch.arange(size)], epoch=0, seed=0, augment=False))

    def call(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        return model(inputs["images"], inputs["targets"]) if model.training else model(inputs["images"])

    def metrics(self, info: DatasetInfo) -> Recall:
        return Recall()


@MODELS("my_retinanet")
def my_retinanet(*, num_classes: int = 2, size: int = 64) -> nn.Module:
    """RetinaNet on MobileNetV3 and a pyramid of three levels, with random weights."""
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((0.5, 1.0, 2.0),) * 3)
    return RetinaNet(backbone, num_classes, size, 2 * size, anchor_generator=anchors, detections_per_img=5)
