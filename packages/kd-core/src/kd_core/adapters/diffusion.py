"""DiffKD's denoiser: a diffusion model of the teacher's features, which takes the noise out of the student's.

Huang et al., *Knowledge Diffusion for Distillation*, NeurIPS 2023 (arXiv 2305.15712); checked against the authors' code
in hunto/image_classification_sota.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, shape, tensors
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt

STEPS = 1000
"""Steps of the diffusion, whose variances grow linearly from 0.0001 to 0.02."""
EMBEDDINGS = 1280
"""Rows of the embedding of the steps, as the authors have them."""
NARROWEST = 8
"""Channels of a 3x3 denoiser at least: the bottleneck that weighs the noise has an eighth of them."""


def normed(*widths: int, kernels: tuple[int, ...] | None = None) -> nn.Sequential:
    """Convolutions from width to width, each with batch norm, and ReLU between."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        kernel = 1 if kernels is None else kernels[number]
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Bottleneck(nn.Module):
    """(B, C, H, W) -> the same: 1x1, 3x3, 1x1 convolutions, 1 / ``reduction`` as wide within, and the input added."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        narrow = width // reduction
        self.block = normed(width, narrow, narrow, width, kernels=(1, 3, 1))

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.block(features)
        return changed + features


class NoisePredictor(nn.Module):
    """The noise in features (B, C, H, W) at ``step``, a number or (B,): -> (B, C, H, W)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.steps = nn.Embedding(EMBEDDINGS, width)
        if kernel == 3:
            last = normed(width, width)
            self.layers = nn.Sequential(Bottleneck(width, 4), Bottleneck(width, 4), *last)
        else:
            self.layers = nn.Sequential(*normed(width, 4 * width, width), *normed(width, 4 * width, width)[:-1])

    def forward(self, features: Tensor, step: Tensor) -> Tensor:
        noise: Tensor = self.layers(features + self.steps(step)[..., None, None])
        return noise


class NoiseWeight(nn.Module):
    """How much of features (B, C, H, W) is kept when noise is mixed in: (B,) in [0, 1]."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.features = (
            nn.Sequential(Bottleneck(width, 8), nn.AdaptiveAvgPool2d(1))
            if kernel == 3
            else normed(width, 2 * width, width)
        )
        self.share = nn.Linear(width, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.share(self.features(features).flatten(1)).softmax(1)[:, 0]


class Denoiser(nn.Module):
    """Student's and teacher's features -> fields, see :func:`denoiser`. Noise is drawn from the global generator."""

    kept: Tensor

    def __init__(self, student: int, teacher: int, *, kernel: int, latent: int | None, inference_steps: int) -> None:
        super().__init__()
        width = teacher if latent is None else latent
        self.inference_steps = inference_steps
        self.encoder = None if latent is None else normed(teacher, width)
        self.decoder = None if latent is None else nn.Conv2d(width, teacher, 1)
        self.connector = nn.Conv2d(student, width, 1)
        self.predictor = NoisePredictor(width, kernel)
        self.weight = NoiseWeight(width, kernel)
        self.projector = normed(width, width)
        variances = torch.linspace(0.0001, 0.02, STEPS, dtype=torch.float32)
        self.register_buffer("kept", torch.cumprod(1 - variances, 0), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        vectors = student.ndim == 2
        if vectors:
            student, teacher = student[..., None, None], teacher[..., None, None]
        fields = {}
        if self.encoder is not None and self.decoder is not None:
            hidden = self.encoder(teacher)
            fields["reconstruction"] = self.decoder(hidden)
            teacher = hidden.detach()
        refined = self.projector(self._denoised(self.connector(student)))
        predicted, noise = self._predicted(teacher)
        fields |= {"refined": refined, "target": teacher, "predicted": predicted, "noise": noise}
        return {name: field.flatten(1) for name, field in fields.items()} if vectors else fields

    def _denoised(self, features: Tensor) -> Tensor:
        """The features, mixed with noise, after the last ``inference_steps`` of twice as many steps of DDIM."""
        noise = torch.randn(features.shape, device=features.device, dtype=features.dtype)
        share = self.weight(features)[:, None, None, None]
        features = share * features + (1 - share) * noise
        stride = STEPS // (2 * self.inference_steps)
        for number in reversed(range(self.inference_steps)):
            step = torch.full((), number * stride, device=features.device, dtype=torch.long)
            now = self.kept[number * stride]
            before = self.kept[(number - 1) * stride] if number else torch.ones_like(now)
            predicted = self.predictor(features, step)
            clean = (features - (1 - now).sqrt() * predicted) / now.sqrt()
            features = before.sqrt() * clean + (1 - before).sqrt() * predicted
        return features

    def _predicted(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """The noise that is seen in features at a step drawn for each sample, and the noise that was put there."""
        noise = torch.randn(clean.shape, device=clean.device, dtype=clean.dtype)
        step = torch.randint(0, STEPS, (len(clean),), device=clean.device)
        kept = self.kept[step].to(clean.dtype)[:, None, None, None]
        return self.predictor(kept.sqrt() * clean + (1 - kept).sqrt() * noise, step), noise


@ADAPTERS("denoiser")
def denoiser(
    inputs: list[Tensor],
    match: Tensor | None,
    out_features: PositiveInt | None,
    *,
    kernel: Literal[1, 3] = 3,
    latent: PositiveInt | None = None,
    inference_steps: PositiveInt = 5,
) -> nn.Module:
    """DiffKD's diffusion model of a teacher's features, by which a student's are denoised.

    ``inputs`` are the student's and the teacher's features, maps (B, C, H, W) or with ``kernel: 1`` also vectors (B, C)
    -> fields ``refined`` and ``target``, which are compared; ``predicted`` and ``noise``, whose difference trains the
    diffusion; and with ``latent``, the width of an autoencoder of the teacher's features, ``reconstruction``, which is
    compared with these. Without it ``target`` is the teacher's. KDError where shapes or widths do not fit.
    Huang et al., DiffKD, NeurIPS 2023 (arXiv 2305.15712).
    """
    sources = tensors("denoiser", inputs, None, most=2)
    if match is not None or out_features is not None:
        raise KDError("denoiser has the teacher's width: it takes neither match nor out_features")
    if len(sources) != 2:
        raise KDError("denoiser takes the student's and the teacher's features", hint="`inputs: [WIRE, WIRE]`")
    student, teacher = sources
    if student.ndim != teacher.ndim or student.ndim not in ((4,) if kernel == 3 else (2, 4)):
        kind = "maps (B, C, H, W)" if kernel == 3 else "maps (B, C, H, W) or vectors (B, C)"
        raise KDError(f"denoiser takes {kind} of both models, not {shape(student)} and {shape(teacher)}")
    if student.shape[2:] != teacher.shape[2:]:
        raise KDError(f"denoiser takes maps of one size, not {shape(student)} and {shape(teacher)}")
    width = teacher.shape[1] if latent is None else latent
    if kernel == 3 and width < NARROWEST:
        raise KDError(f"denoiser of {width} channels: it needs at least {NARROWEST}", hint="write `latent: 64`")
    if 2 * inference_steps > STEPS:
        raise KDError(f"inference_steps is {inference_steps}, but must be at most {STEPS // 2}", path="inference_steps")
    return Denoiser(student.shape[1], teacher.shape[1], kernel=kernel, latent=latent, inference_steps=inference_steps)
