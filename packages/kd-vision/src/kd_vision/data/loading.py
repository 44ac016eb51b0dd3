"""Data sets whose images are read one by one: files, and data sets of the user's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import tee
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kd_core.data.batch import SHARED, Batch, Split
from kd_core.data.images import Brightness, eight_bits, to_rgb
from kd_core.data.loading import SampleLoader, SampleReader
from kd_core.data.rng import derive_key
from kd_core.data.screening import Readable
from kd_core.data.showings import marked, positions_of
from kd_core.errors import KDError, error_path, foreign_errors
from kd_core.notes import Note
from kd_vision.data.augment import Augmentation
from kd_vision.data.crops import ResizedCropFlip
from kd_vision.data.decoding import Decoder, decoded
from kd_vision.data.folders import ImageFiles, readable
from kd_vision.data.labelled_subset import LabelledSubset

EVALUATION_CROP = 0.875
"""The centre crop's share of the resized image, unless the config says otherwise: 224 of 256 pixels, as in the
published ImageNet figures."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
"""Ways to resize an image, by the names that torchvision has for them."""
ROUNDING = 1e-3
"""How far outside [0, 1] resizing or arithmetic may put a float image."""
Transform = Callable[[Any], Any]


class SampleSplit(Split):
    """Part of a data set whose images are read one by one, by ``workers`` processes or, with 0, by this one."""

    marks = True

    def __init__(
        self,
        subset: LabelledSubset,
        augmentation: Augmentation,
        *,
        size: tuple[int, int] | None,
        workers: int | None,
        any_values: bool = False,
        eval_crop: float | None = None,
        interpolation: Interpolation = "bilinear",
        decoder: Decoder = "pillow",
    ) -> None:
        self.subset = subset
        self.augmentation = augmentation
        self.reader = ImageReader(subset, augmentation, size, any_values, eval_crop, interpolation, decoder)
        self.loader = SampleLoader(self.reader, workers)
        self.brightness = Brightness()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data set, the choice and the labels."""
        return self.subset.digest()

    @property
    def content(self) -> str:
        """A hash of the whole data set."""
        return str(self.subset.fingerprint)

    @property
    def sample_classes(self) -> Tensor:
        """The class of each sample."""
        return self.subset.target

    @property
    def sample_weights(self) -> Tensor | None:
        """The weight of each sample, where the data have any."""
        return self.subset.weights

    def __len__(self) -> int:
        return len(self.subset)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """Batches of images (B, C, H, W). With workers, ``order`` is read ahead of what is yielded."""
        self.reader.transforms(augment)  # whose error is told here, not by a process
        asked, order = tee(order)
        batches = self.loader.batches(order, epoch=epoch, seed=seed, augment=augment)
        for (images, positions), marked_positions in zip(batches, asked, strict=False):
            index = self.subset.index.index_select(0, positions)
            if augment:
                images = self.augmentation(images, seed=seed, epoch=epoch, index=marked(index, marked_positions))
            yield Batch({SHARED: images}, self.subset.target.index_select(0, positions), index)

    def arrange(self, order: Tensor, batch_size: int) -> Tensor:
        """The order in which images are read: as it is, or of those that are streamed, few row groups at a time."""
        arranged = getattr(self.subset.images, "arranged", None)
        return order if arranged is None else order[arranged(self.subset.index[positions_of(order)])]

    def strong(self) -> SampleSplit:
        """The same images, whose augmentation ends with RandAugment, read by processes of their own."""
        reader = self.reader
        return SampleSplit(
            self.subset,
            self.augmentation.stronger(),
            size=reader.size,
            workers=self.loader.workers,
            any_values=reader.any_values,
            eval_crop=reader.eval_crop,
            interpolation=reader.interpolation,
            decoder=reader.decoder,
        )

    def files(self) -> Readable | None:
        """The images that are read from files."""
        return readable(self.subset)

    def look(self, position: int, sample: Any) -> None:
        """Note how bright an image is."""
        self.brightness.look(sample[0])

    def notes(self) -> list[Note]:
        """What there is to say of the images."""
        return self.brightness.notes()

    def close(self) -> None:
        """End the processes that read."""
        self.loader.close()


@dataclass(frozen=True)
class ImageReader(SampleReader[tuple[Tensor, int], tuple[Tensor, Tensor]]):
    """Reads positions of a subset as (transformed image (C, H, W), position), and batches as (images, positions)."""

    subset: LabelledSubset
    augmentation: Augmentation
    size: tuple[int, int] | None
    any_values: bool = False
    """Whether images of floats may lie outside [0, 1], as those that are normalised already."""
    eval_crop: float | None = None
    """The centre crop's share of the resized image in evaluation; None where images keep their size."""
    interpolation: Interpolation = "bilinear"
    decoder: Decoder = "pillow"
    """What decodes JPEG files that are augmented."""

    def transforms(self, augment: bool) -> list[Transform]:
        """The transforms of one image, in their order."""
        evaluation = evaluation_transforms(self.size, self.eval_crop, self.interpolation)
        if not augment:
            return evaluation
        return training_transforms(self.augmentation, self.size, evaluation, self.interpolation)

    def sample(self, position: int, *, seed: int, epoch: int, augment: bool) -> tuple[Tensor, int]:
        """The image with every transform, whose random numbers are those of (seed, epoch, row)."""
        row = int(self.subset.index[position])
        with seeded(derive_key("sample", seed, epoch, row), torch_only=self._ours):
            image = decoded(self.subset.images, row) if augment and self.decoder == "torchvision" else None
            if image is None:
                image = first_of(self.subset.images[row], self.name(position), any_values=self.any_values)
            elif self.augmentation.transforms:
                image = image.contiguous()
            return transformed(image, self._training if augment else self._evaluation, strided=True), position

    @cached_property
    def _ours(self) -> bool:
        """Whether nothing of the user's reads or transforms an image, which might draw from any generator."""
        return isinstance(self.subset.images, ImageFiles) and not self.augmentation.transforms

    @cached_property
    def _training(self) -> list[Transform]:
        return self.transforms(augment=True)

    @cached_property
    def _evaluation(self) -> list[Transform]:
        return self.transforms(augment=False)

    def name(self, position: int) -> str:
        """``image 17``, by its row in the data set."""
        return f"image {int(self.subset.index[position])}"

    def collate(self, samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """The images in one contiguous tensor; KDError where they differ in shape."""
        images = [image for image, _ in samples]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            first, second, *_ = sorted(shapes)
            message = f"images of a batch differ in shape, {first} and {second}"
            raise KDError(message, hint="set data.size, or end data.augment with a crop")
        positions = torch.tensor([position for _, position in samples])
        if any(image.dtype != torch.uint8 for image in images):
            return torch.stack(images).contiguous(), positions
        batch = np.empty((len(images), *images[0].shape), np.uint8)
        for pixels, image in zip(batch, images, strict=True):
            pixels[:] = image.numpy()  # of images whose channels come last torch's stack takes twice as long
        return torch.from_numpy(batch), positions


def transformed(image: Any, transforms: Sequence[Transform], *, strided: bool = False) -> Tensor:
    """What transforms make of an image (C, H, W); KDError where one of them fails, or gives no image.

    ``strided`` leaves its memory as it is: of a PIL image the channels come last.
    """
    for transform in transforms:
        with foreign_errors(f"{type(transform).__name__} on {described(image)}", "data", "augment"):
            image = transform(image)
    with error_path(*(("data", "augment") if transforms else ())):
        return as_tensor(image, strided=strided)


def described(image: Any) -> str:
    """An image in words: what a transform gets."""
    if isinstance(image, Tensor):
        return f"a tensor {tuple(image.shape)} of {str(image.dtype).removeprefix('torch.')}"
    return f"a PIL image of mode {image.mode}" if hasattr(image, "mode") else f"a {type(image).__name__}"


def first_of(sample: Any, name: str, *, any_values: bool = False) -> Any:
    """The image of a sample, as what transforms take: a tensor (C, H, W) or a PIL image of grey or RGB.

    KDError where it is not a pair and, with its ``name`` and unless ``any_values``, for values that no image has.
    """
    if not isinstance(sample, (tuple, list)):
        raise KDError(f"a sample of the data set must be a pair of an image and a label, not {type(sample).__name__}")
    image = sample[0]
    if isinstance(image, (Tensor, np.ndarray)):
        return as_tensor(image) if any_values else in_range(as_tensor(image), name)
    return to_rgb(image, keep_grey=True) if hasattr(image, "mode") else image


def in_range(image: Tensor, name: str) -> Tensor:
    """An image (C, H, W) of any type in uint8, or in floats of [0, 1]; KDError for other values.

    Integers of 0 .. 255 become uint8; unsigned ones of 16 bits are scaled from 65,535, booleans from 1.
    """
    if image.dtype == torch.uint8 or not image.numel():
        return image
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    if image.dtype == torch.uint16:
        return torch.from_numpy(eight_bits(image.numpy()))
    low, high = image.min().item(), image.max().item()
    floating = image.is_floating_point()
    top = 1 + ROUNDING if floating else 255
    if low >= -ROUNDING and high <= top:  # false for NaN
        return image if floating else image.to(torch.uint8)
    hint = "return uint8 images, or floats divided by 255"
    if floating and low < 0:
        hint = "the run normalises images itself: leave that out, or write `data.mean: [0]` and `data.std: [1]`"
    expected = "floats in [0, 1]" if floating else "integers in [0, 255]"
    raise KDError(f"{name} holds values from {low:.4g} to {high:.4g}, and images are {expected}", hint=hint)


@contextmanager
def seeded(number: int, *, torch_only: bool = False) -> Iterator[None]:
    """Within, the CPU random states of Python, numpy and torch start from ``number``; after, they are as before.

    ``torch_only`` leaves out those of Python and numpy, of which it takes a twentieth of an image's time.
    """
    if torch_only:
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(number % 2**63)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)
        return
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number % 2**63)  # torch.manual_seed would reseed accelerators too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def training_transforms(
    augmentation: Augmentation,
    size: tuple[int, int] | None,
    evaluation: list[Transform],
    interpolation: Interpolation = "bilinear",
) -> list[Transform]:
    """The transforms of one training image; those of ``evaluation`` unless the config asks for others."""
    if augmentation.transforms:
        return list(augmentation.transforms)
    if not augmentation.per_image:
        return evaluation
    if size is None:
        raise KDError("'resized_crop_flip' needs data.size, the pixels of a crop", path="data.augment")
    return [ResizedCropFlip(size, interpolation)]


