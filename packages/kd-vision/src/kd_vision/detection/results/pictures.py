"""Pictures of detections: boxes with captions, masks and keypoints over images, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_core.pictures import (
    BLACK,
    TEXT,
    WHITE,
    Colour,
    Pixels,
    borders,
    cut,
    drawable,
    fitted,
    font,
    length,
    line_of,
    resized,
    titled_row,
)
from kd_vision.detection.results.objects import Objects

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

MADE_BY = "kd-vision"
"""What a picture says of the command that made it."""
ALPHA = 0.4
"""How much of an object's colour lies over its mask: at the mask's border all."""
LETTERS, THINNEST = (13, 50), (2, 320)
"""Pixels of captions' letters, and of lines, at least, and the share of the longer side that they are otherwise."""
LEVELS = 10
"""Values of red, green and blue in turn among which colours of classes are chosen."""
LIGHTNESS = (45.0, 88.0)
"""The CIE L* between which colours of classes are: neither black nor white is one."""
GREYEST = 40.0
"""The chroma that colours of classes have at least."""
CROWD = "crowd"
Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Panel:
    """An image (h, w, 3) with a title and the objects to draw over it, each with its caption and its colour."""

    title: str
    image: Pixels
    objects: Objects
    captions: Sequence[str]
    colours: Sequence[Colour]


def class_panel(title: str, image: Pixels, objects: Objects, classes: Sequence[str]) -> Panel:
    """Objects in the colours of their classes, with the classes' names and the scores."""
    colours = class_colours(max(int(objects.labels.max(initial=0)) + 1, len(classes)))
    captions = [caption(objects, number, classes) for number in range(len(objects))]
    return Panel(title, image, objects, captions, [colours[label] for label in objects.labels])


def caption(objects: Objects, number: int, classes: Sequence[str]) -> str:
    """The class of an object, with its score where it has one, or the word that it is a crowd."""
    label = int(objects.labels[number])
    name = classes[label] if label < len(classes) else str(label)
    if objects.scores is not None:
        return f"{name} {objects.scores[number]:.2f}"
    return f"{name} ({CROWD})" if objects.crowds is not None and objects.crowds[number] else name


