"""Object detection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kd_core.config.schema import StrictModel, StudentSpec
from kd_core.data.batch import SHARED, Batch, DatasetInfo, Splits
from kd_core.data.rows import skip_unreadable
from kd_core.data.subset import split
from kd_core.errors import KDError
from kd_core.models.hub import Hub
from kd_core.taps.paths import unwrap_model
from kd_core.task import TASKS, Task
from kd_vision.detection.data.info import DETECTION_VALUES, DetectionInfo
from kd_vision.detection.data.sources import BoxSubset
from kd_vision.detection.data.spec import DataSpec, info_of, with_objects
from kd_vision.detection.data.splits import DetectionSplit
from kd_vision.detection.deploy import boxes_and_scores, facts, network_input
from kd_vision.detection.hub import DetectorHub
from kd_vision.detection.metrics import DetectionMetrics, check_list, check_shapes
from kd_vision.detection.precision import fast_on_cpu, in_float32
from kd_vision.detection.preprocessing import images_in_range, in_range

DUMMY_SIZES = ((64, 96), (80, 64))
"""(height, width) of dummy images, in turn."""


class InputSpec(StrictModel):
    """Every detector takes images in [0, 1], and normalises and scales them itself."""


@TASKS("object_detection", "detection")
class ObjectDetection(Task):
    """Boxes with classes in images of any sizes, and masks or keypoints in them.

    Inputs are lists of images (3, H, W) in [0, 1], targets lists of torchvision's mappings: ``boxes`` (n, 4) as x1, y1,
    x2, y2 in pixels, ``labels`` (n,) from 1, and so on. In training mode a model is called with both and returns a
    mapping of losses, to which ``loss`` is added, their sum; in evaluation mode it returns a mapping of ``boxes``,
    ``scores`` and ``labels`` for each image, in the pixels of that image.
    """

    name = "object_detection"
    monitor = "ap"
    run_values = DETECTION_VALUES
    compiles = False
    dynamic_dims = (2, 3)
    exports_classes = False
    Data = DataSpec
    Input = InputSpec
    pipeline_tag = "object-detection"
    viewer = "kd_vision.detection.results.views:DetectionViewer"
    hubs: ClassVar[Mapping[str, Hub]] = {"hub": DetectorHub("kd-vision")}

    def info(self, data: DataSpec) -> DetectionInfo:
        """The facts that the data set's name and the config tell."""
        return info_of(data)

    def dummy_info(self, data: DataSpec, classes: int | None = None) -> DetectionInfo:
        """The same, with ten classes where only reading would tell."""
        info = self.info(data)
        return info if info.num_classes else DetectionInfo.of(num_classes=classes or 11, keypoints=info.keypoint_names)

    def load(self, data: DataSpec, *, seed: int, inputs: Mapping[str, InputSpec] | None = None) -> Splits:
        """Read, choose and split; ``data.seed``, where given, replaces ``seed`` in every choice."""
        whole = data.read()
        parts = with_objects(split(skip_unreadable(whole) if data.on_error == "skip" else whole, data, seed), data)
        info = info_of(data, parts)

        def as_split(part: BoxSubset | None, *, training: bool) -> DetectionSplit | None:
            return None if part is None else DetectionSplit.of(part, data, info, training=training)

        train = as_split(parts.train, training=True)
        assert train is not None
        val, test = (as_split(part, training=False) for part in (parts.val, parts.test))
        return Splits(train, val, test, info, parts)

    def check_splits(self, splits: Splits) -> None:
        """KDError where no training image has a box: there is nothing to learn."""
        if (counts := splits.train.class_counts) is not None and not any(counts.values()):
            raise KDError("no training image has a box", path="data")

    def prepare(self, batch: Batch, inputs: Mapping[str, InputSpec], data: DataSpec, *, training: bool) -> Batch:
        """Float images in [0, 1] and, in training, the targets, which models in training mode are called with."""
        images = [in_range(image) for image in batch.inputs[SHARED]["images"]]
        return replace(batch, inputs={SHARED: {"images": images, **({"targets": batch.target} if training else {})}})

    def dummy_batch(self, data: DataSpec, size: int, *, training: bool) -> Batch:
        """Noise in two sizes by turns, with two boxes each, whose classes come in turn: where only reading would tell
        how many there are, the first, which all models have."""
        info = self.info(data)
        generator = torch.Generator().manual_seed(0)
        images, targets = [], []
        for row in range(size):
            height, width = DUMMY_SIZES[row % 2]
            images.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator))
            targets.append(dummy_target(row, (height, width), info, masks=data.masks, points=int(data.keypoints)))
        return Batch({SHARED: {"images": images}}, targets, torch.arange(size))

    def call(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """``model(images, targets)`` in training mode, the sum of its losses added; else ``model(images)``."""
        images = inputs["images"]
        device = images[0].device.type
        if (detection := getattr(unwrap_model(model), "detection", None)) is not None:
            with torch.autocast(device, enabled=False):
                return detection(model, images, inputs.get("targets"))
        with ExitStack() as stack:
            if torch.is_autocast_enabled(device):
                stack.enter_context(in_float32(model))
                if device == "cpu":
                    stack.enter_context(fast_on_cpu(model))
            if not model.training:
                return model(images)
            return with_total(model(images, inputs["targets"]), type(model).__name__)

    def taken(self, model: nn.Module, inputs: Any) -> Tensor:
        """Images scaled, normalised and padded to one size, (B, 3, H, W): what :meth:`exported` takes."""
        return network_input(model, inputs["images"])

    def exported(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Boxes and scores of all anchors, (B, anchors, 4 + labels)."""
        return boxes_and_scores(model, inputs)

    def exported_facts(self, model: nn.Module) -> dict[str, Any]:
        """How images become inputs, and outputs detections."""
        return facts(model)

    def preprocessor(self, student: StudentSpec, model: nn.Module, device: torch.device) -> Callable[[Any], Any]:
        """What makes images in files, of PIL or arrays into ``{"images": [...]}``, what :meth:`call` takes."""
        return partial(images_in_range, device=device)

    def metrics(self, info: DatasetInfo) -> DetectionMetrics:
        """COCO's AP and AR of boxes and, where the data have them, of masks and keypoints."""
        assert isinstance(info, DetectionInfo)
        return DetectionMetrics(info)

    def check_model(self, model: nn.Module, wants: Any, data: DataSpec) -> None:
        """KDError where a model learns masks or keypoints that the data are not asked for."""
        for key in ("masks", "keypoints"):
            if finds(model, key) and not getattr(data, key):
                hint = f"write `data: {{{key}: true}}`"
                raise KDError(f"{type(model).__name__} finds {key}, and the data are read without", hint=hint)

    def check_student(self, model: nn.Module, info: DatasetInfo, data: DataSpec) -> None:
        """KDError where a detector of torchvision's kind tells other classes or keypoints apart than the data have, or
        finds none of the masks or keypoints that it would be scored on."""
        assert isinstance(info, DetectionInfo)
        wanted = (info.num_classes, len(info.keypoint_names) or None)
        for key, has, wants in zip(("num_classes", "num_keypoints"), outputs_of(model), wanted, strict=True):
            if has is not None and wants is not None and has != wants:
                hint = f"write `{key}: {wants}`, with `new_head: true` where the weights are for others"
                message = f"{type(model).__name__} has {key} {has}, and of the data it is {wants}"
                raise KDError(message, hint=hint)
        if isinstance(model, (GeneralizedRCNN, RetinaNet, FCOS, SSD)):
            for key in ("masks", "keypoints"):
                if getattr(data, key) and not finds(model, key):
                    raise KDError(f"{type(model).__name__} finds no {key}", hint=f"leave `{key}` out of `data`")

    def check_output(self, model: nn.Module, output: Callable[[], Any], batch: Batch, data: DataSpec) -> None:
        """KDError where a user's own model gives no list of boxes, scores and labels of the right shapes."""
        if isinstance(model, (GeneralizedRCNN, RetinaNet, FCOS, SSD)):
            return
        found = output()
        check_list(found, len(batch.target))
        kinds = ["boxes", *(["masks"] if data.masks else [])]
        kinds += ["keypoints"] if self.info(data).keypoint_names else []
        for detections, target in zip(found, batch.target, strict=True):
            check_shapes(detections, target, kinds)

    def lighten(self, model: nn.Module) -> None:
        """Scale images to a tenth or so: what scaled them alike still does, and what did not does not."""
        transform = getattr(model, "transform", None)
        if isinstance(transform, GeneralizedRCNNTransform) and transform.fixed_size is None:
            transform.min_size = tuple(map(_lightened, transform.min_size))
            transform.max_size = _lightened(transform.max_size)

    def check_structure(self, model: nn.Module, wants: Any, data: DataSpec) -> None:
        """The same."""
        self.check_model(model, wants, data)


def finds(model: nn.Module, key: str) -> bool:
    """Whether an R-CNN finds ``masks`` or ``keypoints``; no other detector of torchvision's kind does."""
    has = getattr(getattr(model, "roi_heads", None), f"has_{key.removesuffix('s')}", None)
    return has is not None and bool(has())


def outputs_of(model: nn.Module) -> tuple[int | None, int | None]:
    """How many labels and how many keypoints a detector of torchvision's kind tells apart; None where it has none."""
    heads = getattr(model, "roi_heads", None)
    dense = getattr(getattr(model, "head", None), "classification_head", None)
    labels = getattr(getattr(getattr(heads, "box_predictor", None), "cls_score", None), "out_features", None)
    labels = labels or getattr(dense, "num_classes", None) or getattr(dense, "num_columns", None)
    predictor = getattr(getattr(heads, "keypoint_predictor", None), "kps_score_lowres", None)
    return labels, getattr(predictor, "out_channels", None)


def _lightened(side: int) -> int:
    """A side of an image in pixels, what is above 96 a sixteenth of it."""
    return min(side, 96) + max(side - 96, 0) // 16


def with_total(losses: Any, model: str) -> dict[str, Tensor]:
    """A detector's losses with ``loss``, their sum; KDError where a model in training mode returns something else."""
    if not isinstance(losses, Mapping) or not all(isinstance(value, Tensor) for value in losses.values()):
        kind = type(losses).__name__
        raise KDError(f"{model} in training mode returns a {kind}; a detector returns a mapping of losses then")
    if "loss" in losses or not losses:
        return dict(losses)
    return {**losses, "loss": torch.stack([value.float() for value in losses.values()]).sum()}


def dummy_target(
    row: int, size: tuple[int, int], info: DetectionInfo, *, masks: bool, points: int = 0
) -> dict[str, Tensor]:
    """What a split gives for an image of ``size`` (height, width): two boxes, the second half as large.

    ``points``: how many keypoints an object has where only reading would tell.
    """
    height, width = size
    boxes = torch.tensor([[8.0, 8.0, width - 8.0, height - 8.0], [8.0, 8.0, width / 2, height / 2]])
    sides = boxes[:, 2:] - boxes[:, :2]
    target = {
        "boxes": boxes,
        "labels": 1 + (2 * row + torch.arange(2)) % max((info.num_classes or 2) - 1, 1),
        "area": sides.prod(1),
        "iscrowd": torch.zeros(2, dtype=torch.uint8),
        "image_id": torch.tensor(row),
        "size": torch.tensor(size),
    }
    if masks:
        drawn = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(drawn, boxes.long().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        target["masks"] = drawn
    if points := len(info.keypoint_names) or points:
        middle = torch.cat([boxes[:, :2] + sides / 2, torch.full((2, 1), 2.0)], 1)
        target["keypoints"] = middle[:, None].expand(-1, points, -1).clone()
    return target
