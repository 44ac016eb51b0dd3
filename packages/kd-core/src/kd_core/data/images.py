"""Reading image files: one reader for every task, whose rules are the table of docs/data.md.

Pillow is imported when a file is read: only the packages whose samples are images depend on it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError
from kd_core.notes import Note

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, in Pillow's names; no other decoder sees a file, whatever it is called."""
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""The endings of image files, in small letters; beside them ``AVIF``, where Pillow was built with that decoder."""
AVIF = ".avif"
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
"""What stands at the end of a file that is whole."""
TAIL = 64
"""Bytes at the end of a file in which that is looked for."""
DARK = 32
"""Where no pixel of any image is brighter, they were probably written with another white."""
BACKGROUND = (255, 255, 255)
"""What is seen through the transparent parts of an image: white."""
ORIENTATION = 0x0112
"""The EXIF tag that says how an image is to be turned."""
SIDEWAYS = 5
"""Its first value for which height and width change places."""
SIXTEEN_BITS, INTEGER, FLOATING = ("I;16", "I;16B", "I;16L", "I;16N"), "I", "F"
WHITE_16 = 65535
"""The value of white in a 16-bit image."""
DEEP = "more than 8 bits"
"""The entry of an image's ``info`` that says it had more than 8 bits a value, and whether its white was supposed."""
COLOURS = {"1", "L", "P", "RGB", "RGBA", "RGBa", "RGBX", "LA", "PA", "CMYK", "YCbCr", "HSV"}
"""Pillow's modes of 8 bits a channel, which become RGB."""


def read_image(path: Path, *, white: float | None = None) -> Image:
    """The image in a file, upright and in RGB; KDError naming the file where it is broken or cannot be brought to that.

    ``white`` is the value of white in images of 16 bits, of 32 bits and of floats: see :func:`to_rgb`.
    """
    image = open_image(path)
    try:
        return to_rgb(image, white=white)
    except KDError as error:
        raise KDError(f"{path}: {error.problems[0].message}", hint=error.problems[0].hint) from error
    except Exception as error:  # decoders raise nearly anything
        raise KDError(f"{path}: cannot be converted to RGB ({type(error).__name__}: {error})") from error


def image_in(content: bytes, name: str, *, white: float | None = None) -> Image:
    """The image that the bytes of a file hold, upright and in RGB; KDError naming it where it is none."""
    image = bare_image_in(content, name)
    try:
        return to_rgb(image, white=white)
    except Exception as error:  # decoders raise nearly anything
        raise KDError(f"{name}: cannot be converted to RGB ({type(error).__name__}: {error})") from error


def bare_image_in(content: bytes, name: str) -> Image:
    """The first frame of the image that the bytes of a file hold, upright; KDError naming it where it is none."""
    from PIL import Image as Pictures

    try:
        with Pictures.open(io.BytesIO(content), formats=_formats()) as image:
            image.load()
            return _upright(image)
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise KDError(f"{name}: is not a readable image ({type(error).__name__}: {error})") from error


def open_image(path: Path) -> Image:
    """The first frame of an image file, its pixels read and turned as its EXIF orientation says.

    KDError naming the file where it is missing, broken, or of none of :data:`FORMATS`.
    """
    with _opened(path) as image:
        image.load()
        return _upright(image)


def check_header(path: Path) -> None:
    """KDError naming a file that is missing, or does not begin as an image of one of :data:`FORMATS`."""
    with _opened(path):
        pass


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file once it is upright, from its header; KDError where that is broken.

    A PNG that tells its orientation behind its pixels is taken as upright. A TIFF is read, because Pillow's versions
    differ in what the size of one is that lies on its side.
    """
    from PIL.Image import Image

    with _opened(path) as image:
        if image.format == "TIFF":
            image.load()
            upright = _upright(image)
            return upright.height, upright.width
        height, width = image.height, image.width
        exif = Image.getexif if image.format == "PNG" else type(image).getexif  # PNG's own reads all pixels first
        return (width, height) if _orientation(image, exif) >= SIDEWAYS else (height, width)


def refuse_programs() -> None:
    """Keep Pillow from calling Ghostscript for EPS files, which readers that are not this one open by their content."""
    from PIL import EpsImagePlugin

    EpsImagePlugin.gs_binary = False


def check_ends(path: Path) -> None:
    """KDError naming an image file that is missing, of another format, or cut off.

    Of JPEG and PNG only both ends are read, unless the last one is not as it should be; files of other formats are
    read whole.
    """
    with _opened(path) as image:
        mark = ENDS.get(image.format or "")
    if mark is None:
        open_image(path)
        return
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - TAIL, 0))
        if mark not in file.read():
            open_image(path)


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """An image file of which only the header is read yet; KDError in place of whatever decoders raise."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=_formats()) as image:
            yield image
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise KDError(f"{path}: is not a readable image (of none of the formats {formats})") from error
    except FileNotFoundError as error:
        raise KDError(f"there is no file {path}") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise KDError(f"{path}: is not a readable image ({type(error).__name__}: {error})") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN and (name != "AVIF" or reads_avif()))


@cache
def reads_avif() -> bool:
    """Whether this Pillow was built with a decoder of AVIF files."""
    from PIL import features

    return "avif" in features.modules and features.check("avif") is True


