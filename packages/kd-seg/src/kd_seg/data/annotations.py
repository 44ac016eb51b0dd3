"""A file of COCO's instance annotations: what it says of each image, or in words what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError

Shape = Mapping[str, Any] | list[NDArray[np.float64]]
"""One instance: run lengths as COCO writes them, or polygons of x, y, x, y, ..."""
FORM = "COCO's instance annotations are a mapping with the lists 'images' and 'annotations'"


@dataclass
class ImageEntry:
    """An image's file and, where the annotations tell it, its (width, height); the instances of some categories.

    ``shapes`` and ``areas`` go with ``categories``; ``boxed``: an instance of any category has a box of more than a
    pixel in width and height.
    """

    file: str
    size: tuple[int, int] | None
    categories: list[int] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    boxed: bool = False


def parse(text: bytes, categories: Sequence[int], *, boxes: bool) -> list[ImageEntry]:
    """The images of a file in the order of their numbers, with their instances of ``categories``.

    ``boxes``: look at the boxes of all instances. KDError that says which entry is wrong, and why.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise KDError(f"is not JSON: {error}") from error
    lists = [content.get(key) if isinstance(content, Mapping) else None for key in ("images", "annotations")]
    if not all(isinstance(entries, list) for entries in lists):
        raise KDError(f"has other content: {FORM}")
    images = _images(lists[0] or [])
    for position, entry in enumerate(lists[1] or []):
        try:
            _add(images, entry, categories, boxes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KDError(f"{_named(entry, position)} {_reason(error)}") from error
    return list(images.values())


def _images(entries: Sequence[Any]) -> dict[int, ImageEntry]:
    images = {}
    for position, entry in enumerate(entries):
        try:
            size = (int(entry["width"]), int(entry["height"])) if {"width", "height"} <= entry.keys() else None
            images[int(entry["id"])] = ImageEntry(str(entry["file_name"]), size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KDError(f"image {position} of the list 'images' {_reason(error)}") from error
    return {number: images[number] for number in sorted(images)}


def _add(images: Mapping[int, ImageEntry], entry: Mapping[str, Any], categories: Sequence[int], boxes: bool) -> None:
    number, category = int(entry["image_id"]), int(entry["category_id"])
    if number not in images:
        raise ValueError(f"is of the image {number}, which the list 'images' does not have")
    image = images[number]
    if boxes and min(entry["bbox"][2:]) > 1:
        image.boxed = True
    if category in categories:
        image.shapes.append(shape_of(entry["segmentation"]))
        image.areas.append(float(entry["area"]))
        image.categories.append(category)


def shape_of(segmentation: Any) -> Shape:
    """An instance as it is kept: polygons as arrays, which take a tenth of the memory of lists.

    ValueError where it is neither run lengths nor polygons of three points at least.
    """
    if isinstance(segmentation, Mapping):
        return {"size": segmentation["size"], "counts": segmentation["counts"]}
    if not isinstance(segmentation, list):
        raise ValueError(f"has a 'segmentation' that is neither polygons nor run lengths: {segmentation!r}"[:120])
    polygons = [np.asarray(polygon, np.float64) for polygon in segmentation]
    for polygon in polygons:
        if polygon.ndim != 1 or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"has a polygon of {polygon.size} numbers: it takes three points or more, x and y of each")
    return polygons


def _named(entry: Any, position: int) -> str:
    """An annotation by its number, or by its place in the list."""
    if isinstance(entry, Mapping) and "id" in entry:
        return f"annotation {entry['id']}"
    return f"annotation {position} of the list 'annotations'"


def _reason(error: Exception) -> str:
    """In words, what a KeyError or another error of a lookup says of an entry."""
    if isinstance(error, KeyError):
        return f"has no {error}"
    text = str(error)
    return text if text.startswith(("is ", "has ")) else f"has a value of another type: {text}"
