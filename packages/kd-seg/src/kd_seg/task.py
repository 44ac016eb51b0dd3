"""Semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.config.schema import StudentSpec
from kd_core.data.batch import SHARED, Batch, DatasetInfo, Splits
from kd_core.data.rows import skip_unreadable
from kd_core.data.spec import pixels
from kd_core.data.subset import split
from kd_core.data.summary import shortened
from kd_core.errors import KDError
from kd_core.models.hub import Hub
from kd_core.task import TASKS, Task
from kd_seg.data.info import CLASS_VALUES, SegInfo
from kd_seg.data.sources import VOID, MaskSource, PairSubset
from kd_seg.data.spec import DataSpec, InputSpec, classes_of, source_of
from kd_seg.data.splits import SegSplit
from kd_seg.data.transforms import Crop, Whole
from kd_seg.mask_style import style_of
from kd_seg.metrics import SegmentationMetrics
from kd_seg.preprocessing import Images, Normalization, PhotoPreprocessor, normalize
from kd_zoo.transformers_hub import ImageHub


@TASKS("semantic_segmentation", "segmentation")
class SemanticSegmentation(Task):
    """One class per pixel: targets (B, H, W) int64, inputs (B, 3, h, w) normalised float32, outputs mappings with
    ``out`` (B, C, h, w), logits at the size of the inputs. In evaluation, lists of one tensor a sample where sizes
    differ."""

    name = "semantic_segmentation"
    monitor = "miou"
    run_values = CLASS_VALUES
    output = "out"
    hubs: ClassVar[Mapping[str, Hub]] = {"hub": ImageHub("kd-seg", "semantic_segmentation")}
    mask = "batch.mask"
    eval_batch_size = 1
    dynamic_dims = (2, 3)
    Data = DataSpec
    Input = InputSpec
    pipeline_tag = "image-segmentation"
    viewer = "kd_seg.results.views:MaskViewer"

    def info(self, data: DataSpec) -> SegInfo:
        """The facts that the data set's name and the config tell; the shape is that of a training sample."""
        classes = classes_of(data)
        crop = crop_of(data, source_of(data))
        return SegInfo.of(None if classes is None else len(classes), input_shape=(3, *crop), classes=classes)

    def dummy_info(self, data: DataSpec, classes: int | None = None) -> SegInfo:
        """The same, with ten classes where only reading would tell."""
        return SegInfo.of(self.info(data).num_classes or classes or 10)

    def load(self, data: DataSpec, *, seed: int, inputs: Mapping[str, InputSpec] | None = None) -> Splits:
        """Read, choose and split; ``data.seed``, where given, replaces ``seed`` in every choice."""
        whole = data.read()
        parts = split(skip_unreadable(whole) if data.on_error == "skip" else whole, data, seed)
        assert parts.train is not None
        classes = parts.classes or ()

        def evaluated(part: PairSubset | None) -> SegSplit | None:
            view = Whole(data.eval_size)
            return None if part is None else SegSplit(part, view, workers=data.workers, classes=classes)

        transform = training_transform(data, source_of(data))
        train = SegSplit(parts.train, transform, workers=data.workers, classes=classes)
        info = SegInfo.of(len(classes), classes=classes)
        return Splits(train, evaluated(parts.val), evaluated(parts.test), info, parts)

    def check_splits(self, splits: Splits) -> None:
        """KDError where the training masks hold one class at most: there is nothing to learn."""
        train = splits.train
        counts = train.class_counts
        if not counts or not isinstance(train, SegSplit) or sum(map(bool, counts.values())) > 1:
            return
        missing = shortened([repr(name) for name, count in counts.items() if not count])
        values = [repr(name) for name, count in counts.items() if count] + ["void"] * bool(train.masks_with[VOID])
        hint = "a class is void in masks of 0 and 255: write `values: [0, 255]` and `void: []`"
        message = f"no training mask holds {missing}: every pixel is {' or '.join(values)}"
        raise KDError(message, hint=hint if train.masks_with[VOID] else None, path="data")

    def prepare(self, batch: Batch, inputs: Mapping[str, InputSpec], data: DataSpec, *, training: bool) -> Batch:
        """Float images as each model takes them; models that take the same share one tensor, or one list."""
        images: Images = batch.inputs[SHARED]
        source = source_of(data)
        normalizations = {name: normalization_of(spec, data, source) for name, spec in inputs.items()}
        tensors = {norm: normalize(images, norm) for norm in dict.fromkeys(normalizations.values())}
        if len(tensors) == 1:
            return replace(batch, inputs={SHARED: tensors.popitem()[1]})
        return replace(batch, inputs={name: tensors[norm] for name, norm in normalizations.items()})

    def dummy_batch(self, data: DataSpec, size: int, *, training: bool) -> Batch:
        """Noise of the size of a crop, the classes in turn along each row of pixels, void at the top."""
        source = source_of(data)
        height, width = crop_of(data, source)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (size, 3, height, width), dtype=torch.uint8, generator=generator)
        index = torch.arange(size)
        target = index[:, None, None] + torch.arange(height)[:, None] + torch.arange(width)
        target %= max(len(classes_of(data) or ()), 1)
        target[:, 0] = VOID
        return Batch({SHARED: images}, target, index, {"mask": target >= 0})

    def call(self, model: nn.Module, inputs: Images) -> dict[str, Any]:
        """``model(images)``: a mapping with ``out``, logits scaled to the images' size, and what else it gives.

        Images of several sizes go through the model one by one, and ``out`` is a list.
        """
        if isinstance(inputs, Tensor):
            return outputs(model, inputs)
        return {"out": [outputs(model, image[None])["out"][0] for image in inputs]}

    def effective_input(self, wants: InputSpec, data: DataSpec) -> InputSpec:
        """The input with the mean and the standard deviation that the data give where it has none."""
        mean, std = normalization_of(wants, data, source_of(data))
        return wants.model_copy(update={"mean": list(mean), "std": list(std)})

    def preprocessing(self, data: DataSpec) -> dict[str, Any]:
        """The size that images are scaled to in evaluation, None where they stay as they are, and the value of white
        where the config gives it."""
        white = data.options.get("white")
        return {"eval_size": data.eval_size, **({} if white is None else {"white": white})}

    def save_inputs(self, wants: InputSpec, data: DataSpec, folder: Path) -> None:
        """Write how the masks are written that the student learned from, where that is more than the ids of classes."""
        with suppress(KDError, OSError):  # data that are gone by now: predicted masks have the usual palette
            train = data.read().train
            if isinstance(train, PairSubset) and (style := style_of(train.pairs)) is not None:
                style.save(folder)

    def preprocessor(self, student: StudentSpec, model: nn.Module, device: torch.device) -> PhotoPreprocessor:
        """What makes photos in files, of PIL or arrays into a batch (B, 3, h, w)."""
        wants, told = InputSpec.model_validate(student.input), student.preprocessing
        if wants.mean is None or wants.std is None:
            raise KDError("the student's folder does not say how images are normalised", path="input")
        return PhotoPreprocessor(told.get("eval_size"), tuple(wants.mean), tuple(wants.std), told.get("white"), device)

    def metrics(self, info: DatasetInfo) -> SegmentationMetrics:
        """miou, pixel_accuracy, fwiou, mean_accuracy, and the IoU of each class."""
        return SegmentationMetrics(info.model_parameters.get("num_classes"), info.classes)


