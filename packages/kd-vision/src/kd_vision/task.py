"""Image classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import kd_vision.data.strong
import kd_vision.mixing
import kd_vision.rotations  # noqa: F401  which register an augmentation and views
from kd_core.config import has_call
from kd_core.config.schema import StudentSpec
from kd_core.data.batch import SHARED, Batch, DatasetInfo, Split, Splits
from kd_core.data.spec import pixels
from kd_core.errors import KDError, Unverified
from kd_core.files import user_path
from kd_core.models.hub import Hub
from kd_core.task import TASKS, Task
from kd_vision.data.augment import Augmentation, parse
from kd_vision.data.folders import skip_unreadable
from kd_vision.data.generated import with_generated
from kd_vision.data.in_memory import ArraySplit
from kd_vision.data.info import CLASS_VALUES, ImageInfo
from kd_vision.data.labelled_subset import LabelledSubset
from kd_vision.data.loading import SampleSplit
from kd_vision.data.sources import ImageSource
from kd_vision.data.spec import DataSpec, InputSpec, source_of
from kd_vision.data.splitting import split
from kd_vision.data.unlabelled import with_unlabelled
from kd_vision.inputs import input_format
from kd_vision.metrics import ClassificationMetrics
from kd_vision.preprocessing import ImagePreprocessor, image_preprocessor
from kd_zoo.timm_hub import TimmHub
from kd_zoo.transformers_hub import ImageHub


@TASKS("image_classification", "classification")
class ImageClassification(Task):
    """One class per image: targets (B,) int64, inputs (B, C, H, W) normalised float32, outputs logits (B, classes)."""

    name = "image_classification"
    monitor = "top1"
    run_values = CLASS_VALUES
    Data = DataSpec
    Input = InputSpec
    pipeline_tag = "image-classification"
    viewer = "kd_vision.results.views:ImageViewer"
    tried = ("augment",)
    strong = True
    hubs: ClassVar[Mapping[str, Hub]] = {
        "hub": ImageHub("kd-vision", "image_classification"),
        "timm": TimmHub("kd-vision"),
    }

    def info(self, data: DataSpec) -> ImageInfo:
        """The facts that the data set's name and the config tell."""
        source = source_of(data)
        num_classes = len(data.classes) if data.classes else data.num_classes or source.num_classes
        size = size_of_images(data, source)
        if source.shape is None and size is not None and source.channels is not None:
            return ImageInfo.of(num_classes, input_shape=(source.channels, *size))
        return ImageInfo.of(num_classes, input_shape=source.shape)

    def dummy_info(self, data: DataSpec, classes: int | None = None) -> ImageInfo:
        """The same, with ten classes and a hundred samples where only reading would tell."""
        classes = self.info(data).num_classes or classes or 10
        return ImageInfo.of(classes, samples=100, targets=[row % classes for row in range(100)])

    def load(self, data: DataSpec, *, seed: int, inputs: Mapping[str, InputSpec] | None = None) -> Splits:
        """Read, choose and split; ``data.seed``, where given, replaces ``seed`` in every choice."""
        source, skip = source_of(data), data.on_error == "skip"
        parts = split(skip_unreadable(data.read()) if skip else data.read(), data, seed)
        if data.unlabelled is not None:
            parts = with_unlabelled(parts, user_path(data.unlabelled), skip=skip)
        train = parts.train
        if not train:
            raise KDError("no training image is left", path="data")
        augmentation = parse(source.augment if data.augment is None else data.augment)
        if data.generated is not None:
            in_memory = isinstance(train.images, Tensor)
            shape = tuple(train.images.shape[1:]) if in_memory else self.info(data).input_shape
            parts, augmentation = with_generated(parts, data.generated, shape), Augmentation()
            train = parts.train
            assert train is not None

        def readable(subset: LabelledSubset | None) -> Split | None:
            return as_split(subset, augmentation, data, source) if subset else None

        classes = parts.classes or ()
        info = ImageInfo.of(
            len(classes) or None, classes=classes, samples=len(train.images), targets=train.target_of_rows()
        )
        train_split = as_split(train, augmentation, data, source)
        return Splits(train_split, readable(parts.val), readable(parts.test), info, parts)

    def prepare(self, batch: Batch, inputs: Mapping[str, InputSpec], data: DataSpec, *, training: bool) -> Batch:
        """Float images as each model takes them; models that take the same share one tensor."""
        images: Tensor = batch.inputs[SHARED]
        source = source_of(data)
        formats = {name: input_format(spec, data, source, images.shape) for name, spec in inputs.items()}
        tensors = {form: form.convert(images) for form in dict.fromkeys(formats.values())}
        if len(tensors) == 1:
            return replace(batch, inputs={SHARED: tensors.popitem()[1]})
        return replace(batch, inputs={name: tensors[form] for name, form in formats.items()})

    def dummy_batch(self, data: DataSpec, size: int, *, training: bool) -> Batch:
        """Noise, with classes in turn; the augmentation tried on it.

        Unverified where only reading the data would tell the shape, KDError where the augmentation fails.
        """
        info = self.info(data)
        if info.input_shape is None:
            raise Unverified("the shape of its images is not known before they are read", path="data.dataset")
        index = torch.arange(size)
        images = dummy_images(data, size, info.input_shape) if training else noise(size, info.input_shape)
        return Batch({SHARED: images}, index % (info.num_classes or 1), index)

    def call(self, model: nn.Module, inputs: Tensor) -> Any:
        """``model(images)``; of what models of transformers give, a dataclass that is a mapping, the logits."""
        output = model(inputs)
        wrapped = is_dataclass(output) and isinstance(output, Mapping) and "logits" in output
        return output["logits"] if wrapped else output

    def without_content(self, data: DataSpec) -> str | None:
        """``generated``, where it is given: the images are black."""
        return None if data.generated is None else "generated"

    def weights_key(self, data: DataSpec) -> str | None:
        """``weight``, where tables of images name a column by it."""
        tables = data.options.get("files") is not None and data.options.get("weight") is not None
        return "weight" if tables else None

    def effective_input(self, wants: InputSpec, data: DataSpec) -> InputSpec:
        """The input with the mean and the standard deviation that the data give where it has none."""
        mean, std = wants.mean or data.mean or source_of(data).mean, wants.std or data.std or source_of(data).std
        return wants.model_copy(update={"mean": list(mean), "std": list(std)})

    def as_evaluated(self, data: DataSpec, evaluation: Mapping[str, Any]) -> DataSpec:
        """``data`` with size, crop and interpolation of the student's hub, for images of any size."""
        if source_of(data).shape is not None:
            return data
        told = {key: value for key, value in evaluation.items() if key not in data.model_fields_set}
        return data.model_copy(update=told)

    def preprocessing(self, data: DataSpec) -> dict[str, Any]:
        """The size that images are brought to, the share of the centre crop and the interpolation where they are read
        one by one, and the value of white where the config gives it."""
        source, white = source_of(data), data.options.get("white")
        told: dict[str, Any] = {} if white is None else {"white": white}
        if source.shape is not None:
            return {"size": list(source.shape[1:]), **told}
        size = size_of_images(data, source)
        if data.interpolation != "bilinear":
            told["interpolation"] = data.interpolation
        return told if size is None else {"size": list(size), "eval_crop": data.eval_crop, **told}

    def preprocessor(self, student: StudentSpec, model: nn.Module, device: torch.device) -> ImagePreprocessor:
        """What makes images in files, of PIL, arrays or tensors into a batch (B, C, H, W)."""
        return image_preprocessor(InputSpec.model_validate(student.input), student.preprocessing, model, device)

    def metrics(self, info: DatasetInfo) -> ClassificationMetrics:
        """top1, top5, loss and ece."""
        return ClassificationMetrics(info.model_parameters.get("num_classes"), info.classes)


