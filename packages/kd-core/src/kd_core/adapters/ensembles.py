"""Adapters of several models: CA-MKD's embeddings for each teacher, ONE's gate over branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters.registry import ADAPTERS, feature_map, shape
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt


class TeacherEmbeddings(nn.Module):
    """A student's map (B, C, H, W) and a list of teachers' (B, C_k, H_k, W_k) -> lists ``features`` and ``pooled``.

    ``features`` are the student's in the shapes of the teachers', ``pooled`` (B, C_k) their means over the positions,
    which the teachers' classifiers take. A larger map is pooled, a smaller one interpolated.
    """

    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()) for width in widths
        )

    def forward(self, student: Tensor, teachers: list[Tensor]) -> dict[str, list[Tensor]]:
        features = [
            embed(resized(student, (teacher.shape[2], teacher.shape[3])))
            for embed, teacher in zip(self.embeddings, teachers, strict=True)
        ]
        return {"features": features, "pooled": [each.mean((2, 3)) for each in features]}


def resized(source: Tensor, size: tuple[int, int]) -> Tensor:
    """A map with this height and width: pooled where it is as high or higher, else interpolated bilinearly."""
    if source.shape[2:] == size:
        return source
    return (
        F.adaptive_avg_pool2d(source, size)
        if source.shape[2] >= size[0]
        else F.interpolate(source, size, mode="bilinear")
    )


@ADAPTERS("teacher_embeddings")
def teacher_embeddings(inputs: Mapping[str, Any], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """CA-MKD's embeddings: the student's features as each teacher's, by a 1x1 convolution, batch norm and ReLU.

    Inputs ``student``, a map (B, C, H, W), and ``teachers``, a list of theirs (B, C_k, H_k, W_k) -> fields
    ``features``, a list of maps in the teachers' shapes, and ``pooled``, a list of vectors (B, C_k) for the teachers'
    classifiers. KDError where an input is not that.
    Zhang, Chen & Wang, ICASSP 2022 (arXiv 2201.00007); checked against Rorozhl/CA-MKD, where a second teacher of
    another size gets the map that was resized for the first.
    """
    source, teachers = named("teacher_embeddings", inputs, "student", "teachers")
    _takes_no_shape("teacher_embeddings", match, out_features)
    widths = [feature_map("teacher_embeddings", teacher).shape[1] for teacher in teachers]
    return TeacherEmbeddings(source.shape[1], widths)


class Gate(nn.Module):
    """A map (B, C, H, W) and the logits (B, N) of K branches -> ``output`` (B, N), their sum by ``weights`` (B, K)."""

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, branches)
        self.norm = nn.BatchNorm1d(branches)

    def forward(self, features: Tensor, branches: list[Tensor]) -> dict[str, Tensor]:
        weights = F.relu(self.norm(self.linear(features.mean((2, 3))))).softmax(1)
        return {"output": (torch.stack(branches, 2) @ weights[:, :, None]).squeeze(2), "weights": weights}


@ADAPTERS("gate")
def gate(inputs: Mapping[str, Any], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """ONE's gate: how much each branch counts for a sample, as the features that they share say, and their sum.

    Inputs ``features``, a map (B, C, H, W), and ``branches``, a list of logits (B, N) -> fields ``output`` (B, N), the
    weighted sum, and ``weights`` (B, K), the softmax of a linear layer with batch norm and ReLU on the pooled map.
    KDError where an input is not that.
    Lan, Zhu & Gong, ONE, NeurIPS 2018 (arXiv 1806.04606); checked against Lan1991Xu/ONE_NeurIPS2018.
    """
    source, branches = named("gate", inputs, "features", "branches")
    _takes_no_shape("gate", match, out_features)
    if len({branch.shape for branch in branches}) > 1 or branches[0].ndim != 2:
        shapes = ", ".join(map(shape, branches))
        raise KDError(f"gate takes logits (B, N) of one shape, not {shapes}", path="inputs")
    return Gate(source.shape[1], len(branches))


def named(adapter: str, inputs: Any, one: str, several: str) -> tuple[Tensor, list[Tensor]]:
    """The feature map ``one`` and the list of tensors ``several`` among inputs; KDError where they are not that."""
    if not isinstance(inputs, Mapping) or set(inputs) != {one, several}:
        hint = f"write `inputs: {{{one}: WIRE, {several}: [WIRE, ...]}}`"
        raise KDError(f"{adapter} takes its inputs by the names {one} and {several}", hint=hint, path="inputs")
    if not isinstance(inputs[several], (list, tuple)) or not inputs[several]:
        hint = "several models under one name make a list: `models.teacher: [MODEL, MODEL]`"
        raise KDError(f"{several} must be a list of tensors", path=f"inputs.{several}", hint=hint)
    return feature_map(adapter, inputs[one]), list(inputs[several])


def _takes_no_shape(name: str, match: Tensor | None, out_features: int | None) -> None:
    if match is not None or out_features is not None:
        key = "match" if match is not None else "out_features"
        raise KDError(f"{name} takes its shape from its inputs", path=key, hint=f"leave {key} out")
