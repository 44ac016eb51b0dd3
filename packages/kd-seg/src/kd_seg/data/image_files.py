"""Images and masks on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError
from kd_seg.data.sources import VOID

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Modes in which a pixel is one value: of a palette picture its index, whatever its colour."""


def read_image(path: Path) -> Image:
    """An image in RGB; KDError naming the file where it is none."""
    return open_image(path).convert("RGB")


def open_image(path: Path) -> Image:
    """A picture with its pixels read; KDError naming the file."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise KDError(f"{path}: is not a readable image ({type(error).__name__}: {error})") from error


def read_values(path: Path) -> NDArray[np.int64]:
    """The values (H, W) in a mask file: KDError for a picture of colours."""
    picture = open_image(path)
    if picture.mode in GREY:
        return np.asarray(picture).astype(np.int64)
    channels = np.asarray(picture)
    if (
        picture.mode in ("RGB", "RGBA", "LA")
        and (channels[..., :1] == channels[..., : 1 if picture.mode == "LA" else 3]).all()
    ):
        return channels[..., 0].astype(np.int64)
    hint = "save masks with a palette, or in grey: a pixel's value is its class"
    raise KDError(f"{path}: is a colour image ({picture.mode}), not a mask of class ids", hint=hint)


@dataclass(frozen=True)
class ClassTable:
    """A table from the values in masks to classes or :data:`VOID`; a value that is not in it is an error."""

    table: NDArray[np.int16]
    """(N,): the class of each value, :data:`UNKNOWN` for one that has none."""

    def of(self, values: NDArray[np.int64], path: Path) -> NDArray[np.int16]:
        """Classes (H, W); KDError naming the file and the first value without a class."""
        last = len(self.table) - 1
        mask = self.table[np.clip(values, 0, last)]
        wrong = (mask == UNKNOWN) | (values < 0) | (values > last)
        if wrong.any():
            value = int(values[wrong].min())
            class_values = np.flatnonzero(self.table >= 0)
            void = np.flatnonzero(self.table == VOID).tolist()
            listed = f" and {', '.join(map(str, void))} for void" if 0 < len(void) < 4 else ""
            classes = f"{class_values[0]} .. {class_values[-1]}{listed}"
            raise KDError(f"{path}: holds the value {value}, which is not a class; there are {classes}")
        return mask


UNKNOWN = np.int16(-1)


def identity_values(num_classes: int, void: int | Sequence[int]) -> ClassTable:
    """Masks in which the value is the class, and some values are void, whatever else they would be."""
    voids = [void] if isinstance(void, int) else list(void)
    table = np.full(max([num_classes - 1, *voids]) + 1, UNKNOWN, np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[voids] = VOID
    return ClassTable(table)


@dataclass(frozen=True)
class Pair:
    """The two files of a sample."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class FilePairs:
    """Images and masks in files. KDError, naming the first one, where a file is missing."""

    pairs: Sequence[Pair]
    values: ClassTable
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        state = hashlib.sha256(self.values.table.tobytes())
        for pair in self.pairs:
            for path in (pair.image, pair.mask):
                try:
                    size = path.stat().st_size
                except OSError:
                    raise KDError(f"there is no file {path}, which {pair.name} needs") from None
                state.update(f"{pair.name}\0{path.name}\0{size}\n".encode())
        object.__setattr__(self, "fingerprint", state.hexdigest()[:16])

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, row: int) -> str:
        """The name of the image, without its ending."""
        return self.pairs[row].name

    def read(self, row: int) -> tuple[Any, NDArray[np.int16]]:
        """An RGB image and its mask; KDError where one is broken or they differ in size."""
        pair = self.pairs[row]
        image = read_image(pair.image)
        mask = self.values.of(read_values(pair.mask), pair.mask)
        check_same_size(pair.mask, mask, image)
        return image, mask


def check_same_size(path: Path, mask: NDArray[np.int16], image: Image) -> None:
    """KDError where a mask has not its image's size."""
    if mask.shape != image.size[::-1]:
        height, width = mask.shape
        raise KDError(f"{path}: is {width} x {height} pixels, its image {image.width} x {image.height}")


def names_in(path: Path) -> list[str]:
    """The names in a list file, one a line; KDError where it is missing or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise KDError(
            f"{path}: is not a readable list of names ({getattr(error, 'strerror', None) or error})"
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise KDError(f"{path}: lists no image")
    return names
