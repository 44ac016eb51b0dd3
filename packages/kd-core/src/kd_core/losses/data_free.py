"""What a generator of images learns by where there are no data: a teacher that was trained on such data judges them.

Chen et al., *Data-Free Learning of Student Networks* (DAFL), ICCV 2019 (arXiv 1904.01186); checked against
huawei-noah/Data-Efficient-Model-Compression.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, shape


@LOSSES("information_entropy")
def information_entropy(input: Tensor) -> Tensor:
    """The negative entropy of a batch's mean probabilities: it is least where all classes are as frequent.

    input (B, C) or (B, C, ...) logits -> scalar: the sum over the classes of p log10(p), p (C,) being the means of the
    probabilities over all other elements; between -log10(C) and 0. KDError where there is one class.
    Chen et al., DAFL, ICCV 2019, eq. 6, to base 10 as in the authors' code (arXiv 1904.01186); checked against
    huawei-noah/Data-Efficient-Model-Compression.
    """
    if input.ndim < 2 or input.shape[1] < 2:
        raise KDError(f"input {shape(input)} must be logits (B, C, ...) of two classes or more", path="input")
    means = F.softmax(as_float32(input), dim=1).transpose(0, 1).flatten(1).mean(1)
    # of a class that is never likely the logarithm is finite, so that its product with 0 is 0
    return (means * means.clamp(min=torch.finfo(means.dtype).tiny).log10()).sum()


@LOSSES("feature_activation")
@mean_over_samples
def feature_activation(input: Tensor) -> Tensor:
    """The negative mean magnitude of features: images like those that a model was trained on activate it more.

    input (B, ...) -> scalar, at most 0.
    Chen et al., DAFL, ICCV 2019, eq. 5, as a mean as in the authors' code (arXiv 1904.01186); checked against
    huawei-noah/Data-Efficient-Model-Compression.
    """
    return -as_float32(input).abs().mean()
