"""Masked generative distillation's adapter: it masks a student's map and generates the teacher's from what is left.

Yang et al., *Masked Generative Distillation*, ECCV 2022 (arXiv 2205.01529); checked against yzd-v/MGD.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, feature_map, shape, tensors, width_of
from kd_core.data.rng import random_bits
from kd_core.errors import KDError
from kd_core.ranges import Momentum, PositiveInt


class Generation(nn.Module):
    """(B, C, H, W) -> (B, out, H, W): a 1x1 convolution where widths differ, a mask, two 3x3 ones with ReLU between.

    Only while it trains is anything masked. What is masked is a pure function of the seed, the number of steps before
    and the sample: its number in ``index`` (B,), or else its row in the batch, all of which is seen then
    (:func:`~kd_core.signatures.over_batch`).
    """

    seed: Tensor

    def __init__(
        self, channels: int, out: int, *, ratio: float, mask: Literal["spatial", "channel"], by_row: bool = False
    ) -> None:
        super().__init__()
        self.ratio, self.mask, self.over_batch = ratio, mask, by_row
        self.align = nn.Conv2d(channels, out, 1) if channels != out else None
        self.layers = nn.Sequential(nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.steps = 0

    def forward(self, features: Tensor, index: Tensor | None = None) -> Tensor:
        if self.align is not None:
            features = self.align(features)
        if self.training:
            features = features * self.kept(features, index).to(features.dtype)
        generated: Tensor = self.layers(features)
        return generated

    def kept(self, features: Tensor, index: Tensor | None) -> Tensor:
        """True for what is not masked: (B, 1, H, W), or (B, C, 1, 1) for whole channels."""
        samples, channels, height, width = features.shape
        keys = torch.arange(samples, device=features.device) if index is None else index
        if keys.shape != (samples,):
            raise KDError(f"generation's index {shape(keys)} does not fit {shape(features)}: it has one row a sample")
        size = (channels, 1, 1) if self.mask == "channel" else (1, height, width)
        bits = random_bits(self.seed + self.steps, keys, size[0] * size[1] * size[2])
        return (bits >= round(self.ratio * 2**31)).reshape(samples, *size)

    def after_step(self) -> None:
        """Count a step of the optimiser, whose micro-batches and processes had masks of one draw."""
        self.steps += self.training

    def get_extra_state(self) -> int:
        """The number of steps in training, which the masks depend on."""
        return self.steps

    def set_extra_state(self, state: int) -> None:
        """Go on after so many steps."""
        self.steps = state


@ADAPTERS("generation")
def generation(
    inputs: list[Tensor],
    match: Tensor | None,
    out_features: PositiveInt | None,
    *,
    ratio: Momentum = 0.75,
    mask: Literal["spatial", "channel"] = "spatial",
) -> nn.Module:
    """MGD's generation block: the student's map, masked at random, becomes a map like the teacher's.

    (B, C, H, W) and, where given, ``batch.index`` (B,) -> (B, ``out_features`` or the channels of ``match``, H, W). The
    share ``ratio`` of the places (all channels of each), or with ``mask: channel`` of the channels, is masked, after a
    1x1 convolution where the widths differ. Masks follow the samples in the index, so that they are the same in any
    number of micro-batches and processes; without it they follow the rows of a whole batch, which micro-batches are
    not. KDError where the input is not a feature map, ``match`` has
    another height or width, or a value is out of range.
    """
    source, *index = tensors("generation", inputs, match, most=2)
    channels, width = feature_map("generation", source).shape[1], width_of("generation", match, out_features)
    if index and index[0].shape != source.shape[:1]:
        raise KDError(
            f"generation's second input is {shape(index[0])}, not one number a sample",
            hint="write `inputs: [student.PATH, batch.index]`",
        )
    if match is not None and feature_map("generation", match).shape[2:] != source.shape[2:]:
        raise KDError(
            f"generation keeps height and width: it cannot make {shape(source)} like {shape(match)}",
            hint="resize one, for one with `module: !call:torch.nn.AvgPool2d {kernel_size: 2}`",
        )
    return Generation(channels, width, ratio=ratio, mask=mask, by_row=not index)
