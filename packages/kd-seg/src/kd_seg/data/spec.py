"""Schemas of a config's ``data:`` and of a model's ``input:``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

import kd_seg.data.cityscapes
import kd_seg.data.coco
import kd_seg.data.folders
import kd_seg.data.hub_pairs
import kd_seg.data.scenes
import kd_seg.data.voc  # noqa: F401  what they register: data sets
from kd_core.config.schema import StrictModel
from kd_core.data.spec import MAX_PIXELS, ChannelMeans, ChannelStds, ImageDataSpec, Pixels, Size
from kd_core.registry import Registry
from kd_seg.data.sources import SOURCES, MaskSource

Probability = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Means = Annotated[ChannelMeans, Field(min_length=3, max_length=3)]
Stds = Annotated[ChannelStds, Field(min_length=3, max_length=3)]


class Jitter(StrictModel):
    """By how much colours change at most: factors within 1 +- the value, for ``hue`` a turn by +- the value."""

    brightness: Strength = 0.0
    """Largest change of the brightness: its factor is in [1 - value, 1 + value]."""
    contrast: Strength = 0.0
    """Largest change of the contrast, likewise."""
    saturation: Strength = 0.0
    """Largest change of the saturation, likewise."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, as a fraction of the colour circle."""


class DataSpec(ImageDataSpec):
    """Which images, how they are split, and what is done to them. See docs/seg.md."""

    sources: ClassVar[Registry[Any]] = SOURCES

    augment: bool = True
    """Scale, flip and crop training images at random. Without it the crop is taken from the middle."""
    size: Pixels | None = None
    """Length in pixels to which the shorter side of a training image is scaled, before the factor from `scale`."""
    scale: list[Factor] = Field(default=[0.5, 2.0], min_length=2, max_length=2)
    """Smallest and largest factor of the random scaling."""
    crop: Size | None = None
    """Height and width in pixels of the random crop; one number for a square."""
    flip: Probability = 0.5
    """Probability that a training image is mirrored."""
    jitter: Jitter | None = None
    """Random changes of the colours."""
    eval_size: Pixels | None = None
    """Length in pixels to which the shorter side is scaled in evaluation. Masks are not scaled."""
    mean: Means | None = None
    """Means of the channels, in [0, 1], for models whose `input` has none."""
    std: Stds | None = None
    """Standard deviations of the channels, for models whose `input` has none."""

    @model_validator(mode="after")
    def _agree(self) -> DataSpec:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale goes from the smaller factor to the larger, not {self.scale}")
        size = self.size or source_of(self).size
        if size * self.scale[1] > MAX_PIXELS:
            raise ValueError(
                f"a scale of {self.scale[1]:g} makes images of {size * self.scale[1]:.3g} pixels a side; at most "
                f"{MAX_PIXELS} are possible"
            )
        return self


class InputSpec(StrictModel):
    """Normalisation of one model's images. Keys that are left out have the values of the data."""

    mean: Means | None = None
    """Means of the channels, in [0, 1], that are subtracted from an image."""
    std: Stds | None = None
    """Standard deviations of the channels, by which an image is divided."""


def source_of(data: DataSpec) -> MaskSource:
    """The data set that a config means."""
    source = type(data).source
    assert isinstance(source, MaskSource)
    return source


def classes_of(data: DataSpec) -> tuple[str, ...] | None:
    """The names of the classes, as far as the data set's name, or an option ``classes``, tells."""
    named = source_of(data).classes or data.options.get("classes")
    return None if named is None else tuple(named)
