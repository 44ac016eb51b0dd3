"""What a config may say under ``data:`` and under a model's ``input:``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

import kd_seg.data.cityscapes
import kd_seg.data.coco
import kd_seg.data.folders
import kd_seg.data.scenes
import kd_seg.data.voc  # noqa: F401  what they register: data sets
from kd_core.config.schema import PositiveInt, StrictModel
from kd_core.data.spec import ChannelMeans, ChannelStds, ImageDataSpec, Size
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
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class DataSpec(ImageDataSpec):
    """Which images, how they are split, and what is done to them. See docs/seg.md."""

    sources: ClassVar[Registry[Any]] = SOURCES

    augment: bool = True
    size: PositiveInt | None = None
    scale: list[Factor] = Field(default=[0.5, 2.0], min_length=2, max_length=2)
    crop: Size | None = None
    flip: Probability = 0.5
    jitter: Jitter | None = None
    eval_size: PositiveInt | None = None
    mean: Means | None = None
    std: Stds | None = None

    @model_validator(mode="after")
    def _agree(self) -> DataSpec:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale goes from the smaller factor to the larger, not {self.scale}")
        return self


class InputSpec(StrictModel):
    """What one model takes: ``mean`` and ``std`` normalise channels in [0, 1]. What is left out is the data's own."""

    mean: Means | None = None
    std: Stds | None = None


def source_of(data: DataSpec) -> MaskSource:
    """The data set that a config means."""
    source = type(data).source
    assert isinstance(source, MaskSource)
    return source


def classes_of(data: DataSpec) -> tuple[str, ...] | None:
    """The names of the classes, as far as the data set's name, or an option ``classes``, tells."""
    named = source_of(data).classes or data.options.get("classes")
    return None if named is None else tuple(named)
