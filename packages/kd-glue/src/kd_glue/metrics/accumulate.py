"""Metrics over a split, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_core.class_figures import ClassFigures, of_classes, of_counts
from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_core.task import Metrics, logits_of
from kd_glue.data.tasks import TASKS
from kd_glue.metrics.measures import Array, measured, mse

REGRESSION = "regression"
MULTI = "multi_label_classification"
OWN = {
    "single_label_classification": ("accuracy", "f1_macro"),
    MULTI: ("f1_micro", "f1_macro", "exact_match"),
    REGRESSION: ("pearson", "spearmanr"),
}
"""The metrics whose mean is ``score``, for data that are not a task of GLUE."""
MISMATCHED = 1
"""In ``batch.group``: the sample is of MNLI's mismatched set."""


class GlueMetrics(Metrics):
    """A task's metrics, ``loss`` and ``score``, over the labelled samples (target neither -100 nor NaN).

    The metrics are those of :mod:`kd_glue.metrics.measures`: of the task of GLUE ``name``, or where that is None those
    of the ``problem``, a regression having ``mse`` besides. A class is predicted where its logit is the highest, the
    first of equal ones; for several classes a text, where it is over 0. ``score`` is the metrics' mean, ``mse`` apart.
    MNLI's are those of the matched set, with ``accuracy_mm`` of the mismatched one. ``loss`` is the mean cross entropy
    in nats, over all samples; binary and over all classes too for several classes a text; for a regression the mean
    squared error. NaN where no sample has a label.

    Samples are put in the order of ``batch.index`` and counted all at once, so that neither how they were batched nor
    their order changes a bit.
    """

    def __init__(
        self, name: str | None, problem: str, num_classes: int | None, classes: Sequence[str] | None = None
    ) -> None:
        self.problem, self.num_classes, self.classes = problem, num_classes, classes
        self.names = OWN[problem] if name is None else TASKS[name].metrics
        self.extra = name is None and problem == REGRESSION
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, output: Any, batch: Batch) -> None:
        """Add logits, or a regression's predictions, (B, C); KDError where the output is of another shape."""
        logits, target = logits_of(output).detach(), batch.target
        if self.problem == REGRESSION and logits.ndim == 1:
            logits = logits[:, None]
        classes = target.shape[1] if target.ndim == 2 else self.num_classes
        if logits.ndim != 2 or len(logits) != len(target) or logits.shape[1] != (classes or logits.shape[1]):
            raise KDError(
                f"a {self.problem} is scored on outputs ({len(target)}, {classes or 'classes'}), "
                f"the model returned {tuple(logits.shape)}"
            )
        group = batch.extra.get("group", torch.zeros_like(batch.index))
        self._seen.append((batch.index, logits, target, group))

    def compute(self) -> dict[str, float]:
        """The figures over everything seen so far."""
        if not self._seen:
            return self._figures(np.empty((0, 1)), np.empty((0, 1)), np.empty(0))
        return self._figures(*self._labelled())

    def by_class(self) -> ClassFigures | None:
        """Precision, recall and F1 of each class as fractions, and the confusion matrix; of MNLI the matched set's.

        Where a text has several classes, those of each class alone, without a matrix. None for a regression.
        """
        if not self._seen or self.problem == REGRESSION:
            return None
        logits, target, group = self._labelled()
        logits, target = logits[group != MISMATCHED], target[group != MISMATCHED].astype(np.int64)
        width, answers = logits.shape[1], self._predictions(logits)
        if self.problem != MULTI:
            return of_classes(self.classes, target, answers, width, scale=1.0, recall="recall")
        hits = (answers & target).sum(0)
        columns = of_counts(hits, target.sum(0), answers.sum(0), scale=1.0, recall="recall")
        return ClassFigures(tuple(self.classes or map(str, range(width))), columns)

    def _labelled(self) -> tuple[Array, Array, Array]:
        """Logits (N, C), targets and groups of the samples that have labels, in the order of their rows."""
        index, logits, target, group = (
            torch.cat(column).cpu().to(torch.float64 if column[0].is_floating_point() else torch.int64).numpy()
            for column in zip(*self._seen, strict=True)
        )
        labelled = (np.isfinite(target) & (target != -100)).reshape(len(target), -1).all(1)
        order = np.argsort(index, kind="stable")
        order = order[labelled[order]]
        return logits[order], target[order], group[order]

    def _figures(self, logits: Array, target: Array, group: Array) -> dict[str, float]:
        """Of logits (N, C) and targets (N,) or (N, C) that all are known."""
        predictions = self._predictions(logits)
        target = target[:, 0] if self.problem == REGRESSION else target
        matched = group != MISMATCHED
        metrics = measured(self.names, target[matched], predictions[matched])
        metrics["score"] = float(np.mean(list(metrics.values())))
        if not matched.all():
            metrics["accuracy_mm"] = measured(["accuracy"], target[~matched], predictions[~matched])["accuracy"]
        loss = self._loss(logits, target) if len(target) else float("nan")
        return {**metrics, **({"mse": loss} if self.extra else {}), "loss": loss}

    def _predictions(self, logits: Array) -> Array:
        """Classes (N,), decisions (N, C) or numbers (N,)."""
        if self.problem == REGRESSION:
            return logits[:, 0]
        return (logits > 0).astype(np.int64) if self.problem == MULTI else logits.argmax(1)

    def _loss(self, logits: Array, target: Array) -> float:
        from scipy.special import logsumexp

        with np.errstate(invalid="ignore"):  # of infinite logits the loss is NaN or infinite, which tells enough
            if self.problem == REGRESSION:
                return mse(target, logits[:, 0])
            if self.problem == MULTI:
                return float(np.mean(np.logaddexp(0, logits) - logits * target))
            target_logits = np.take_along_axis(logits, target[:, None], 1)[:, 0]
            return float(np.mean(logsumexp(logits, axis=1) - target_logits))
