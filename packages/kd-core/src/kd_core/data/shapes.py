"""Shapes of instances as COCO's annotations write them: polygons, and run lengths down the columns of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = Mapping[str, Any] | list[NDArray[np.float64]]
"""One instance: run lengths as COCO writes them, or polygons of x, y, x, y, ..."""
FAR = 100_000
"""Pixels from the corner of an image, beyond which no polygon has a point."""
POINTS = 3
"""A polygon has at least so many points."""


def shape_of(segmentation: Any) -> Shape:
    """An instance as it is kept: polygons as arrays, which take a tenth of the memory of lists.

    Polygons of less than three points or of no area, and run lengths without a pixel, are left out; empty where
    nothing is left.
    ValueError where it is neither run lengths nor polygons.
    """
    if isinstance(segmentation, Mapping):
        return runs_of(segmentation)
    if not isinstance(segmentation, list):
        raise ValueError(f"has a 'segmentation' that is neither polygons nor run lengths: {segmentation!r}"[:120])
    polygons = [np.asarray(polygon, np.float64) for polygon in segmentation]
    for polygon in polygons:
        if polygon.ndim != 1 or len(polygon) % 2:
            raise ValueError(f"has a polygon of {polygon.size} numbers: it takes x and y of each point")
        if not (np.abs(polygon) <= FAR).all():
            raise ValueError(f"has a polygon with a point that is more than {FAR:,} pixels away, or nowhere")
    return [polygon for polygon in polygons if len(polygon) >= 2 * POINTS and doubled_area(polygon)]


def runs_of(segmentation: Mapping[str, Any]) -> Shape:
    """Run lengths as numbers, empty where they have no pixel; ValueError for a text that COCO does not write."""
    size, counts = segmentation["size"], segmentation["counts"]
    counts = counts_of(counts) if isinstance(counts, str) else counts
    empty = isinstance(counts, list) and not any(counts[1::2])
    return [] if empty else {"size": size, "counts": counts}


def doubled_area(polygon: NDArray[np.float64]) -> float:
    """Twice the area of a polygon (2 N,), negative where it runs the other way round (the shoelace formula)."""
    x, y = polygon[::2] - polygon[0], polygon[1::2] - polygon[1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def counts_of(text: str) -> list[int]:
    """Run lengths in COCO's short form: numbers of five bits a character, from the fourth on less the one two before.

    ValueError for a text that COCO's encoder does not write.
    """
    counts: list[int] = []
    number = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("has run lengths in a text that COCO's encoder does not write")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more of this number
            continue
        number -= (1 << shift) if bits & 16 else 0
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift or any(count < 0 for count in counts):
        raise ValueError("has run lengths in a text that COCO's encoder does not write")
    return counts


def pixels_of(shape: Shape, height: int, width: int) -> NDArray[np.uint8]:
    """The mask (height, width) of an instance, 1 inside; several polygons are one instance.

    Polygons are drawn by pycocotools, which is imported here: only packages that read such files depend on it.
    ValueError for run lengths of another size.
    """
    if not shape:  # no polygon
        return np.zeros((height, width), np.uint8)
    if isinstance(shape, Mapping):
        if list(shape["size"]) != [height, width]:
            raise ValueError(f"run lengths of {shape['size']} pixels in an image of {[height, width]}")
        if sum(shape["counts"]) != height * width:  # the rest would be any values
            raise ValueError(f"run lengths of {sum(shape['counts'])} pixels in an image of {[height, width]}")
    from pycocotools import mask as runs

    objects = runs.frPyObjects(shape, height, width)
    pixels: NDArray[np.uint8] = runs.decode(runs.merge(objects) if isinstance(objects, list) else objects)
    return pixels


def runs_from(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The run lengths of a mask (H, W), the first of them outside."""
    values = np.concatenate([[False], mask.flatten(order="F")])
    ends = np.flatnonzero(np.diff(values, append=~values[-1:]))
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}
