"""Images and masks on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_core.data.fingerprint import FileContents
from kd_core.data.images import open_image, read_image
from kd_core.data.packed import Packed
from kd_core.data.screening import listed
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_seg.data.sources import VOID

if TYPE_CHECKING:
    from PIL.Image import Image

LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif", ".avif"}
"""Endings of mask files whose values are not those that were written."""
GREY = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Modes in which a pixel is one value: of a palette picture its index, whatever its colour."""


def read_values(path: Path) -> NDArray[Any]:
    """The values (H, W), whole numbers, in a mask file: KDError for a picture of colours."""
    return values_of(open_image(path), path)


def values_of(picture: Image, path: Path) -> NDArray[Any]:
    """The values (H, W), whole numbers, in a mask that was read from ``path``: KDError for a picture of colours."""
    if picture.mode in GREY:
        values = np.asarray(picture)
        return values.astype(np.uint8) if values.dtype == bool else values
    hint = "save masks with a palette, or in grey: a pixel's value is its class"
    if picture.mode == "F":
        raise KDError(f"{path}: holds floats, and masks hold class ids", hint=hint)
    channels = np.asarray(picture)
    if (
        picture.mode in ("RGB", "RGBA", "LA")
        and (channels[..., :1] == channels[..., : 1 if picture.mode == "LA" else 3]).all()
    ):
        return channels[..., 0]
    raise KDError(f"{path}: is a colour image ({picture.mode}), not a mask of class ids", hint=hint)


@dataclass(frozen=True)
class ClassTable:
    """A table from the values in masks to classes or :data:`VOID`; a value that is not in it is an error."""

    table: NDArray[np.int16]
    """(N,): the class of each value, :data:`UNKNOWN` for one that has none."""

    def of(self, values: NDArray[Any], path: Path) -> NDArray[np.int16]:
        """Classes (H, W) of whole numbers; KDError naming the file and the first value without a class."""
        last = len(self.table) - 1
        if values.dtype == np.uint8:
            mask = self._of_bytes.take(values)
            wrong = mask == UNKNOWN
        else:
            mask = self.table[np.clip(values, 0, last)]
            wrong = (mask == UNKNOWN) | (values < 0) | (values > last)
        if wrong.any():
            value = int(values[wrong].min())
            known = np.flatnonzero(self.table >= 0).tolist()
            void = np.flatnonzero(self.table == VOID).tolist()
            listed = f" and {', '.join(map(str, void))} for void" if 0 < len(void) < 4 else ""
            gaps = len(known) <= known[-1] - known[0]
            classes = ", ".join(map(str, known)) if gaps else f"{known[0]} .. {known[-1]}"
            raise KDError(f"{path}: holds the value {value}, which is not a class; there are {classes}{listed}")
        return mask

    @cached_property
    def _of_bytes(self) -> NDArray[np.int16]:
        """(256,): the class of each value of a byte."""
        table = np.full(256, UNKNOWN, np.int16)
        table[: len(self.table)] = self.table[:256]
        return table


UNKNOWN = np.int16(-1)


def identity_values(num_classes: int, void: int | Sequence[int]) -> ClassTable:
    """Masks in which the value is the class, and some values are void, whatever else they would be."""
    return class_values(range(num_classes), void)


def class_values(values: Sequence[int], void: int | Sequence[int]) -> ClassTable:
    """Masks in which the k-th class has the k-th of ``values``, and some values are void."""
    voids = [void] if isinstance(void, int) else list(void)
    table = np.full(max([*values, *voids]) + 1, UNKNOWN, np.int16)
    table[list(values)] = np.arange(len(values))
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
    white: float | None = None
    """The value of white in images of more than 8 bits, see :func:`kd_core.data.images.to_rgb`."""

    def __post_init__(self) -> None:
        files = ((path, pair.name) for pair in self.pairs for path in (pair.image, pair.mask))
        missing = [f"there is no file {path}, which {name} needs" for path, name in files if not path.is_file()]
        if len(missing) == 1:
            raise KDError(missing[0])
        if missing:
            raise KDError(f"{len(missing):,} files are missing:{listed(missing)}")
        object.__setattr__(self, "pairs", Packed(self.pairs))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names and contents of images and masks, and of what the masks' values mean."""
        state = hashlib.sha256(self.values.table.tobytes())
        for paths in ([pair.image for pair in self.pairs], [pair.mask for pair in self.pairs]):
            roots = {path.parent for path in paths}
            root = Path(os.path.commonpath(roots)) if roots else Path()
            state.update(str(FileContents(root, paths)).encode())
        return state.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, row: int) -> str:
        """The name of the image, without its ending."""
        return self.pairs[row].name

    def paths(self, row: int) -> tuple[Path, Path]:
        """The files of the image and of its mask."""
        return self.pairs[row].image, self.pairs[row].mask

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """A warning of masks in files whose compression changes values."""
        lossy = [path for path in (self.pairs[row].mask for row in rows.tolist()) if path.suffix.lower() in LOSSY]
        if not lossy:
            return []
        count = "1 mask is a" if len(lossy) == 1 else f"{len(lossy):,} masks are"
        text = f"{count} {lossy[0].suffix} file{'s' * (len(lossy) > 1)}, whose compression changes classes near edges"
        return [Note.warning(f"{text} ({lossy[0]}): write masks as PNG")]

    def read(self, row: int) -> tuple[Any, NDArray[np.int16]]:
        """An RGB image and its mask; KDError where one is broken or they differ in size."""
        pair = self.pairs[row]
        image = read_image(pair.image, white=self.white)
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