@lru_cache(maxsize=8)
def class_colours(count: int) -> tuple[Colour, ...]:
    """Colours of labels 0 .. ``count`` - 1, as different from each other as can be; the first ones do not depend on
    ``count``.

    Each is the candidate that is farthest, in CIE L*a*b*, from all before it; where candidates end they begin anew.
    """
    steps = np.linspace(0, 255, LEVELS).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = to_lab(candidates)
    fit = (lab[:, 0] >= LIGHTNESS[0]) & (lab[:, 0] <= LIGHTNESS[1]) & (np.hypot(lab[:, 1], lab[:, 2]) >= GREYEST)
    candidates, lab = candidates[fit], lab[fit]
    chosen = [int(np.hypot(lab[:, 1], lab[:, 2]).argmax())]
    nearest = np.full(len(lab), np.inf)
    while len(chosen) < min(count, len(lab)):
        nearest = np.minimum(nearest, ((lab - lab[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest.argmax()))
    colours = [tuple(map(int, candidates[number])) for number in chosen]
    return tuple(colours[number % len(colours)] for number in range(count))  # type: ignore[misc]


def to_lab(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) sRGB in 0 .. 255 -> CIE L*a*b* (IEC 61966-2-1, white D65)."""
    shares = colours / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * roots[:, 1] - 16, 500 * (roots[:, 0] - roots[:, 1]), 200 * (roots[:, 1] - roots[:, 2])], -1)


def side_by_side(
    panels: Sequence[Panel], *, largest: int | None = None, skeleton: Sequence[tuple[int, int]] = ()
) -> Image:
    """Panels of one image in a row under their titles, at the image's own size or scaled to ``largest`` pixels.

    Images smaller than :data:`kd_core.pictures.SMALLEST` are enlarged. ``skeleton`` are the keypoints that lines join.
    """
    height, width = panels[0].image.shape[:2]
    size = fitted(height, width, largest)
    text = max(TEXT, letters(*size))
    return titled_row([(panel.title, drawn(panel, size, skeleton)) for panel in panels], text=text)


def letters(height: int, width: int) -> int:
    """Pixels of the letters of captions over an image of that size."""
    return max(LETTERS[0], round(max(height, width) / LETTERS[1]))


def drawn(panel: Panel, size: tuple[int, int], skeleton: Sequence[tuple[int, int]]) -> Image:
    """A panel's image at ``size`` (height, width) with its objects, those with the highest scores on top."""
    from PIL import Image, ImageDraw

    height, width = panel.image.shape[:2]
    pixels = np.asarray(resized(panel.image, *size))
    scale = np.array([size[1] / width, size[0] / height])
    order = drawing_order(panel.objects)
    if panel.objects.masks is not None:
        pixels = with_masks(pixels, panel.objects.masks[order], [panel.colours[number] for number in order])
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    line = max(THINNEST[0], round(max(size) / THINNEST[1]))
    boxes = inside(panel.objects.boxes * np.tile(scale, 2), size)
    for number in order:
        dashed = panel.objects.crowds is not None and bool(panel.objects.crowds[number])
        draw_box(draw, boxes[number], panel.colours[number], line, dashed=dashed)
        if panel.objects.keypoints is not None:
            points = panel.objects.keypoints[number] * np.array([*scale, 1])
            points = points.clip(-max(size), 2 * max(size))
            draw_keypoints(draw, points, skeleton, panel.colours[number], line)
    write_captions(draw, panel, boxes, order[::-1], size)
    return picture


def drawing_order(objects: Objects) -> list[int]:
    """Objects from the lowest score to the highest or, without scores, from the largest to the smallest."""
    if objects.scores is not None:
        return np.argsort(objects.scores, kind="stable").tolist()
    sides = objects.boxes[:, 2:].astype(np.float64) - objects.boxes[:, :2]
    return np.argsort(-sides.prod(1), kind="stable").tolist()


def with_masks(image: Pixels, masks: NDArray[np.bool_], colours: Sequence[Colour]) -> Pixels:
    """An image (H, W, 3) with masks (n, h, w) over it, each in its colour, in their order; borders cover all."""
    mixed = image.copy()
    rows, columns = (np.arange(want) * have // want for have, want in zip(masks.shape[1:], image.shape, strict=False))
    for mask, colour in zip(masks, colours, strict=True):
        down, across = extent(mask.any(1)[rows]), extent(mask.any(0)[columns])
        scaled, part = mask[rows[down]][:, columns[across]], mixed[down, across]
        part[scaled] = np.round((1 - ALPHA) * part[scaled] + ALPHA * np.array(colour))
        part[borders(np.pad(scaled, 1))[1:-1, 1:-1] & scaled] = colour
    return mixed


def extent(there: NDArray[np.bool_]) -> slice:
    """From the first true value to the last one."""
    places = np.flatnonzero(there)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0)


def inside(boxes: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.floating]:
    """Boxes (n, 4) as far as they are in an image of ``size`` (height, width), the smaller edges first."""
    pairs = np.sort(boxes.reshape(-1, 2, 2), 1)  # x and y of two corners
    return pairs.clip(0, [size[1] - 1, size[0] - 1]).reshape(-1, 4)


def draw_box(draw: ImageDraw, box: NDArray[np.floating], colour: Colour, line: int, *, dashed: bool = False) -> None:
    """The outline of a box that is in the image, in dashes where it is a crowd's."""
    left, top, right, bottom = box.round().astype(int).tolist()
    if not dashed:
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        return
    dash = 4 * line
    for x in range(left, right, 2 * dash):
        for y in (top, max(bottom - line + 1, top)):
            draw.rectangle((x, y, min(x + dash, right), y + line - 1), fill=colour)
    for y in range(top, bottom, 2 * dash):
        for x in (left, max(right - line + 1, left)):
            draw.rectangle((x, y, x + line - 1, min(y + dash, bottom)), fill=colour)


def draw_keypoints(
    draw: ImageDraw,
    points: NDArray[np.floating],
    skeleton: Sequence[tuple[int, int]],
    colour: Colour,
    line: int,
) -> None:
    """Points (K, 3) x, y, visibility, and lines between those that are there; hidden ones (visibility 1) are hollow."""
    for first, second in skeleton:
        if points[first, 2] > 0 and points[second, 2] > 0:
            draw.line((*points[first, :2], *points[second, :2]), fill=colour, width=line)
    radius = line + 1
    for x, y, visibility in points.tolist():
        if visibility > 0:
            fill = colour if visibility > 1 else None
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=WHITE)


def write_captions(
    draw: ImageDraw, panel: Panel, boxes: NDArray[np.floating], order: Sequence[int], size: tuple[int, int]
) -> None:
    """Captions at their boxes, on the objects' colours; where there is room none covers another.

    The first in ``order`` have the first choice of a place, and lie on top.
    """
    text = letters(*size)
    pad, high = max(text // 6, 1), line_of(text)
    words = {number: cut(panel.captions[number], text, size[1] - 2 * pad) for number in order}
    places: dict[int, Rectangle] = {}
    for number in order:
        needed = (high, length(words[number], text) + 2 * pad)
        places[number] = free_place(boxes[number], needed, size, list(places.values()))
    for number, place in reversed(places.items()):
        draw.rectangle(place, fill=panel.colours[number])
        at = (place[0] + pad, place[1] + (high - text * 5 // 4) // 2)
        draw.text(at, drawable(words[number], text), fill=ink_on(panel.colours[number]), font=font(text))


def free_place(
    box: NDArray[np.floating], needed: tuple[int, int], size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where in an image of ``size`` a caption of ``needed`` (height, width) goes: above its box, or the first of the
    places within and below it where it covers least of others."""
    high, wide = needed
    left, top, right, bottom = box.round().astype(int).tolist()
    places = [
        *((x, y) for y in (top - high, top) for x in (left, right - wide)),
        *((x, y) for y in (bottom, bottom - high) for x in (left, right - wide)),
        *((left, y) for y in range(top + high, bottom - 2 * high, high)),
    ]
    rectangles = []
    for x, y in places:
        x, y = max(min(x, size[1] - wide), 0), max(min(y, size[0] - high), 0)
        rectangles.append((x, y, x + wide - 1, y + high - 1))
    return min(rectangles, key=lambda place: sum(common(place, other) for other in taken))


def common(first: Rectangle, second: Rectangle) -> int:
    """The pixels that two rectangles have in common."""
    sides = (min(first[axis + 2], second[axis + 2]) - max(first[axis], second[axis]) + 1 for axis in (0, 1))
    return math.prod(max(side, 0) for side in sides)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour."""
    return BLACK if to_lab(np.array([colour], np.float64))[0, 0] > 60 else WHITE
