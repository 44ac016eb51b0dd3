"""SemCKD: each layer of a student learns from all layers of its teacher, from those most that relate samples alike.

Chen et al., *Cross-Layer Distillation with Semantic Calibration*, AAAI 2021 (arXiv 2012.03236); checked against
DefangChen/SemCKD and DefangChen/SimKD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, maps_of_one_size, shape
from kd_core.ranges import PositiveFloat, PositiveInt


@LOSSES("semckd")
@over_batch
class SemCKD(nn.Module):
    """Mean squared difference of every projected layer of the student from every layer of the teacher, weighted.

    student, teacher: lists of feature maps (B, C, H, W), of any two lengths; the larger of two maps is average-pooled
    to the size of the smaller -> scalar, the mean over B and the student's layers of the weighted sum over the
    teacher's. The weights are a softmax over the teacher's layers: inner products, over ``temperature``, of embeddings
    of a sample's similarities with the samples of its batch. ``batch_size`` is ``!run batch_size``, which the widths of
    the embeddings follow, 1 / ``factor`` as wide; a smaller batch counts as one with zeros. The projections (1x1, 3x3
    and 1x1 convolutions) and the embeddings are trained. KDError where B differs or is above ``batch_size``.
    """

    def __init__(
        self,
        *,
        batch_size: PositiveInt,
        student_widths: Sequence[int],
        teacher_widths: Sequence[int],
        factor: PositiveInt = 4,
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        if factor > batch_size:
            raise KDError(f"factor must be at most batch_size, {batch_size}, not {factor}", path="factor")
        self.batch_size, self.temperature = batch_size, temperature
        self.keys = nn.ModuleList(_embedding(batch_size, batch_size // factor) for _ in teacher_widths)
        self.queries = nn.ModuleList(_embedding(batch_size, batch_size // factor) for _ in student_widths)
        self.projections = nn.ModuleList(
            nn.ModuleList(_projection(ours, theirs) for theirs in teacher_widths) for ours in student_widths
        )

    @classmethod
    def from_inputs(
        cls,
        inputs: Mapping[str, Sequence[Tensor]],
        *,
        batch_size: PositiveInt,
        factor: PositiveInt = 4,
        temperature: PositiveFloat = 1.0,
    ) -> SemCKD:
        """The loss for the feature maps of a probe batch."""
        widths = {name: [_channels(features) for features in inputs[name]] for name in ("student", "teacher")}
        return cls(
            batch_size=batch_size,
            student_widths=widths["student"],
            teacher_widths=widths["teacher"],
            factor=factor,
            temperature=temperature,
        )

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """The loss; see the class."""
        _same_samples(student, teacher)
        weights = self._attention(student, teacher)
        errors = torch.stack([self._errors(number, ours, teacher) for number, ours in enumerate(student)], 1)
        return (weights * errors).sum((1, 2)).mean() / len(student)

    def _errors(self, number: int, student: Tensor, teacher: list[Tensor]) -> Tensor:
        """(B, teacher's layers): the mean squared difference of a projected layer of the student from each of them."""
        projections = self.projections[number]
        assert isinstance(projections, nn.ModuleList)
        pairs = (maps_of_one_size(student, theirs) for theirs in teacher)
        columns = [
            (projection(ours) - theirs).square().flatten(1).mean(1)
            for projection, (ours, theirs) in zip(projections, pairs, strict=True)
        ]
        return torch.stack(columns, 1)

    def _attention(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """(B, student's layers, teacher's layers)."""
        queries = self._embedded(self.queries, student)
        keys = self._embedded(self.keys, teacher)
        return (queries @ keys.mT / self.temperature).softmax(-1)

    def _embedded(self, embeddings: nn.ModuleList, layers: list[Tensor]) -> Tensor:
        """(B, layers, width), rows of length 1."""
        missing = self.batch_size - len(layers[0])
        if missing < 0:
            raise KDError(f"a batch of {len(layers[0])} samples is larger than batch_size {self.batch_size}")
        rows = [as_float32(features).flatten(1) for features in layers]
        similarities = [F.pad(row @ row.mT, (0, missing)) for row in rows]
        return torch.stack([F.normalize(embed(near)) for embed, near in zip(embeddings, similarities, strict=True)], 1)


def _same_samples(student: list[Tensor], teacher: list[Tensor]) -> None:
    """KDError where the layers have not one batch size."""
    named = [
        (f"{name}/{number}", features)
        for name, layers in (("student", student), ("teacher", teacher))
        for number, features in enumerate(layers)
    ]
    if len({len(features) for _, features in named}) > 1:
        shapes = ", ".join(f"{name} {shape(features)}" for name, features in named)
        raise KDError(f"{shapes} must have the same batch size", path="student")


def _embedding(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * out), nn.ReLU(), nn.Linear(2 * out, out))


def _projection(channels: int, out: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions, twice as wide within."""
    layers: list[nn.Module] = []
    for width, kernel in ((2 * out, 1), (2 * out, 3)):
        convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, out, 1, bias=False))


def _channels(features: Tensor) -> int:
    if features.ndim != 4:
        raise KDError(f"semckd takes feature maps (B, C, H, W), not {shape(features)}")
    return features.shape[1]
