"""Factor transfer: the teacher's features in the words of a paraphraser, the student's in those of a translator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.losses.closed_form import unit
from kd_core.losses.features import attention
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import maps_of_one_size, same_shape
from kd_core.ranges import NormOrder


@LOSSES("factor_transfer")
@mean_over_samples
def factor_transfer(student: Tensor, teacher: Tensor, *, p: NormOrder = 1.0, pool_channels: bool = False) -> Tensor:
    """Distance of two factors, each sample's flattened and L2-normalised.

    student, teacher (B, F, H, W) of one shape, the translator's and the paraphraser's -> scalar: with ``p`` 1 the mean
    absolute difference over all elements, as in the authors' code, else the mean over B of the difference's ``p``-norm,
    as in the paper. With ``pool_channels`` the mean square over the channels takes the factors' place, the larger map
    average-pooled to the size of the smaller, as in RepDistiller. KDError where the shapes differ or p is below 1.
    Kim et al., NeurIPS 2018, eq. 3 (arXiv 1802.04977); checked against Jangho-Kim/Factor-Transfer-pytorch, where p is
    1, yoshitomo-matsubara/torchdistill (FTLoss) and HobbitLong/RepDistiller.
    """
    if pool_channels:
        student, teacher = (attention(each, 2.0) for each in maps_of_one_size(student, teacher))
    else:
        student, teacher = (unit(tensor.flatten(1)) for tensor in same_shape(student, teacher, dim=1))
    if p == 1:
        return F.l1_loss(student, teacher)
    return torch.linalg.vector_norm(student - teacher, p, dim=1).mean()
