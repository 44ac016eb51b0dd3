"""Focal distillation of detectors' feature maps: boxes and background apart, weighted by where the teacher looks."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, constant, same_shape, shape
from kd_core.ranges import PositiveFloat


@LOSSES("fgd")
@mean_over_samples
def fgd(
    student: Tensor,
    teacher: Tensor,
    boxes: Tensor,
    *,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 1e-3,
    temperature: PositiveFloat = 0.5,
) -> Tensor:
    """FGD's focal part: squared differences in boxes and in the background, weighted by the teacher's attention.

    student, teacher (B, C, H, W) of one shape; boxes (B, M, 4), x1 y1 x2 y2 as fractions of the map's width and height,
    a row whose x2 is below its x1 being no box -> scalar, the mean over the samples. The attention of a position or a
    channel is the softmax of its mean absolute value over ``temperature``, times their number. A cell that a box
    touches counts ``alpha`` over the number of cells of the smallest such box, any other cell ``beta`` over the number
    of those; ``gamma`` weighs the absolute differences between the attentions of both models. KDError where shapes do
    not fit or the temperature is not above 0. The global part is ``mgd`` of two adapters ``global_context``.
    Yang et al., *Focal and Global Knowledge Distillation for Detectors*, CVPR 2022 (arXiv 2111.11837); checked against
    yzd-v/FGD, which takes fractions of an image without its padding.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    if student.ndim != 4:
        raise KDError(f"fgd compares feature maps (B, C, H, W), and student is {shape(student)}", path="student")
    if boxes.shape[:1] != student.shape[:1] or boxes.ndim != 3 or boxes.shape[2] != 4:
        rule = f"it is (B, M, 4) with the B of student {shape(student)}"
        raise KDError(f"boxes {shape(boxes)} does not fit: {rule}", path="boxes")
    places, channels = _attention(student, temperature)
    teacher_places, teacher_channels = _attention(teacher, temperature)
    foreground = _foreground(as_float32(boxes).detach(), *student.shape[2:]).to(student.dtype)
    background = (foreground == 0).to(student.dtype)
    background = background / background.sum((1, 2), keepdim=True).clamp(min=1)
    differences = (student - teacher).square() * teacher_places[:, None] * teacher_channels[:, :, None, None]
    features = (differences.sum(1) * (alpha * foreground + beta * background)).sum()
    attentions = (places - teacher_places).abs().sum() + (channels - teacher_channels).abs().sum()
    return (features + gamma * attentions) / len(student)


def _attention(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of the positions (B, H, W) and of the channels (B, C): how much each counts, 1 on average."""
    sizes = features.abs()
    places, channels = sizes.mean(1).flatten(1), sizes.mean((2, 3))
    positions = places.shape[1] * (places / temperature).softmax(1)
    return positions.view_as(sizes[:, 0]), channels.shape[1] * (channels / temperature).softmax(1)


def _foreground(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B, M, 4) fractions -> (B, H, W): 1 over the cells of the smallest box that touches a cell, 0 where none does.

    A box touches the cells from the one in which it begins to the one after that in which it ends, as in the authors'
    code, which counts cells beyond the map's end.
    """
    if not boxes.shape[1]:
        return boxes.new_zeros(len(boxes), height, width)
    x1, y1, x2, y2 = (boxes * constant((width, height, width, height), boxes)).unbind(2)
    inside = [
        (first.floor()[..., None] <= cells) & (cells <= last.ceil()[..., None])
        for first, last, cells in (
            (y1, y2, torch.arange(height, device=boxes.device)),
            (x1, x2, torch.arange(width, device=boxes.device)),
        )
    ]
    real = (x2 >= x1) & (y2 >= y1)
    area = (y2.ceil() - y1.floor() + 1) * (x2.ceil() - x1.floor() + 1)
    share = torch.where(real, 1 / area.where(real, 1.0), 0.0)
    return (share[..., None, None] * inside[0][..., None] * inside[1][:, :, None]).amax(1)
