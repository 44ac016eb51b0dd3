"""Accuracy, loss and calibration of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.class_figures import ClassFigures, of_classes
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

    def __init__(self, num_classes: int | None = None, classes: Sequence[str] | None = None) -> None:
        self.num_classes, self.classes = num_classes, classes
        self._answers: list[Tensor] = []
        """Of each batch true and predicted classes (2, B), -1 for none."""
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
        answers = logits.argmax(1).where(~logits.isnan().any(1), -1)
        self._answers.append(torch.stack([target.where(labelled, -1), answers]))
        self._width = logits.shape[1]
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

    def by_class(self) -> ClassFigures | None:
        """Accuracy, precision and F1 of each class in percent, and the confusion matrix.

        The accuracy of a class is the share of its samples that are found. A sample with NaN among its logits is found
        for no class.
        """
        if not self._answers:
            return None
        true, predicted = torch.cat(self._answers, 1).cpu().numpy().astype(np.int64)
        labelled = true >= 0
        return of_classes(
            self.classes, true[labelled], predicted[labelled], self._width, scale=100.0, recall="accuracy"
        )


def rank_of(logits: Tensor, target: Tensor) -> Tensor:
    """How many classes are likelier than the target's: logits (B, C), target (B,) -> (B,); with NaN among them, C.

    Of equal logits the first class is the likeliest, as in :func:`torch.argmax` and in the other tasks.
    """
    chosen, before = logits.gather(1, target[:, None]), torch.arange(logits.shape[1], device=logits.device)
    likelier = (logits > chosen) | ((logits == chosen) & (before < target[:, None]))
    return likelier.sum(1).where(~logits.isnan().any(1), logits.shape[1])
