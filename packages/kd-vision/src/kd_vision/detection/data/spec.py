"""Schema of a config's ``data:``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import field_validator, model_validator

import kd_vision.detection.data.coco
import kd_vision.detection.data.scenes
import kd_vision.detection.data.voc
import kd_vision.detection.data.yolo  # noqa: F401  what they register: data sets
from kd_core.data.sources import Parts
from kd_core.data.spec import ImageDataSpec
from kd_core.errors import KDError
from kd_core.files import user_path
from kd_core.registry import Registry
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.sources import SOURCES, BoxSource, BoxSubset, checked
from kd_vision.detection.data.transforms import parse


class DataSpec(ImageDataSpec):
    """Which images, how they are split, and what is done to them. See docs/detection.md."""

    sources: ClassVar[Registry[Any]] = SOURCES

    on_error: Literal["stop", "skip"] = "stop"
    """What faults of annotations and images do: `stop` the run before it begins, or `skip`: the annotations and images
    are left out. Both name them."""
    masks: bool = False
    """Read the shapes of the objects, for models that predict masks."""
    keypoints: bool = False
    """Read the keypoints of the objects, for models that predict them."""
    empty_images: bool = False
    """Train on images without a box, too."""
    augment: Any = "hflip"
    """A preset, an operation, or a list of them: random changes of training images."""
    group_by_aspect_ratio: Annotated[int, Ge(0), Le(1000)] | None = 3
    """Make training batches of images of like shape, so that little is padded: of 2 N + 2 ranges of height over width.
    `null` makes them of any images."""

    @field_validator("augment")
    @classmethod
    def _parses(cls, augment: Any) -> Any:
        try:
            parse(augment)
        except KDError as error:
            raise ValueError(error) from None
        return augment

    @model_validator(mode="after")
    def _is_possible(self) -> DataSpec:
        source = type(self).source
        for key in ("masks", "keypoints"):
            if source is not None and getattr(self, key) and key not in source.takes:
                raise ValueError(KDError(f"the data set {self.name!r} has no {key}", path=key))
        return self

    def read(self) -> Parts[BoxSubset]:
        """The data set as its authors split it; KDError where files are missing, and for all faults of annotations."""
        parts: Parts[BoxSubset] = source_of(self).parts(
            user_path(self.root),
            download=self.download,
            masks=self.masks,
            keypoints=self.keypoints,
            skip=self.on_error == "skip",
            options=self.options,
        )
        return checked(parts, skip=self.on_error == "skip")


def source_of(data: DataSpec) -> BoxSource:
    """The data set that a config means."""
    source = type(data).source
    assert isinstance(source, BoxSource)
    return source


def info_of(data: DataSpec, parts: Parts[BoxSubset] | None = None) -> DetectionInfo:
    """The facts of a data set that was read, or those that its name tells."""
    if parts is None or parts.train is None:
        return DetectionInfo.of(source_of(data).known(data.options, keypoints=data.keypoints))
    return DetectionInfo.of(parts.train.boxes.categories)


def with_objects(parts: Parts[BoxSubset], data: DataSpec) -> Parts[BoxSubset]:
    """The splits of a run without the training images that have nothing to train on, unless the config keeps them."""
    if data.empty_images or parts.train is None:
        return parts
    return replace(parts, train=parts.train.with_objects())
