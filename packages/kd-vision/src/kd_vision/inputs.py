"""How a model sees an image: channels, size and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.data.spec import pixels
from kd_core.errors import ConfigError, ConfigProblem
from kd_vision.data.sources import ImageSource
from kd_vision.data.spec import DataSpec, InputSpec

LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey image (ITU-R BT.601)."""


@dataclass(frozen=True)
class InputFormat:
    """The images that one model takes, by its ``input:``. Models with equal formats share a tensor."""

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def convert(self, images: Tensor) -> Tensor:
        """uint8, or float in [0, 1], (B, C, H, W) -> normalised float32 (B, channels, *size)."""
        images = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        if images.shape[1] == 1 < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        elif self.channels == 1 < images.shape[1]:
            images = (images * constant(LUMINANCE, images.device)).sum(1, keepdim=True)
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return (images - constant(self.mean, images.device)).div_(constant(self.std, images.device))


def input_format(spec: InputSpec, data: DataSpec, source: ImageSource, shape: torch.Size) -> InputFormat:
    """The format of images (B, C, H, W) that an ``input:`` asks for, what it leaves out taken from the data."""
    have, height, width = shape[-3:]
    channels = spec.channels or have
    if channels != have and {channels, have} != {1, 3}:
        raise ConfigError(ConfigProblem(f"images of {have} channels cannot become {channels}", "input.channels"))
    mean = fit_channels(spec.mean or data.mean or source.mean, channels, "input.mean" if spec.mean else "data.mean")
    std = fit_channels(spec.std or data.std or source.std, channels, "input.std" if spec.std else "data.std")
    return InputFormat(channels, pixels(spec.size) if spec.size else (height, width), mean, std)


def fit_channels(values: tuple[float, ...] | list[float], channels: int, path: str) -> tuple[float, ...]:
    """``values`` for that many channels: one is repeated, three of colours make one of grey.

    ConfigError, saying that they stand at ``path``, where they do not fit.
    """
    if len(values) == 1:
        return tuple(values) * channels
    if channels == 1 and len(values) == 3:
        return (sum(share * value for share, value in zip(LUMINANCE, values, strict=True)),)
    if len(values) != channels:
        raise ConfigError(ConfigProblem(f"{len(values)} values for images of {channels} channels", path))
    return tuple(values)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) on the device, made once: a copy to it in every step would wait for it."""
    return torch.tensor(values, device=device)[:, None, None]