def _upright(image: Image) -> Image:
    """An image whose pixels are read, turned and mirrored as its EXIF orientation says."""
    from PIL.Image import Transpose

    orientation = _orientation(image, type(image).getexif)
    turns = (
        *(Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM),
        *(Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
    )
    return image.transpose(turns[orientation - 2]) if orientation > 1 else image


def _orientation(image: Image, exif: Callable[[Image], Any]) -> int:
    """How an image is to be turned, as EXIF numbers it: 1 is upright, and what damaged data say."""
    try:
        orientation = exif(image).get(ORIENTATION, 1)
    except Exception:  # of damaged EXIF data
        return 1
    return orientation if orientation in range(2, 9) else 1


def to_rgb(image: Image, *, white: float | None = None, keep_grey: bool = False) -> Image:
    """An image of any of Pillow's modes in RGB; with ``keep_grey``, grey ones of 8 bits stay grey (``L``).

    What is transparent shows :data:`BACKGROUND`. Values of more than 8 bits are scaled, so that ``white`` becomes 255:
    by default 65,535 for integers and 1 for floats. KDError for values outside [0, white], and for other modes.
    """
    from PIL import Image

    if image.mode in (*SIXTEEN_BITS, INTEGER, FLOATING):
        eight = Image.fromarray(eight_bits(np.asarray(image), white))
        eight = eight if keep_grey else eight.convert("RGB")
        eight.info[DEEP] = white is None
        return eight
    if image.mode not in COLOURS:
        raise KDError(f"is an image of the mode {image.mode}, which cannot be converted to RGB")
    if _has_transparency(image):
        layer = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(below, layer).convert("RGB")
    return image if image.mode == "RGB" or (keep_grey and image.mode == "L") else image.convert("RGB")


def _has_transparency(image: Image) -> bool:
    """Whether an image has an alpha channel, a palette with one, or a colour that stands for transparent."""
    palette = image.palette if image.mode == "P" else None
    return "A" in image.mode.upper() or "transparency" in image.info or (palette is not None and "A" in palette.mode)


def eight_bits(values: NDArray[Any], white: float | None = None) -> NDArray[np.uint8]:
    """Values of more than 8 bits scaled to 0 .. 255 and rounded, ``white`` becoming 255; see :func:`to_rgb`."""
    floating = np.issubdtype(values.dtype, np.floating)
    top = float(white if white is not None else 1 if floating else WHITE_16)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= top):  # false for NaN
        kind = "floats" if floating else "integers"
        message = f"holds {kind} from {low:g} to {high:g}, and white is {top:g}"
        raise KDError(message, hint="`data.white: VALUE` says which value is white in images of more than 8 bits")
    return np.rint(values * np.float32(255 / top)).astype(np.uint8)


@dataclass
class Brightness:
    """The largest value of some images in RGB, to find those that were read nearly black."""

    largest: int = 0
    images: int = 0
    scaled: bool = False
    """Whether any image had values of more than 8 bits, or that is not known."""

    def look(self, image: Image) -> None:
        """Note the values of an image in RGB."""
        largest = max(high for _, high in image.getextrema())  # type: ignore[misc]
        self.see(largest, scaled=DEEP in image.info)

    def see(self, largest: int, *, scaled: bool = True) -> None:
        """Note the largest value of an image, of 255, and whether it was, or may have been, ``scaled`` from more."""
        self.images += 1
        self.scaled = self.scaled or scaled
        self.largest = max(self.largest, largest)

    def notes(self) -> list[Note]:
        """A warning where all images are nearly black."""
        if not self.images or self.largest >= DARK:
            return []
        if not self.scaled:
            return [Note.warning(f"no image is brighter than {self.largest} of 255")]
        hint = "16-bit images are read as if 65,535 were white; `data.white` says another value"
        return [Note.warning(f"no image is brighter than {self.largest} of 255: {hint}")]


def image_files(folder: Path) -> tuple[list[Path], dict[str, int]]:
    """The image files in a folder and below by their endings, in the order of their names; and the endings of others.

    Folders behind symbolic links are followed, each once. Names that begin with a dot are no data, nor is what desktops
    leave behind (``Thumbs.db``). The files passed over are counted by ending.
    """
    others: dict[str, int] = {}
    return [folder / name for name in image_names(folder, others)], others


def image_names(folder: Path, others: dict[str, int]) -> Iterator[str]:
    """The same files one after another, by their names below the folder; ``others`` counts those that are passed over.

    Nothing is kept of what was given, for there may be millions.
    """
    for name in _names_below(str(folder), "", frozenset()):
        ending = ending_of(name)
        if ending in SUFFIXES or (ending == AVIF and reads_avif()):
            yield name
        else:
            ending += " (this Pillow was built without AVIF)" if ending == AVIF else ""
            others[ending] = others.get(ending, 0) + 1


def ending_of(name: str) -> str:
    """The ending of a file's name in lower case, as ``Path.suffix`` has it; "no ending" where it has none."""
    last = name.rpartition("/")[2]
    dot = last.rfind(".")
    return last[dot:].lower() if 0 < dot < len(last) - 1 else "no ending"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data: its name begins with a dot, or it is what a desktop leaves behind."""
    return name.startswith(".") or name.lower() in {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}


def _names_below(folder: str, prefix: str, seen: frozenset[str]) -> Iterator[str]:
    """Every file below a folder that is not hidden, in the order of names; ``seen`` are the folders that are open."""
    real = os.path.realpath(folder)
    if real in seen:  # a link to a folder above
        return
    try:
        entries = sorted(os.scandir(folder), key=attrgetter("name"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise KDError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _names_below(f"{folder}/{entry.name}", f"{prefix}{entry.name}/", seen | {real})
        else:
            yield prefix + entry.name


def passed_over(others: dict[str, int], folder: Path) -> list[Note]:
    """A warning of files that are no images by their endings; none where there are none."""
    if not others:
        return []
    count = sum(others.values())
    endings = ", ".join(f"{number:,} {ending}" for ending, number in sorted(others.items(), key=lambda item: -item[1]))
    files = "file is" if count == 1 else "files are"
    return [Note.warning(f"{count:,} {files} passed over in {folder}, by the ending: {endings}")]
