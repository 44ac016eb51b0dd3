"""The categories of a data set, and how labels stand for them: label 0 is the background, in no file."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError

BACKGROUND = "background"
NOWHERE = -1
"""The number of the background: no file has it."""
UNUSED = "N/A"
"""The name of a label that is no class."""

COCO_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", UNUSED, "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep"),
    *("cow", "elephant", "bear", "zebra", "giraffe", UNUSED, "backpack", "umbrella", UNUSED, UNUSED),
    *("handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat"),
    *("baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", UNUSED, "wine glass", "cup", "fork"),
    *("knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza"),
    *("donut", "cake", "chair", "couch", "potted plant", "bed", UNUSED, "dining table", UNUSED, UNUSED, "toilet"),
    *(UNUSED, "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", UNUSED, "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""COCO's categories 1 to 90 (Lin et al., ECCV 2014), ten of which it does not use."""
COCO_BY_ID = {number: name for number, name in enumerate(COCO_NAMES, 1) if name != UNUSED}
"""The 80 that it uses, by their numbers."""
KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
"""COCO's keypoints of a person."""


def name_fault(name: str) -> str | None:
    """What is wrong with the name of a class or a keypoint, which files of a run and tables have; None for nothing."""
    if not name.strip():
        return f"has the name {name!r}, which is empty"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return f"has the name {name!r}, which has a control character or half a surrogate pair"
    return None


def class_names_fault(names: Sequence[str]) -> str | None:
    """What is wrong with the names of classes, in words; None for nothing."""
    for place, name in enumerate(names):
        if name in names[:place]:
            return f"has {name!r} twice"
        if fault := name_fault(name):
            return fault
    return None


def check_classes(*, classes: Sequence[str] | None = None, **_: object) -> None:
    """KDError where an option ``classes`` names a class twice or by nothing."""
    if classes is not None and (fault := class_names_fault(classes)):
        raise KDError(fault, path="classes")


@dataclass(frozen=True)
class Categories:
    """Classes in the order of their labels, the background first.

    ``names`` and ``ids``, the numbers that the data set's files have for them, go together; ``ignored`` are labels that
    are no class. ``keypoints`` names those of an object, and ``skeleton`` pairs of them, from 0, that a line joins.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    ignored: frozenset[int] = frozenset()
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, by_id: Mapping[int, str]) -> Categories:
        """Categories with any numbers, labelled from 1 in the order of these."""
        numbers = sorted(by_id)
        return cls((BACKGROUND, *(by_id[number] for number in numbers)), (NOWHERE, *numbers))

    @classmethod
    def listed(cls, names: Sequence[str], first: int = 1) -> Categories:
        """Categories that have no number but their place among ``names``, from ``first``."""
        return cls.of(dict(enumerate(names, first)))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(K,) the labels that are classes."""
        return np.array([label for label in range(1, len(self.names)) if label not in self.ignored], np.int64)

    def labels_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The label of each of a file's numbers (M,), 0 where there is no such category."""
        labels = self.labels
        known = np.array(self.ids, np.int64)[labels]
        order = np.argsort(known)
        places = np.searchsorted(known[order], numbers).clip(max=max(len(known) - 1, 0))
        if not len(known):
            return np.zeros_like(numbers)
        return np.where(known[order][places] == numbers, labels[order][places], 0)


COCO = Categories(
    (BACKGROUND, *COCO_NAMES),
    (NOWHERE, *range(1, len(COCO_NAMES) + 1)),
    frozenset(number for number, name in enumerate(COCO_NAMES, 1) if name == UNUSED),
)
"""COCO's categories, each labelled by its number, as in torchvision's published weights: 91 labels."""
EDGES = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
PERSON = Categories((BACKGROUND, "person"), (NOWHERE, 1), keypoints=KEYPOINTS, skeleton=EDGES)
"""The one category of COCO's keypoints."""
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""PASCAL VOC's classes."""
