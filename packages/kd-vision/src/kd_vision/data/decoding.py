"""Decoding JPEG files by torchvision, for training: the pixels that Pillow gives, as tensors, which transforms want.

torchvision 0.29 calls its decoders deprecated, for torchcodec's. Where they are gone the option is an error.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from kd_core.errors import KDError

Decoder = Literal["pillow", "torchvision"]
BEGIN, END = b"\xff\xd8\xff", b"\xff\xd9"
"""What a JPEG file begins with, and what stands at its end where it is whole."""
TAIL = 64
"""Bytes at the end of a file in which that is looked for."""


def decoded(images: Any, row: int) -> Tensor | None:
    """A row of a data set's images, uint8 (3, H, W), upright, where it is a whole JPEG file of grey or YCbCr.

    In memory its channels come last, and those of grey are one: to copy all of it takes a seventh of an image's time.
    None for all else, which the data set's own reader reads, or tells what is wrong with.
    """
    if isinstance(images, ConcatDataset):
        number = bisect_right(images.cumulative_sizes, row)
        return decoded(images.datasets[number], row - (images.cumulative_sizes[number - 1] if number else 0))
    encoded = getattr(images, "encoded", None)
    content = None if encoded is None else encoded(row)
    return None if content is None else decoded_jpeg(content)


def decoded_jpeg(content: bytes) -> Tensor | None:
    """The image in the bytes of a JPEG file, or None; see :func:`decoded`."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError as error:
        message = "this version of torchvision decodes no images"
        raise KDError(message, hint="leave `decoder` out", path="data.decoder") from error
    if not content.startswith(BEGIN) or END not in content[-TAIL:]:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            image = decode_jpeg(pixels, mode=ImageReadMode.UNCHANGED, apply_exif_orientation=True)
    except RuntimeError:
        return None
    if image.shape[0] not in (1, 3):
        return None
    return image.expand(3, -1, -1)