def noise(size: int, shape: tuple[int, ...]) -> Tensor:
    """uint8 images (size, *shape)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=generator)


def dummy_images(data: DataSpec, size: int, shape: tuple[int, ...]) -> Tensor:
    """Noise with the augmentation that the config gives, where its calls are built; KDError where that fails.

    Files have sizes of their own: images of the size that is wanted are tried first, then larger ones.
    """
    images = noise(size, shape)
    if data.augment is None or has_call(data.augment):
        return images
    augmentation, files = parse(data.augment), source_of(data).shape is None
    height, width = shape[-2:]
    try:
        return augmented(images, augmentation, files, (height, width))
    except KDError:
        if not (files and augmentation.transforms):
            raise
        return augmented(noise(size, (3, 2 * height, 3 * width)), augmentation, files, (height, width))


def augmented(images: Tensor, augmentation: Augmentation, files: bool, size: tuple[int, int]) -> Tensor:
    """uint8 images (B, C, H, W) as training gets them, from memory or, as PIL images, from ``files``."""
    from PIL import Image

    index = torch.arange(len(images))
    if augmentation.transforms or augmentation.per_image:
        rows = [(Image.fromarray(image.permute(1, 2, 0).numpy()) if files else image, 0) for image in images]
        subset = LabelledSubset(rows, torch.zeros_like(index), index, "")
        split = SampleSplit(subset, augmentation, size=size, workers=0)
        batch = next(split.batches([index], epoch=0, seed=0, augment=True))
        images = batch.inputs[SHARED]
    else:
        images = augmentation(images, seed=0, epoch=0, index=index)
    if images.is_floating_point() and not (images.min() >= -0.01 and images.max() <= 1.01):
        span = f"{float(images.min()):.3g} to {float(images.max()):.3g}"
        hint = (
            "`mean` and `std` normalise them; `ToDtype {dtype: !get:torch.float32 , scale: true}` brings them to [0, 1]"
        )
        raise KDError(f"images of floats are in [0, 1], and these go from {span}", path="data.augment", hint=hint)
    return images


def size_of_images(data: DataSpec, source: ImageSource) -> tuple[int, int] | None:
    """(height, width) that images are resized and cropped to when they are read; None where they keep their size."""
    size = data.size or source.size
    return None if size is None else pixels(size)


def as_split(subset: LabelledSubset, augmentation: Augmentation, data: DataSpec, source: ImageSource) -> Split:
    """A subset that gives batches: cut from memory, or read image by image where one of its images needs that."""
    if isinstance(subset.images, Tensor):
        if not (augmentation.transforms or augmentation.per_image):
            return ArraySplit(subset, augmentation)
        height, width = subset.images.shape[-2:]
        one_by_one = replace(subset, images=TensorDataset(subset.images))
        return SampleSplit(one_by_one, augmentation, size=(height, width), workers=data.workers, decoder=data.decoder)
    plain = data.mean is not None and data.std is not None and not any(data.mean) and set(data.std) == {1}
    size, crop = size_of_images(data, source), data.eval_crop
    return SampleSplit(
        subset,
        augmentation,
        size=size,
        workers=data.workers,
        any_values=plain,
        eval_crop=crop,
        interpolation=data.interpolation,
        decoder=data.decoder,
    )
