"""Class attention transfer: where each class is seen in an image, by its class activation map."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, shape
from kd_core.ranges import PositiveInt


@LOSSES("class_attention")
@mean_over_samples
def class_attention(student: Tensor, teacher: Tensor, *, size: PositiveInt = 2, normalize: bool = False) -> Tensor:
    """Mean squared difference of class activation maps, average-pooled to ``size`` x ``size``.

    student (B, K, H, W), teacher (B, K, h, w): the maps of K classes, which the adapter ``class_maps`` makes -> scalar,
    the mean over B, K and the pooled positions. With ``normalize`` each class's pooled map is L2-normalised first.
    KDError where B or K differs.
    Guo et al., *Class Attention Transfer Based Knowledge Distillation*, CVPR 2023, eq. 4 (arXiv 2304.12777); checked
    against GzyAftermath/CAT-KD.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        rule = "must be class activation maps (B, K, H, W) with the same B and K"
        raise KDError(f"student {shape(student)} and teacher {shape(teacher)} {rule}", path="student")
    maps = [F.adaptive_avg_pool2d(as_float32(each), size) for each in (student, teacher)]
    ours, theirs = [F.normalize(each.flatten(2), dim=2) if normalize else each for each in maps]
    return F.mse_loss(ours, theirs)
