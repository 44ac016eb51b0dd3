"""A student's features with the mean and deviation of the teacher's, as the teacher's later layers expect them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.linalg import vector_norm

from kd_core.adapters.registry import ADAPTERS, feature_map, shape, tensors
from kd_core.errors import KDError

SMALL = 1e-6
"""What the authors add to a standard deviation."""


class MatchedStatistics(nn.Module):
    """(student, teacher) -> the student's map with each channel's mean and deviation of the teacher's, and ReLU."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        (centred, deviation, _), (_, scale, mean) = _statistics(student), _statistics(teacher)
        matched = centred / (deviation + SMALL) * scale + mean
        return matched.relu() if self.relu else matched


def _statistics(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``maps`` (B, C, H, W) less the channels' means, their standard deviations and the means, (1, C, 1, 1)."""
    mean = maps.mean((0, 2, 3), keepdim=True)
    centred = maps - mean
    degrees = max(maps[:, 0].numel() - 1, 1)
    return centred, vector_norm(centred, dim=(0, 2, 3), keepdim=True) / degrees**0.5, mean


@ADAPTERS("matched_statistics")
def matched_statistics(
    inputs: list[Tensor] | Mapping[str, Tensor], match: Tensor | None, out_features: int | None, *, relu: bool = False
) -> nn.Module:
    """CrossKD's alignment: the student's map with the mean and standard deviation of the teacher's, channel by channel.

    A map (B, C, H, W) of the student and one of the teacher with as many channels -> (B, C, H, W), over all positions
    of a process's micro-batch, as in batch norm; with ``relu`` negative values become 0, for maps before an activation.
    KDError where the inputs are something else. Wang et al., CVPR 2024 (arXiv 2306.11369); checked against
    jbwang1997/CrossKD.
    """
    pair = [inputs[key] for key in ("student", "teacher") if key in inputs] if isinstance(inputs, Mapping) else inputs
    if match is not None or out_features is not None or len(pair) != 2:
        hint = "write `inputs: {student: WIRE, teacher: WIRE}`"
        raise KDError("matched_statistics takes a map of the student and one of the teacher, and no width", hint=hint)
    student, teacher = tensors("matched_statistics", pair, match, most=2)
    for source in (student, teacher):
        feature_map("matched_statistics", source)
    if student.shape[1] != teacher.shape[1]:
        raise KDError(
            f"{shape(student)} and {shape(teacher)} differ in channels",
            hint="bring the student to the teacher's width with a projector first",
        )
    return MatchedStatistics(relu)
