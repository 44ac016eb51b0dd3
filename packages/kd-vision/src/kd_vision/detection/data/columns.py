"""The entries of an annotation file in columns, as they are read: a large file has a million of them."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from struct import Struct
from struct import error as StructError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_vision.detection.data.shape_columns import ShapeColumns

ENTRY = np.dtype(
    [
        *(("place", "<i8"), ("image", "<i8"), ("category", "<i8"), ("number", "<i8")),
        *(("box", "<f8", 4), ("area", "<f8"), ("crowd", "u1")),
    ]
)
"""An annotation: its place in the list, image, category and own number (-1: none), x y width height, area, crowd."""
UNNAMED = -1


class EntryColumns:
    """Annotations, and in words what is wrong with those that cannot be kept: ``faults``, by their place."""

    def __init__(self, *, masks: bool, keypoints: bool) -> None:
        self._packed = bytearray()
        self._pack = Struct("<qqqqdddddB").pack
        self.shapes = ShapeColumns() if masks else None
        self.points = array("f") if keypoints else None
        self._counts = array("q")
        self._has_rest = masks or keypoints
        self.faults: dict[int, str] = {}

    def add(self, place: int, entry: Any) -> None:
        """One annotation."""
        try:
            try:
                record = self._record(place, entry)
            except (KeyError, TypeError, ValueError, AttributeError, StructError, OverflowError):
                record = self._record(place, _typed(entry))
            if self._has_rest:
                self._add_rest(entry)
        except ValueError as error:
            self.faults[place] = f"{named(entry, place)} {error}"
        else:
            self._packed += record

    def _record(self, place: int, entry: Mapping[str, Any]) -> bytes:
        x, y, width, height = entry["bbox"]
        number, area = entry.get("id"), entry.get("area")
        return self._pack(
            place,
            entry["image_id"],
            entry["category_id"],
            UNNAMED if number is None else number,
            *(x, y, width, height),
            width * height if area is None else area,
            entry.get("iscrowd", 0),
        )

    def _add_rest(self, entry: Mapping[str, Any]) -> None:
        """The shape and the keypoints; ValueError where they cannot be kept, and then neither of them is."""
        if self.points is None:
            assert self.shapes is not None
            self.shapes.add(entry)
            return
        kept = array("f")
        try:
            kept.fromlist(entry.get("keypoints") or [])
        except (TypeError, OverflowError):
            raise ValueError("has 'keypoints' that are not a list of numbers") from None
        if self.shapes is not None:
            self.shapes.add(entry)
        self.points.extend(kept)
        self._counts.append(len(kept))

    @property
    def entries(self) -> NDArray[Any]:
        """(M,) of :data:`ENTRY`."""
        return np.frombuffer(self._packed, ENTRY)

    def keypoints(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(M, ``number``, 3), zero where an annotation has none, and whether it has another number of them (M,)."""
        counts = np.frombuffer(self._counts, np.int64) if len(self._counts) else np.zeros(0, np.int64)
        values = np.frombuffer(self.points or array("f"), np.float32) if self.points else np.zeros(0, np.float32)
        keypoints = np.zeros((len(counts), 3 * number), np.float32)
        right = counts == 3 * number
        keypoints[right] = values[np.repeat(right, counts)].reshape(-1, 3 * number)
        return keypoints.reshape(-1, number, 3), ~right & (counts > 0)


def _typed(entry: Any) -> dict[str, Any]:
    """An annotation whose numbers have the right types: 3.0 is 3. ValueError that says what has another type."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"is not a mapping but {json.dumps(entry)[:60]}")
    typed = {key: integer_of(entry, key) for key in ("image_id", "category_id")}
    typed["id"] = UNNAMED if entry.get("id") is None else integer_of(entry, "id")
    typed["iscrowd"] = integer_of(entry, "iscrowd") if "iscrowd" in entry else 0
    if typed["iscrowd"] not in (0, 1):
        raise ValueError(f"has an 'iscrowd' of {typed['iscrowd']}: it is 0 or 1")
    box = entry.get("bbox")
    if "bbox" not in entry:
        raise ValueError("has no 'bbox'")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
        raise ValueError(f"has a 'bbox' that is not four numbers but {json.dumps(box)[:60]}")
    area = entry.get("area")
    if area is not None and not is_number(area):
        raise ValueError(f"has an 'area' that is not a number but {json.dumps(area)[:60]}")
    return {**typed, "bbox": [float(value) for value in box], "area": None if area is None else float(area)}


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number that a float holds."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1e300)


def integer_of(entry: Mapping[str, Any], key: str) -> int:
    """A whole number below ``key``; ValueError where there is none."""
    if key not in entry:
        raise ValueError(f"has no {key!r}")
    value = entry[key]
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if not isinstance(value, int) or abs(value) >= 1 << 63:
        raise ValueError(
            f"has {'an' if key[0] in 'aei' else 'a'} {key!r} that is not an integer but {json.dumps(value)[:60]}"
        )
    return value


def named(entry: Any, place: int) -> str:
    """An annotation by its number, or by its place in the list."""
    if isinstance(entry, Mapping) and entry.get("id") is not None:
        return f"annotation {str(entry['id'])[:40]}"
    return f"annotation {place} of the list 'annotations'"
