"""Pictures of segmentation: masks over images side by side with a legend, and confusion matrices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_core.pictures import (
    BLACK,
    GAP,
    LINE,
    MARGIN,
    SMALLEST,
    TEXT,
    WHITE,
    borders,
    cut,
    fitted,
    length,
    resized,
    titled_row,
    write,
)
from kd_seg.data.sources import VOID
from kd_seg.data.transforms import Mask, Pixels, under

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

GREY, PALE = (128, 128, 128), (225, 225, 225)
ALPHA = 0.6
"""How much of a class's colour lies over the image: of the first one's, which is black, half as much, and at the
borders of classes all."""
STRIPE = 3
"""Pixels of a stripe: void is hatched in white and grey, where a class is of one colour."""
CELLS = (18, 96)
"""Pixels of a cell of a confusion matrix, unless that makes it larger than :data:`WIDEST`."""
ROOM, WIDEST = 960, 4000
"""Pixels that the cells take where they can choose, and at most."""
LABEL = 200
"""At most so many pixels for the name of a class beside a confusion matrix."""
SHADES = ((0.0, WHITE), (0.1, (222, 235, 247)), (0.4, (107, 174, 214)), (0.7, (33, 113, 181)), (1.0, (8, 48, 107)))
"""Colours of shares in a confusion matrix; those between them are mixed."""
HEADING = ("rows: the true class, columns: what was predicted", "percent of the pixels of the true class")
MADE_BY = "kd-seg"
"""What a picture says of the command that made it."""
NONE = "; grey: no true pixels"


@dataclass(frozen=True)
class Panel:
    """An image (h, w, 3) with a title and, where ``mask`` (H, W) is given, classes over it, whatever the two sizes."""

    title: str
    image: Pixels
    mask: Mask | None = None


def colour_map(count: int) -> Pixels:
    """(count, 3) colours of classes, as the VOC devkit makes them: the bits of the number in turn go to red, green and
    blue, from the highest bit of each down."""
    number = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((number >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def painted(mask: Mask) -> Pixels:
    """(H, W, 3): each pixel in its class's colour, void hatched."""
    height, width = mask.shape
    stripes = (np.arange(height)[:, None] + np.arange(width)) // STRIPE % 2
    hatched = np.array([WHITE, GREY], np.uint8)[stripes]
    colours = colour_map(max(int(mask.max(initial=0)), 0) + 1)
    return np.where((mask < 0)[..., None], hatched, colours[np.maximum(mask, 0)])


def overlay(image: Pixels, mask: Mask, alpha: float = ALPHA) -> Pixels:
    """An image (H, W, 3) with a mask (H, W) over it, ``alpha`` of its colours, half of that of class 0's black.

    Void and the borders of classes cover what lies below.
    """
    colours = painted(mask)
    share = np.where(mask == 0, alpha / 2, alpha)[..., None]
    mixed = np.round((1 - share) * image + share * colours).astype(np.uint8)
    return np.where((borders(mask) | (mask < 0))[..., None], colours, mixed)


def palette_mask(mask: Mask) -> Image:
    """Classes (H, W) as a picture whose values they are: with VOC's palette, or 16 bits of grey where that ends."""
    from PIL import Image

    if int(mask.max(initial=0)) > 255:
        return Image.fromarray(mask.astype(np.uint16))
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(colour_map(256).tobytes())
    return picture


def side_by_side(panels: Sequence[Panel], classes: Sequence[str]) -> Image:
    """Panels in a row with their titles, of one size, and a legend of the classes that occur in their masks.

    Small images are enlarged, large ones scaled down; masks are scaled without new values.
    """
    from PIL import Image, ImageDraw

    first = panels[0].image if panels[0].mask is None else panels[0].mask
    height, width = fitted(*first.shape[:2])
    across = max(len(panels) * (width + GAP) - GAP, SMALLEST)
    entries = legend({kind for panel in panels if panel.mask is not None for kind in np.unique(panel.mask)}, classes)
    places = list(flow([name for name, _ in entries], across))
    lines = places[-1][1] + 1 if places else 0
    rows = [(panel.title, Image.fromarray(shown(panel, height, width))) for panel in panels]
    picture = titled_row(rows, below=GAP + lines * LINE if lines else 0)
    draw = ImageDraw.Draw(picture)
    for (name, colours), (left, line) in zip(entries, places, strict=True):
        at = (MARGIN + left, MARGIN + LINE + height + GAP + line * LINE)
        draw.rectangle((at[0], at[1] + 2, at[0] + TEXT + 5, at[1] + TEXT + 3), outline=GREY)
        picture.paste(Image.fromarray(colours), (at[0] + 1, at[1] + 3))
        write(draw, (at[0] + TEXT + 12, at[1]), name, TEXT, across - TEXT - 12)
    return picture


def shown(panel: Panel, height: int, width: int) -> Pixels:
    """(height, width, 3): a panel's image with its mask over it."""
    pixels = np.asarray(resized(panel.image, height, width))
    if panel.mask is None:
        return pixels
    rows, columns = (under(have, want) for have, want in zip(panel.mask.shape, (height, width), strict=True))
    return overlay(pixels, panel.mask[rows][:, columns])


def legend(seen: Collection[int], classes: Sequence[str]) -> list[tuple[str, Pixels]]:
    """The names of classes with a patch of each one's colour, void last."""
    size = (TEXT, TEXT + 4)
    named = [(classes[kind], painted(np.full(size, kind, np.int16))) for kind in sorted(seen) if kind >= 0]
    return named + ([("void", painted(np.full(size, VOID, np.int16)))] if any(kind < 0 for kind in seen) else [])


