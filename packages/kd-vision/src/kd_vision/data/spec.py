"""What a config may say under ``data:`` and under a model's ``input:``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from kd_core.config.schema import Limits, PositiveInt, StrictModel
from kd_core.errors import ConfigError, ConfigProblem, KDError, did_you_mean
from kd_vision.data.augment import parse
from kd_vision.data.sources import SOURCES

SPLITS = ("train", "val", "test")
PLAIN = (bool, int, float, str, dict)
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
ChannelMeans = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
ChannelStds = Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)]


class DataSpec(StrictModel):
    """Which images, how they are split, and what is done to them. See docs/vision.md."""

    name: str | None = None
    dataset: dict[str, Any] | None = None
    root: str = "data"
    download: bool = True
    unlabelled: str | None = None
    num_classes: PositiveInt | None = None
    seed: Count | None = None
    classes: Annotated[list[str | int], Field(min_length=2)] | None = None
    limit: PositiveInt | Limits | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    per_class: PositiveInt | None = None
    val: Count | Fraction | None = None
    labelled: Count | None = None
    augment: Any = None
    size: Size | None = None
    mean: ChannelMeans | None = None
    std: ChannelStds | None = None
    workers: Count | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            _as_value_error(SOURCES.get, name)
        return name

    @field_validator("dataset")
    @classmethod
    def _splits(cls, dataset: dict[str, Any] | None) -> dict[str, Any] | None:
        if dataset is None:
            return None
        wrong = [
            ConfigProblem(f"unknown key {key!r}", key, hint=did_you_mean(key, SPLITS))
            if key not in SPLITS
            else ConfigProblem("must be a !call of a data set of (image, label) pairs", key)
            for key, value in dataset.items()
            if key not in SPLITS or isinstance(value, PLAIN)
        ]
        if dataset.get("train") is None and not wrong:
            wrong = [ConfigProblem("missing required key 'train': a !call of a data set of (image, label) pairs")]
        if wrong:
            raise ValueError(ConfigError(wrong))
        return dataset

    @field_validator("augment")
    @classmethod
    def _parses(cls, augment: Any) -> Any:
        if augment is not None:
            _as_value_error(parse, augment)
        return augment

    @model_validator(mode="after")
    def _agree(self) -> DataSpec:
        if (self.name is None) == (self.dataset is None):
            raise ValueError("give one of 'name' (a known data set) and 'dataset' (your own)")
        source = SOURCES.get(self.name) if self.name else None
        if source and source.shape and self.size:
            raise ValueError(
                f"{self.name} has images of one size; `size` in a model's `input` resizes them for that model"
            )
        if source and source.num_classes and self.num_classes not in (None, source.num_classes):
            raise ValueError(
                f"{self.name} has {source.num_classes} classes, not {self.num_classes}: leave num_classes out"
            )
        given = [key for key in ("fraction", "per_class") if getattr(self, key) is not None]
        if isinstance(self.limit, int) or (self.limit and self.limit.train):
            given.append("limit")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(repr(key) for key in given)} both choose the training images: give one")
        return self

    @property
    def limits(self) -> Limits:
        """``limit`` for each split; a single number is for training and test images."""
        if isinstance(self.limit, int):
            return Limits(train=self.limit, test=self.limit)
        return self.limit or Limits()


class InputSpec(StrictModel):
    """What one model takes. What is left out is the data's own.

    ``mean`` and ``std`` normalise channels in [0, 1]; ``size`` is pixels, or [height, width]; ``channels`` is 1 or 3.
    """

    mean: ChannelMeans | None = None
    std: ChannelStds | None = None
    size: Size | None = None
    channels: Annotated[int, Field(ge=1)] | None = None


def _as_value_error(function: Any, value: Any) -> None:
    try:
        function(value)
    except KDError as error:
        raise ValueError(error) from None


def pixels(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a size, which may be one number for a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