def crop_of(data: DataSpec, source: MaskSource) -> tuple[int, int]:
    """(height, width) of a training sample."""
    return source.crop if data.crop is None else pixels(data.crop)


def training_transform(data: DataSpec, source: MaskSource) -> Crop:
    """The transform of a training image; without augmentation the middle, the shorter side scaled to ``size``."""
    size, crop = data.size or source.size, crop_of(data, source)
    low, high = data.scale
    return Crop(size, crop, (low, high), data.flip, data.jitter, random=data.augment)


def normalization_of(spec: InputSpec, data: DataSpec, source: MaskSource) -> Normalization:
    """Mean and deviation that an ``input:`` asks for, what it leaves out taken from the data."""
    return tuple(spec.mean or data.mean or source.mean), tuple(spec.std or data.std or source.std)


def outputs(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """A model's outputs for images (B, 3, h, w) by name, with its logits (B, C, h, w) as ``out``.

    ``out`` and other maps of as many channels (an auxiliary head's) are scaled to (h, w), bilinear.
    """
    named = by_name(model(images), type(model).__name__)
    out = named["out"]
    if not isinstance(out, Tensor) or out.ndim != 4:
        kind = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise KDError(f"{type(model).__name__} gives {kind} for its logits; segmentation takes maps (B, C, h, w)")
    return {
        name: F.interpolate(value, images.shape[-2:], mode="bilinear", align_corners=False)
        if isinstance(value, Tensor)
        and value.ndim == 4
        and value.shape[1] == out.shape[1]
        and value.shape[-2:] != images.shape[-2:]
        else value
        for name, value in named.items()
    }


def by_name(output: Any, model: str) -> dict[str, Any]:
    """A model's output with its logits as ``out``; KDError where they are not to be found."""
    if isinstance(output, Tensor):
        return {"out": output}
    if isinstance(output, Mapping):
        named = {name: value for name, value in output.items() if value is not None}
        for key in ("out", "logits"):
            if key in named:
                return {"out": named.pop(key), **named}
        raise KDError(f"{model} gives neither 'out' nor 'logits' but {', '.join(map(str, named)) or 'nothing'}")
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return {"out": logits}
    raise KDError(f"{model} returns a {type(output).__name__}: neither logits nor a mapping with 'out'")
