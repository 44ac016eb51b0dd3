"""What is known of a data set of images with masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_core.data.batch import DatasetInfo

CLASS_VALUES = {
    "num_classes": "the number of classes of the data",
}
"""What ``!run NAME`` can stand for."""


@dataclass(frozen=True)
class SegInfo(DatasetInfo):
    """A data set of images with one class a pixel."""

    num_classes: int | None = None

    @classmethod
    def of(cls, num_classes: int | None, **fields: Any) -> SegInfo:
        """The information with what follows from it; None where only reading would tell."""
        told: Mapping[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        return cls(num_classes=num_classes, model_parameters=told, run_values=told, **fields)
