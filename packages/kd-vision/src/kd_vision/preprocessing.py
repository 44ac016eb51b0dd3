"""Images as a trained student takes them, from what lies beside it: the same steps as in evaluation, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.data.images import read_image
from kd_core.data.spec import pixels
from kd_core.errors import KDError
from kd_vision.data.loading import Interpolation, as_tensor, evaluation_transforms, first_of, transformed
from kd_vision.data.spec import InputSpec
from kd_vision.inputs import InputFormat, fit_channels


@dataclass(frozen=True)
class ImagePreprocessor:
    """Makes images into the batch that a model takes.

    ``crop_size`` and ``eval_crop`` are those of :func:`evaluation_transforms`, None where images are not cropped;
    ``size`` is what the batch is resized to, ``channels`` what it is converted to, None for what the images have.
    ``white`` is the value of white in files of more than 8 bits, ``interpolation`` how images are resized.
    """

    crop_size: tuple[int, int] | None
    eval_crop: float | None
    size: tuple[int, int] | None
    channels: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float | None
    device: torch.device
    interpolation: Interpolation = "bilinear"

    def __call__(self, images: Any) -> Tensor:
        """(B, C, H, W) float32 of one image or a list of them: files, PIL images, arrays (H, W, C), tensors (C, H, W).

        Values are uint8, or floats in [0, 1]. KDError for a file that cannot be read, and for images of several sizes
        where nothing brings them to one.
        """
        several = isinstance(images, (list, tuple)) or (isinstance(images, Tensor) and images.ndim == 4)
        read = [self.read(image, number) for number, image in enumerate(images if several else [images])]
        shapes = sorted({tuple(image.shape) for image in read})
        if len(shapes) != 1:
            raise KDError("there is no image" if not shapes else f"images differ in shape: {shapes[0]} and {shapes[1]}")
        batch = torch.stack(read).to(self.device)
        channels = self.channels or batch.shape[1]
        form = InputFormat(
            channels,
            self.size or (batch.shape[2], batch.shape[3]),
            fit_channels(self.mean, channels, "input.mean"),
            fit_channels(self.std, channels, "input.std"),
        )
        return form.convert(batch)

    def read(self, image: Any, number: int = 0) -> Tensor:
        """One image, resized and cropped as in evaluation: (C, H, W) on the CPU."""
        if isinstance(image, (str, Path)):
            image = read_image(Path(image), white=self.white)
        plain = not any(self.mean) and set(self.std) == {1}
        image = first_of((image,), f"image {number}", any_values=plain)
        transforms = evaluation_transforms(self.crop_size, self.eval_crop, self.interpolation)
        return transformed(image, transforms) if transforms else as_tensor(image)


def image_preprocessor(
    wants: InputSpec, preprocessing: Mapping[str, Any], model: nn.Module, device: torch.device
) -> ImagePreprocessor:
    """What a run wrote beside its student: its ``input`` and its ``preprocessing``.

    Where they say nothing of channels, those that the model's first convolution takes are meant.
    """
    size, crop = preprocessing.get("size"), preprocessing.get("eval_crop")
    if wants.mean is None or wants.std is None:
        raise KDError("the student's folder does not say how images are normalised", path="input")
    first = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    final = wants.size or (None if crop is not None else size)
    return ImagePreprocessor(
        None if crop is None or size is None else pair(size),
        crop,
        None if final is None else pair(final),
        wants.channels or (first if first in (1, 3) else None),
        tuple(wants.mean),
        tuple(wants.std),
        preprocessing.get("white"),
        device,
        preprocessing.get("interpolation", "bilinear"),
    )


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size in a config."""
    return pixels(size if isinstance(size, int) else list(size))
