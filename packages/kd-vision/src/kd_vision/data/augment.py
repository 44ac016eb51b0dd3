"""Augmentation of batches of uint8 images, a pure function of (seed, epoch, sample).

An operation is a function ``(images, draws, *, values...) -> images`` on uint8 tensors (B, C, H, W) that takes all its
randomness from ``draws``. Register one with ``@AUGMENTATIONS("name")`` and name it in ``data.augment``. The annotations
of its values are their schema.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F

from kd_core.config.validation import show_value, wanted_of
from kd_core.data.rng import CounterRNG
from kd_core.errors import ConfigError, ConfigProblem, KDError, did_you_mean
from kd_core.registry import Registry

Operation = Callable[..., Tensor]
Function = TypeVar("Function", bound=Callable[..., Any])
"""A function that is an operation."""
Pixels = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
AUGMENTATIONS: Registry[Operation] = Registry("augmentation", "kd.vision.augmentations")

PRESETS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "crop_flip": [{"op": "crop", "padding": 4}, {"op": "flip"}],
}
"""Names for lists of operations."""
PER_IMAGE = "resized_crop_flip"
"""The preset for folders: torchvision's random resized crop and flip, image by image."""


@AUGMENTATIONS("crop")
def crop(images: Tensor, draws: CounterRNG, *, padding: Pixels = 4) -> Tensor:
    """A window of the images' own size, placed at random after ``padding`` black pixels on each side."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (2, 3))  # (B, C, 2p+1, 2p+1, H, W)
    top, left = draws.integers(2 * padding + 1), draws.integers(2 * padding + 1)
    return torch.from_numpy(windows[np.arange(len(padded)), :, top, left])


@AUGMENTATIONS("flip")
def flip(images: Tensor, draws: CounterRNG, *, p: Probability = 0.5) -> Tensor:
    """Mirrored left to right, each with probability ``p``."""
    flipped = images.numpy().copy()
    chosen = draws.uniform() < p
    flipped[chosen] = flipped[chosen][..., ::-1]
    return torch.from_numpy(flipped)


@AUGMENTATIONS("shift")
def shift(images: Tensor, draws: CounterRNG, *, pixels: Pixels = 1) -> Tensor:
    """Moved by up to ``pixels`` in each direction; what comes into view is black."""
    return crop(images, draws, padding=pixels)


@AUGMENTATIONS("cutout")
def cutout(images: Tensor, draws: CounterRNG, *, size: Pixels = 8) -> Tensor:
    """A black square of ``size`` pixels around a random place, cut where it leaves the image (arXiv 1708.04552)."""
    height, width = images.shape[-2:]
    top, left = draws.integers(height) - size // 2, draws.integers(width) - size // 2
    rows, columns = np.arange(height) - top[:, None], np.arange(width) - left[:, None]
    hidden = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    return images.masked_fill(torch.from_numpy(hidden)[:, None], 0)


@dataclass(frozen=True)
class Augmentation:
    """``transforms`` of single images first, then ``operations`` on the batch."""

    operations: tuple[Operation, ...] = ()
    transforms: tuple[Callable[[Any], Any], ...] = ()
    per_image: bool = False
    """Whether the preset :data:`PER_IMAGE` is asked for, which needs the data's size."""

    def stronger(self) -> Augmentation:
        """The same, followed by RandAugment."""
        return replace(self, operations=(*self.operations, AUGMENTATIONS.get("rand_augment")))

    def __call__(self, images: Tensor, *, seed: int, epoch: int, index: Tensor) -> Tensor:
        """uint8 (B, C, H, W) and rows (B,) -> uint8 (B, C, H, W)."""
        draws = CounterRNG(seed, epoch, index.numpy())
        for operation in self.operations:
            images = operation(images, draws)
        return images


def parse(value: Any) -> Augmentation:
    """The augmentation a config asks for: a preset, an operation, a transform, or a list of operations and transforms.

    An operation is a name or ``{op: NAME, values...}``; anything else in the list is a transform of one image.
    KDError for unknown names and values.
    """
    operations: list[Operation] = []
    transforms: list[Any] = []
    items = value if isinstance(value, list) else [value]
    per_image = items[:1] == [PER_IMAGE]
    for position, item in enumerate(items):
        if position == 0 and per_image:
            continue
        if isinstance(item, str) and item in PRESETS:
            operations += [operation(preset, AUGMENTATIONS) for preset in PRESETS[item]]
        elif item == PER_IMAGE:
            raise KDError(f"{PER_IMAGE!r} works on single images: it must stand first")
        elif isinstance(item, (str, Mapping)):
            where = f"{position}." if isinstance(value, list) else ""
            operations.append(operation(item, AUGMENTATIONS, where, (*PRESETS, PER_IMAGE)))
        elif operations:
            raise KDError("a transform of single images must stand before the named operations, which work on batches")
        elif item is None or isinstance(item, (bool, int, float, list)):
            raise KDError(
                f"{item} is neither the name of an operation, nor {{op: NAME, ...}}, nor a !call of a transform"
            )
        else:
            transforms.append(item)
    return Augmentation(tuple(operations), tuple(transforms), per_image)


def operation(
    item: str | Mapping[str, Any], registry: Registry[Function], where: str = "", presets: Sequence[str] = ()
) -> Function | partial[Any]:
    """What ``item``, a name or ``{op: NAME, values...}``, names in ``registry``, with its values bound.

    ConfigError below the path ``where``; ``presets`` are other names that may have been meant.
    """
    values = {"op": item} if isinstance(item, str) else dict(item)
    name = values.pop("op", None)
    if not isinstance(name, str):
        meant = next((key for key in values if isinstance(key, str) and key in registry), None)
        hint = f"write {{op: {meant}, ...}}" if meant else None
        message = "an operation is written as its name or as {op: NAME, ...}"
        raise ConfigError(ConfigProblem(message, where.rstrip("."), hint=hint))
    if name not in registry:
        names = [*presets, *registry.names()]
        path = f"{where}op" if isinstance(item, Mapping) else where.rstrip(".")
        raise ConfigError(ConfigProblem(f"there is no augmentation {name!r}", path, hint=did_you_mean(name, names)))
    function = registry.get(name)
    parameters = inspect.signature(function).parameters.values()
    keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    schemas = get_type_hints(function, include_extras=True)
    for key, value in values.items():
        if key not in keywords:
            message, hint = f"augmentation {name!r} has no parameter {key!r}", did_you_mean(key, [*keywords, "op"])
            raise KDError(message, hint=hint, path=where + key, at_key=True)
        try:
            TypeAdapter(schemas.get(key, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            message = f"{key!r} of {name} must be {wanted_of(error.errors())}, not {show_value(value)}"
            raise ConfigError(ConfigProblem(message, where + key)) from error
    return partial(function, **values) if values else function
