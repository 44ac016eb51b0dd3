"""A file of COCO's instance annotations: what it says of each image, or in words what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_core.data.shapes import Shape, shape_of
from kd_core.errors import KDError

ALL = range(1, 91)
"""The numbers of COCO's categories, ten of which it does not use."""
FORM = "COCO's instance annotations are a mapping with the lists 'images' and 'annotations'"


@dataclass
class ImageEntry:
    """An image's file and, where the annotations tell it, its (width, height); the instances of some categories.

    ``shapes`` and ``areas`` go with ``categories``; ``boxed``: an instance of any category has a box of more than a
    pixel in width and height. ``undrawn`` and ``unknown`` name annotations whose shapes have no pixel, and those of a
    category that there is not.
    """

    file: str
    size: tuple[int, int] | None
    categories: list[int] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    boxed: bool = False
    undrawn: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def parse(text: bytes, categories: Mapping[int, str], *, boxes: bool) -> list[ImageEntry]:
    """The images of a file in the order of their numbers, with their instances of ``categories``, number -> name.

    ``boxes``: look at the boxes of all instances. KDError that says which entry is wrong, and why, and where the file
    gives a category another name than COCO does.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise KDError(f"is not JSON: {error}") from error
    lists = [content.get(key) if isinstance(content, Mapping) else None for key in ("images", "annotations")]
    if not all(isinstance(entries, list) for entries in lists):
        raise KDError(f"has other content: {FORM}")
    images, known = _images(lists[0] or []), _known(content.get("categories"), categories)
    for position, entry in enumerate(lists[1] or []):
        try:
            image = _image_of(images, entry)
            if int(entry["category_id"]) not in known:
                image.unknown.append(_named(entry, position))
            elif not _add(image, entry, categories, boxes):
                image.undrawn.append(_named(entry, position))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise KDError(f"{_named(entry, position)} {_reason(error)}") from error
    return list(images.values())


def _images(entries: Sequence[Any]) -> dict[int, ImageEntry]:
    images = {}
    for position, entry in enumerate(entries):
        try:
            size = (int(entry["width"]), int(entry["height"])) if {"width", "height"} <= entry.keys() else None
            images[int(entry["id"])] = ImageEntry(str(entry["file_name"]), size)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise KDError(f"image {position} of the list 'images' {_reason(error)}") from error
    return {number: images[number] for number in sorted(images)}


def _known(entries: Any, categories: Mapping[int, str]) -> Collection[int]:
    """The numbers of the categories that there are: those of the file or, where it lists none, COCO's.

    KDError where the file has another name for one of ``categories``.
    """
    if not entries:
        return ALL
    if not isinstance(entries, list):
        raise KDError(f"has 'categories' that are no list: {FORM}")
    names = {}
    for position, entry in enumerate(entries):
        try:
            names[int(entry["id"])] = str(entry.get("name", ""))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise KDError(f"category {position} of the list 'categories' {_reason(error)}") from error
    for number, name in names.items():
        if name and name != categories.get(number, name):
            message = f"has the category {number} {name!r}, which in COCO is {categories[number]!r}"
            raise KDError(message, hint="masks of your own classes are read as `folders`")
    return names.keys()


def _image_of(images: Mapping[int, ImageEntry], entry: Mapping[str, Any]) -> ImageEntry:
    number = int(entry["image_id"])
    if number not in images:
        raise ValueError(f"is of the image {number}, which the list 'images' does not have")
    return images[number]


def _add(image: ImageEntry, entry: Mapping[str, Any], categories: Mapping[int, str], boxes: bool) -> bool:
    """Whether an annotation, added to its image where it is of ``categories``, is of others, or has a shape."""
    if boxes and min(entry["bbox"][2:]) > 1:
        image.boxed = True
    category = int(entry["category_id"])
    if category not in categories:
        return True
    image.shapes.append(shape_of(entry["segmentation"]))
    image.areas.append(float(entry["area"]))
    image.categories.append(category)
    return bool(image.shapes[-1])


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