def evaluation_transforms(
    size: tuple[int, int] | None, share: float | None, interpolation: Interpolation = "bilinear"
) -> list[Transform]:
    """Resize and centre crop to ``size``, or nothing without one or without a ``share``."""
    return [] if size is None or share is None else [CentreCrop(size, share, interpolation)]


@dataclass(frozen=True)
class CentreCrop:
    """The centre (height, width) of an image that is resized so that the crop is a ``share`` of it.

    Of a square crop the share is that of the shorter side; of another one, of the side where it is larger. An image
    that has the size already is resized and cropped like any other.
    """

    size: tuple[int, int]
    share: float = EVALUATION_CROP
    interpolation: Interpolation = "bilinear"

    def __call__(self, image: Any) -> Any:
        from torchvision.transforms.v2 import InterpolationMode, functional

        mode = InterpolationMode(self.interpolation)

        height, width = self.size
        if height == width:
            resized = functional.resize(image, [round(height / self.share)], mode)
        else:
            rows, columns = functional.get_size(image)
            scale = max(height / rows, width / columns) / self.share
            sides = [max(round(rows * scale), height), max(round(columns * scale), width)]
            resized = functional.resize(image, sides, mode)
        return functional.center_crop(resized, list(self.size))


def as_tensor(image: Any, *, strided: bool = False) -> Tensor:
    """A PIL image, an array (H, W, C) or (H, W), or a tensor, as a tensor (C, H, W), contiguous unless ``strided``."""
    if isinstance(image, Tensor):
        return image.as_subclass(Tensor)  # a transform may give a subclass
    array = np.array(image)
    if array.ndim not in (2, 3):
        raise KDError(f"an image is a PIL image, an array (H, W, C) or a tensor (C, H, W), not {type(image).__name__}")
    planes = (array[:, :, None] if array.ndim == 2 else array).transpose(2, 0, 1)
    # torch's permute and contiguous take twice as long
    return torch.from_numpy(planes if strided else np.ascontiguousarray(planes))
