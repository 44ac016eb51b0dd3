"""What is known of a data set of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_core.data.batch import DatasetInfo

CLASS_VALUES = {
    "num_classes": "the number of classes of the data",
    "num_samples": "the rows of the training data, among which batch.index counts",
    "targets": "the class of each of those rows; -100 where it has none, -1 where it does not train",
}
"""What ``!run NAME`` can stand for."""


@dataclass(frozen=True)
class ImageInfo(DatasetInfo):
    """A data set of images with one class each."""

    num_classes: int | None = None

    @classmethod
    def of(
        cls, num_classes: int | None, *, samples: int | None = None, targets: Any = None, **fields: Any
    ) -> ImageInfo:
        """The information with what follows from it; None where only reading would tell."""
        values = {"num_classes": num_classes, "num_samples": samples, "targets": targets}
        told: Mapping[str, Any] = {name: value for name, value in values.items() if value is not None}
        parameters = {} if num_classes is None else {"num_classes": num_classes}
        return cls(num_classes=num_classes, model_parameters=parameters, run_values=told, **fields)
