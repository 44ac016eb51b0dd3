"""What a config may say under ``data:`` and under a model's ``input:``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from kd_core.config.schema import Limits, PositiveInt, StrictModel
from kd_core.errors import KDError
from kd_seg.data.sources import SOURCES

Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Size = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
ChannelMeans = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
ChannelStds = Annotated[list[Factor], Field(min_length=3, max_length=3)]


class Folder(StrictModel):
    """A split of one's own: folders of images and masks (a mask has its image's name), and a list of names."""

    images: str
    masks: str
    list: str | None = None


class Folders(StrictModel):
    """Splits of one's own, below ``data.root`` unless their paths are absolute."""

    train: Folder
    val: Folder | None = None
    test: Folder | None = None


class Jitter(StrictModel):
    """By how much colours change at most: factors within 1 +- the value, for ``hue`` a turn by +- the value."""

    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class DataSpec(StrictModel):
    """Which images, how they are split, and what is done to them. See docs/seg.md."""

    name: str | None = None
    folders: Folders | None = None
    root: str = "data"
    download: bool = True
    sbd: bool = False
    """VOC 2012 only: train on the list ``trainaug`` with the masks of ``SegmentationClassAug``."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    void: Count | Annotated[list[Count], Field(max_length=1024)] = 255
    """Of folders: the values in masks that stand for no class."""
    seed: Count | None = None
    limit: PositiveInt | Limits | None = None
    val: Count | Fraction | None = None
    augment: bool = True
    size: PositiveInt | None = None
    scale: list[Factor] = Field(default=[0.5, 2.0], min_length=2, max_length=2)
    crop: Size | None = None
    flip: Probability = 0.5
    jitter: Jitter | None = None
    eval_size: PositiveInt | None = None
    mean: ChannelMeans | None = None
    std: ChannelStds | None = None
    workers: Count | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                SOURCES.get(name)
            except KDError as error:
                raise ValueError(error) from None
        return name

    @model_validator(mode="after")
    def _agree(self) -> DataSpec:
        if (self.name is None) == (self.folders is None):
            raise ValueError("give one of 'name' (a known data set) and 'folders' (your own)")
        if self.folders is not None and self.classes is None:
            raise ValueError("folders need 'classes', the names of what the values 0, 1, ... in masks stand for")
        if self.sbd and self.name != "voc2012":
            raise ValueError("'sbd' adds training masks to voc2012, and to no other data set")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale goes from the smaller factor to the larger, not {self.scale}")
        return self

    @property
    def limits(self) -> Limits:
        """``limit`` for each split; a single number is for training images."""
        return Limits(train=self.limit) if isinstance(self.limit, int) else self.limit or Limits()


class InputSpec(StrictModel):
    """What one model takes: ``mean`` and ``std`` normalise channels in [0, 1]. What is left out is the data's own."""

    mean: ChannelMeans | None = None
    std: ChannelStds | None = None


def pixels(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a size, which may be one number for a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
