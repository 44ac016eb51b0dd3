"""MixUp and CutMix as views: images of a batch mixed in pairs, with soft targets, for every model alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Beta

from kd_core.data.batch import Batch
from kd_core.data.views import VIEWS
from kd_core.errors import KDError
from kd_core.ranges import PositiveFloat, PositiveInt, Probability
from kd_core.taps.nested import map_tensors

Mix = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) with those of each one's partner mixed in."""


@VIEWS("mixup")
def mixup(batch: Batch, *, num_classes: PositiveInt, alpha: PositiveFloat = 0.2) -> Batch:
    """Each image is ``share`` of itself and the rest of the image before it in the batch, and so is its target.

    The share is drawn from Beta(``alpha``, ``alpha``), one for the batch, by the run's own random state. Teachers see
    the same images. Targets become (B, ``num_classes``) probabilities. KDError where some images have no label.
    Zhang et al., ICLR 2018 (arXiv 1710.09412), as in torchvision.
    """
    share = drawn(alpha)
    return mixed(batch, num_classes, share, lambda images: images.lerp(images.roll(1, 0), 1 - share))


@VIEWS("cutmix")
def cutmix(batch: Batch, *, num_classes: PositiveInt, alpha: PositiveFloat = 1.0) -> Batch:
    """Each image has a box of the image before it in the batch, and its target so much of that one's class.

    The share of the image itself is drawn from Beta(``alpha``, ``alpha``) and the box's centre uniformly, one for the
    batch, by the run's own random state. Teachers see the same images. KDError where some images have no label.
    Yun et al., ICCV 2019 (arXiv 1905.04899), as in torchvision.
    """
    side, centre = (1 - drawn(alpha)) ** 0.5, torch.rand(2).tolist()
    spans = [(max(middle - side / 2, 0.0), min(middle + side / 2, 1.0)) for middle in centre]
    covered = 1.0

    def pasted(images: Tensor) -> Tensor:
        rows, columns = (
            slice(round(low * size), round(high * size))
            for (low, high), size in zip(spans, images.shape[-2:], strict=True)
        )
        images = images.clone()
        images[..., rows, columns] = images.roll(1, 0)[..., rows, columns]
        return images

    for low, high in spans:
        covered *= high - low
    return mixed(batch, num_classes, 1 - covered, pasted)


@VIEWS("mixup_or_cutmix")
def mixup_or_cutmix(
    batch: Batch,
    *,
    num_classes: PositiveInt,
    mixup_alpha: PositiveFloat = 0.2,
    cutmix_alpha: PositiveFloat = 1.0,
    p: Probability = 0.5,
) -> Batch:
    """One of the two for each batch: CutMix with probability ``p``, otherwise MixUp, as in torchvision's recipes."""
    if float(torch.rand(())) < p:
        return cutmix(batch, num_classes=num_classes, alpha=cutmix_alpha)
    return mixup(batch, num_classes=num_classes, alpha=mixup_alpha)


def drawn(alpha: float) -> float:
    """A number in [0, 1] of the distribution Beta(alpha, alpha)."""
    return float(Beta(alpha, alpha).sample())


def mixed(batch: Batch, num_classes: int, share: float, mix: Mix) -> Batch:
    """The batch with all models' images mixed, and targets of ``share`` an image's own class.

    Images that have no label at all keep that: what they teach is the teacher's.
    """
    target: Tensor = batch.target
    if target.is_floating_point() or target.ndim != 1:
        raise KDError("mixing takes images of one class each")
    known = target if batch.known_target is None else batch.known_target  # reading a GPU's would wait for it
    inputs = map_tensors(mix, batch.inputs)
    least, most = int(known.min()), int(known.max())
    if most < 0:
        return replace(batch, inputs=inputs)
    if least < 0:
        raise KDError("mixing images with labels and images without gives targets that are neither")
    if most >= num_classes:
        message = f"the batch has the class {most}, and num_classes is {num_classes}"
        raise KDError(message, path="num_classes")
    own = torch.zeros(len(target), num_classes, device=target.device).scatter_(1, target.unsqueeze(1), 1.0)
    return replace(batch, inputs=inputs, target=own.lerp(own.roll(1, 0), 1 - share))