def flow(names: Sequence[str], across: int) -> Iterator[tuple[int, int]]:
    """The pixels from the left, and the line, at which each entry of a legend begins."""
    left = line = 0
    for name in names:
        width = TEXT + 12 + min(length(name, TEXT), across - TEXT - 12)
        if left and left + width > across:
            left, line = 0, line + 1
        yield left, line
        left += width + 2 * GAP


def confusion_picture(matrix: NDArray[np.int64], classes: Sequence[str]) -> Image:
    """Counts (C, C), truth in rows, as shares of each row: colours and, where there is room, percentages.

    A row without pixels is grey.
    """
    from PIL import Image, ImageDraw

    count = len(matrix)
    cell = max(min(CELLS[1], max(ROOM // count, CELLS[0]), WIDEST // count), 1)
    size = min(cell * 4 // 5, TEXT)
    names = [cut(name, size, LABEL) for name in classes] if size >= 7 else [""] * count
    label = max(length(name, size) for name in names) + GAP
    heading = (HEADING[0], HEADING[1] + (NONE if (matrix.sum(1) == 0).any() else ""))
    room = max(length(text, TEXT) for text in heading)
    left, top = MARGIN + label, MARGIN + len(heading) * LINE + GAP + label
    width, bar = left + count * cell, 4 * TEXT
    picture = Image.new("RGB", (max(width + bar, room + MARGIN) + MARGIN, top + count * cell + MARGIN), WHITE)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(heading):
        write(draw, (MARGIN, MARGIN + number * LINE), line, TEXT, room)
    shares = shares_of(matrix)
    picture.paste(Image.fromarray(np.repeat(np.repeat(shaded(shares), cell, 0), cell, 1)), (left, top))
    for number, name in enumerate(names):
        begin = number * cell + (cell - size * 5 // 4) // 2
        write(draw, (left - GAP // 2 - length(name, size), top + begin), name, size, LABEL)
        picture.paste(upright(name, size), (left + begin, top - GAP // 2 - length(name, size)))
    rule(draw, (left, top), count, cell)
    percentages(draw, (left, top), shares, cell)
    scale(picture, (width + GAP, top), min(count * cell, 2 * SMALLEST))
    return picture


def shares_of(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C, C) counts divided by the sums of their rows; NaN where that is 0."""
    sums = matrix.sum(1, keepdims=True)
    return np.divide(matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)


def shaded(shares: NDArray[np.float64]) -> Pixels:
    """(..., 3): the colours of shares, pale grey for NaN."""
    stops = [stop for stop, _ in SHADES]
    mixed = [np.interp(shares, stops, [shade[channel] for _, shade in SHADES]) for channel in range(3)]
    colours = np.stack([np.where(np.isnan(shares), PALE[0], band) for band in mixed], -1)
    return np.round(colours).astype(np.uint8)


def upright(text: str, size: int) -> Image:
    """A text that reads from the bottom to the top."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (max(length(text, size), 1), max(size * 5 // 4, 1)), WHITE)
    write(ImageDraw.Draw(picture), (0, 0), text, size, picture.width)
    return picture.transpose(Image.Transpose.ROTATE_90)


def rule(draw: ImageDraw, at: tuple[int, int], count: int, cell: int) -> None:
    """Lines between cells, where they are large enough, and darker ones about those of the diagonal."""
    left, top = at
    for number in range(count + 1) if cell >= CELLS[0] else (0, count):
        offset = number * cell
        draw.line((left + offset, top, left + offset, top + count * cell), fill=PALE)
        draw.line((left, top + offset, left + count * cell, top + offset), fill=PALE)
    for offset in range(0, count * cell, cell) if cell >= CELLS[0] else ():
        draw.rectangle((left + offset, top + offset, left + offset + cell, top + offset + cell), outline=GREY)


def percentages(draw: ImageDraw, at: tuple[int, int], shares: NDArray[np.float64], cell: int) -> None:
    """Shares in percent in their cells, with a decimal where there is room; none below what is shown."""
    size = min(cell // 2, TEXT)
    room = cell - 3
    digits = 1 if length("100.0", size) <= room else 0
    if cell < CELLS[0] or length("100", size) > room:
        return
    for row, column in np.argwhere(np.nan_to_num(100 * shares) >= 0.5 * 10.0**-digits).tolist():
        text = f"{100 * shares[row, column]:.{digits}f}"
        left = at[0] + column * cell + (cell - length(text, size)) // 2 + 1
        top = at[1] + row * cell + (cell - size * 5 // 4) // 2 + 1
        write(draw, (left, top), text, size, cell, WHITE if shares[row, column] > 0.5 else BLACK)


def scale(picture: Image, at: tuple[int, int], height: int) -> None:
    """A bar of the colours of shares with their percentages, from 100 at the top down to 0."""
    from PIL import Image, ImageDraw

    colours = np.repeat(shaded(np.linspace(1, 0, height)[:, None]), TEXT, 1)
    picture.paste(Image.fromarray(colours), at)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((at[0], at[1], at[0] + TEXT, at[1] + height), outline=GREY)
    size = TEXT * 3 // 4
    for percent in (100, 75, 50, 25, 0):
        down = round((height - size * 5 // 4) * (1 - percent / 100))
        write(draw, (at[0] + TEXT + 4, at[1] + down), str(percent), size, 4 * TEXT)
