"""Pictures that commands write: images side by side under titles, text in them, and PNG files that say who made them.

Pillow is imported when something is drawn: only the packages whose samples are images depend on it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_core.files import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Pixels = NDArray[np.uint8]
"""(height, width, 3) in RGB."""
Colour = tuple[int, int, int]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SMALLEST, LARGEST = 320, 640
"""Pixels between which the longer side of a panel is."""
MARGIN, GAP, LINE, TEXT = 14, 12, 26, 17
"""Pixels around a picture, between its parts, of a line of text, and of its letters."""
SOFTWARE = "Software"
"""The entry of a PNG file that names the command that made it."""


def save(picture: Image, path: Path, made_by: str) -> None:
    """Write a picture as PNG, all of it or nothing, with the name of the command that made it."""
    write_bytes(path, png(picture, made_by))


def png(picture: Image, made_by: str) -> bytes:
    """A picture as a PNG file, with the name of the command that made it."""
    from PIL.PngImagePlugin import PngInfo

    content, about = io.BytesIO(), PngInfo()
    about.add_text(SOFTWARE, made_by)
    picture.save(content, "PNG", pnginfo=about)
    return content.getvalue()


def saved_by(path: Path, made_by: str) -> bool:
    """Whether a file is a picture that :func:`save` made for that command."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.info.get(SOFTWARE) == made_by
    except Exception:  # of a file that is no picture
        return False


def fitted(height: int, width: int, largest: int | None = LARGEST) -> tuple[int, int]:
    """The size of a panel for an image of that size: small ones are enlarged by a whole number, large ones scaled to
    ``largest`` or, with None, left as they are."""
    longer = max(height, width)
    if longer < SMALLEST:
        times = -(-SMALLEST // longer)
        return height * times, width * times
    share = 1 if largest is None else min(largest / longer, 1)
    return max(round(height * share), 1), max(round(width * share), 1)


def resized(image: Pixels, height: int, width: int) -> Image:
    """An image of another size; enlarged ones keep their pixels as squares."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.size == (width, height):
        return picture
    way = Image.Resampling.NEAREST if picture.width < width else Image.Resampling.BILINEAR
    return picture.resize((width, height), way)


def borders(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W): where one of the four pixels beside a pixel has another class."""
    edges = np.zeros(mask.shape, bool)
    down, across = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    return edges


def titled_row(panels: Sequence[tuple[str, Image]], *, text: int = TEXT, below: int = 0) -> Image:
    """Images of one size in a row on white, each under its title in letters of ``text`` pixels.

    ``below`` pixels are left free under them. The panels begin :data:`MARGIN` from the left and :data:`MARGIN` and a
    line from the top, :data:`GAP` apart.
    """
    from PIL import Image, ImageDraw

    width, height = panels[0][1].size
    top = MARGIN + line_of(text)
    across = max(len(panels) * (width + GAP) - GAP, SMALLEST)
    picture = Image.new("RGB", (across + 2 * MARGIN, top + height + below + MARGIN), WHITE)
    draw = ImageDraw.Draw(picture)
    for number, (title, panel) in enumerate(panels):
        left = MARGIN + number * (width + GAP)
        write(draw, (left, MARGIN), title, text, width)
        picture.paste(panel, (left, top))
    return picture


def line_of(text: int) -> int:
    """Pixels of a line of letters of that many pixels."""
    return text * LINE // TEXT


@lru_cache(maxsize=64)
def font(size: int) -> Any:
    """Pillow's own font: before Pillow 10.1, or where Pillow was built without FreeType, of one size alone."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):
        return ImageFont.load_default()


def length(text: str, size: int) -> int:
    """Pixels that a text takes."""
    from PIL import Image, ImageDraw

    return int(np.ceil(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(drawable(text, size), font(size))))


def drawable(text: str, size: int) -> str:
    """A text in one line, and in letters that the font has if it has but few."""
    line = " ".join(text.split())
    return line if hasattr(font(size), "path") else line.encode("latin-1", "replace").decode("latin-1")


def cut(text: str, size: int, room: int) -> str:
    """A text shortened to so many pixels."""
    if length(text, size) <= room:
        return text
    while text and length(f"{text}..", size) > room:
        text = text[:-1]
    return f"{text}.."


def write(draw: ImageDraw, at: tuple[int, int], text: str, size: int, room: int, fill: Colour = BLACK) -> None:
    """A text from a place on, cut where there is no more room."""
    draw.text(at, drawable(cut(text, size, room), size), fill=fill, font=font(size))
