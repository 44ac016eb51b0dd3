"""Facts about a data set of images with boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kd_core.data.batch import DatasetInfo
from kd_vision.detection.data.categories import Categories

DETECTION_VALUES = {
    "num_classes": "the number of labels of the data: the classes and the background",
}
"""Values of ``!run NAME``."""


@dataclass(frozen=True)
class DetectionInfo(DatasetInfo):
    """A data set of images with boxes. ``classes`` has a name for each label, that of the background first."""

    category_ids: tuple[int, ...] = ()
    """The number that the data set's files have for each label; the background's is -1."""
    ignored: frozenset[int] = frozenset()
    """Labels that are no class, as ten of COCO's."""
    keypoint_names: tuple[str, ...] = ()
    """The keypoints of an object, in the order of the targets; none where objects have none."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints, counted from 0, that a line joins in pictures."""

    @property
    def num_classes(self) -> int | None:
        """How many labels there are, the background included; None where only reading would tell."""
        return self.model_parameters.get("num_classes")

    @classmethod
    def of(
        cls,
        categories: Categories | None = None,
        *,
        num_classes: int | None = None,
        keypoints: tuple[str, ...] = (),
        **fields: Any,
    ) -> DetectionInfo:
        """The information with what follows from it.

        Where only reading would tell the ``categories``, ``num_classes`` labels and ``keypoints`` stand for them, as
        far as they are known.
        """
        if categories is not None:
            num_classes, keypoints = len(categories.names), categories.keypoints
            fields["classes"], fields["category_ids"] = categories.names, categories.ids
            fields["ignored"], fields["skeleton"] = categories.ignored, categories.skeleton
        number = {} if num_classes is None else {"num_classes": num_classes}
        points = {"num_keypoints": len(keypoints)} if keypoints else {}
        return cls(model_parameters={**number, **points}, run_values=number, keypoint_names=keypoints, **fields)
