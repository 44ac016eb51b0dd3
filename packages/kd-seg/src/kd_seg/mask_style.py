"""How the masks that a student learned from are written, so that those that it predicts are written alike."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_core.data.images import open_image
from kd_core.errors import KDError
from kd_core.files import json_text, write_text
from kd_seg.data.image_files import FilePairs

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "masks.json"
"""In a student's folder."""


@dataclass(frozen=True)
class MaskStyle:
    """``values`` are those of the classes, in their order; ``palette`` the colours of values 0, 1, ..., or None."""

    values: tuple[int, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None

    def picture(self, mask: NDArray[np.integer[Any]]) -> Image:
        """Classes (H, W) as such a mask."""
        from PIL import Image

        values = np.asarray(self.values)[mask]
        if max(self.values) > 255:
            return Image.fromarray(values.astype(np.uint16))
        picture = Image.fromarray(values.astype(np.uint8))
        if self.palette is not None:
            picture.putpalette(bytes(part for colour in self.palette for part in colour))
        return picture

    def save(self, folder: Path) -> None:
        """Write it into a student's folder."""
        write_text(folder / FILE, json_text(asdict(self)) + "\n")


def style_of(pairs: object) -> MaskStyle | None:
    """That of the masks in files, the palette of the first one; None where masks are no files, or hold ids and no more.

    Masks of ids in grey are predicted with a palette of colours, which changes no value and shows them.
    """
    if not isinstance(pairs, FilePairs) or not len(pairs.pairs):
        return None
    table = pairs.values.table
    values = [int(np.flatnonzero(table == number)[0]) for number in range(int(table.max()) + 1)]
    mask = open_image(pairs.pairs[0].mask)
    colours = None
    if mask.mode == "P" and (flat := mask.getpalette("RGB")):
        colours = tuple((flat[start], flat[start + 1], flat[start + 2]) for start in range(0, len(flat) - 2, 3))
    if colours is None and values == list(range(len(values))):
        return None
    return MaskStyle(tuple(values), colours)


def read_style(folder: Path) -> MaskStyle | None:
    """What :meth:`MaskStyle.save` wrote into a student's folder; None without it, KDError where it is damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        told = json.loads(file.read_text(encoding="utf-8"))
        values = tuple(_number(value, 65535) for value in told["values"])
        palette = told["palette"]
        if palette is not None:
            red_green_blue = ((red, green, blue) for red, green, blue in palette[:256])
            palette = tuple(tuple(_number(part, 255) for part in colour) for colour in red_green_blue)
        if values:
            return MaskStyle(values, palette)
    raise KDError(f"{file} is damaged", hint="without the file, masks are written with the colours of PASCAL VOC")


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(value)
    return value
