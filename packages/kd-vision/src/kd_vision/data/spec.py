"""Schemas of a config's ``data:`` and of a model's ``input:``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

import kd_vision.data.cifar
import kd_vision.data.folders
import kd_vision.data.hub_images
import kd_vision.data.image_files
import kd_vision.data.tables
import kd_vision.data.tar_shards
import kd_vision.data.torch_datasets  # noqa: F401  what they register: data sets
from kd_core.config.schema import PositiveInt, StrictModel
from kd_core.data.spec import ChannelMeans, ChannelStds, ImageDataSpec, NonNegativeInt, Size
from kd_core.errors import KDError
from kd_core.registry import Registry
from kd_vision.data.augment import parse
from kd_vision.data.decoding import Decoder
from kd_vision.data.loading import EVALUATION_CROP, Interpolation
from kd_vision.data.sources import SOURCES, ImageSource


class DataSpec(ImageDataSpec):
    """Which images, how they are split, and what is done to them. See docs/vision.md."""

    sources: ClassVar[Registry[Any]] = SOURCES

    unlabelled: str | None = None
    """A folder, whose images and those in folders below join the training images without labels."""
    generated: PositiveInt | None = None
    """Use no training image: so many samples an epoch, without pixels and labels, for a method that makes images
    itself, such as `dafl`."""
    num_classes: PositiveInt | None = None
    """Number of classes, so that a config can be checked where the images are not."""
    classes: Annotated[list[str | int], Field(min_length=2)] | None = None
    """Keep only these classes, by name or number. They become 0, 1, ... in this order."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Keep this fraction of the training images, instead of `limit`."""
    per_class: PositiveInt | None = None
    """Keep this number of training images of each class, instead of `limit`."""
    labelled: NonNegativeInt | None = None
    """Number of training images that keep their labels; the others have the target -100, which `cross_entropy`
    ignores."""
    augment: Any = None
    """A preset, an operation, or a list of operations and transforms. By default the preset of the data set."""
    size: Size | None = None
    """Height and width in pixels to which images in folders are brought; one number for a square. By default 224."""

    eval_crop: Annotated[float, Field(gt=0, le=1)] = EVALUATION_CROP
    """Share of the resized image that the centre crop of evaluation keeps. With 1 the shorter side becomes `size`."""
    interpolation: Interpolation = "bilinear"
    """How images in folders are resized."""
    decoder: Decoder = "pillow"
    """What decodes JPEG files of training images. With `torchvision` transforms get tensors instead of PIL images."""
    mean: ChannelMeans | None = None
    """Means of the channels, in [0, 1], for models whose `input` has none."""
    std: ChannelStds | None = None
    """Standard deviations of the channels, for models whose `input` has none."""

    @field_validator("augment")
    @classmethod
    def _parses(cls, augment: Any) -> Any:
        if augment is not None:
            try:
                parse(augment)
            except KDError as error:
                raise ValueError(error) from None
        return augment

    @model_validator(mode="after")
    def _agree(self) -> DataSpec:
        source = source_of(self)
        if source.shape and self.size:
            raise ValueError(
                f"{self.name} has images of one size; `size` in a model's `input` resizes them for that model"
            )
        if source.num_classes and self.num_classes not in (None, source.num_classes):
            raise ValueError(
                f"{self.name} has {source.num_classes} classes, not {self.num_classes}: leave num_classes out"
            )
        if self.unlabelled is not None and self.options.get("streaming"):
            raise ValueError(
                "'unlabelled' adds a folder to images on this machine, and 'streaming' leaves them where they are"
            )
        keys = [key for key in ("fraction", "per_class") if getattr(self, key) is not None]
        keys += ["limit"] if self.limits.train is not None else []
        if self.generated is not None:
            others = [key for key in ("augment", "labelled", "unlabelled", "augmented_views") if getattr(self, key)]
            if others := [*others, *keys]:
                raise ValueError(f"'generated' leaves no training image, and {others[0]!r} says something of them")
        if len(keys) > 1:
            raise ValueError(f"{' and '.join(repr(key) for key in keys)} both choose the training images: give one")
        return self


class InputSpec(StrictModel):
    """The format of one model's inputs. Keys that are left out have the values of the data.

    ``mean`` and ``std`` normalise channels in [0, 1]; ``size`` is pixels, or [height, width]; ``channels`` is 1 or 3.
    """

    mean: ChannelMeans | None = None
    """Means of the channels, in [0, 1], that are subtracted from an image."""
    std: ChannelStds | None = None
    """Standard deviations of the channels, by which an image is divided."""
    size: Size | None = None
    """Height and width in pixels to which this model's images are resized; one number for a square."""
    channels: Annotated[int, Field(ge=1)] | None = None
    """Number of channels, 1 or 3. Images are converted from and to grey."""


def source_of(data: DataSpec) -> ImageSource:
    """The data set that a config means."""
    source = type(data).source
    assert isinstance(source, ImageSource)
    return source
