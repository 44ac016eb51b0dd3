"""Accuracy, loss and calibration of a classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_core.task import Metrics, logits_of

BINS = 15


class ClassificationMetrics(Metrics):
    """top1, top5 and ece in percent, loss in nats, over the labelled samples (target not -100).

    ``top5`` counts the five most likely classes, or all where there are fewer; of equal logits the first class is the
    likeliest, and of a sample with NaN among them nothing is right. ``ece`` is the expected calibration
    error with 15 bins of equal width: the mean over samples of |accuracy - confidence| of a sample's bin (Guo et al.,
    ICML 2017, eq. 3, arXiv 1706.04599). Sums stay on the device until :meth:`compute`. NaN where no sample had a label.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes
        self._totals: Tensor | None = None
        self._bins: Tensor | None = None

    @torch.no_grad()
    def update(self, output: Any, batch: Batch) -> None:
        """Add logits (B, C) with targets (B,); KDError where the output is of another shape."""
        logits, target = logits_of(output).float(), batch.target
        if logits.ndim != 2 or len(logits) != len(target) or logits.shape[1] < (self.num_classes or 1):
            raise KDError(
                f"classification is scored on logits ({len(target)}, {self.num_classes or 'classes'}), "
                f"the model returned {tuple(logits.shape)}"
            )
        labelled = target >= 0
        probabilities = logits.softmax(1)
        confidence = probabilities.amax(1)
        rank = rank_of(logits, target.clamp(min=0))
        loss = F.cross_entropy(logits, target, reduction="none", ignore_index=-100)
        wide = torch.float32 if logits.device.type == "mps" else torch.float64  # mps has no float64
        per_sample = torch.stack([labelled, labelled & (rank < 1), labelled & (rank < 5), loss], 1).to(wide)
        # bins are (low, high]; a product with one-hot rows adds in the same order on every device, unlike scatter_add
        bins = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
        member = F.one_hot(bins, BINS).to(wide) * labelled[:, None]
        in_bins = member.T @ torch.stack([(rank < 1).to(wide), confidence.to(wide)], 1)
        if self._totals is None or self._bins is None:
            self._totals, self._bins = per_sample.sum(0), in_bins
        else:
            self._totals += per_sample.sum(0)
            self._bins += in_bins

    def compute(self) -> dict[str, float]:
        """The figures over everything seen so far."""
        if self._totals is None or self._bins is None:
            return dict.fromkeys(("top1", "top5", "loss", "ece"), float("nan"))
        count, top1, top5, loss = self._totals.tolist()
        gap = (self._bins[:, 0] - self._bins[:, 1]).abs().sum().item()
        if not count:
            return dict.fromkeys(("top1", "top5", "loss", "ece"), float("nan"))
        return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": loss / count, "ece": 100 * gap / count}


def rank_of(logits: Tensor, target: Tensor) -> Tensor:
    """How many classes are likelier than the target's: logits (B, C), target (B,) -> (B,); with NaN among them, C.

    Of equal logits the first class is the likeliest, as in :func:`torch.argmax` and in the other tasks.
    """
    chosen, before = logits.gather(1, target[:, None]), torch.arange(logits.shape[1], device=logits.device)
    likelier = (logits > chosen) | ((logits == chosen) & (before < target[:, None]))
    return likelier.sum(1).where(~logits.isnan().any(1), logits.shape[1])
