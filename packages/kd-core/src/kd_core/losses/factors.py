"""Factor transfer: the teacher's features in the words of a paraphraser, the student's in those of a translator."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_shape
from kd_core.ranges import PositiveFloat


@LOSSES("factor_transfer")
@mean_over_samples
def factor_transfer(student: Tensor, teacher: Tensor, *, p: PositiveFloat = 1.0) -> Tensor:
    """Mean of |a - b|^p over the elements of two factors, each sample's flattened and L2-normalised.

    student, teacher (B, F, H, W) of one shape, the translator's and the paraphraser's -> scalar, the mean over all
    elements. KDError where the shapes differ or p is not above 0.
    Kim et al., NeurIPS 2018, section 3.2 (arXiv 1802.04977); at p = 1 checked against
    Jangho-Kim/Factor-Transfer-pytorch.
    """
    student, teacher = (F.normalize(tensor.flatten(1)) for tensor in same_shape(student, teacher, dim=1))
    return F.l1_loss(student, teacher) if p == 1 else (student - teacher).abs().pow(p).mean()
