"""Classified texts as a report shows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.data.batch import Batch, DatasetInfo, Split
from kd_core.report.samples import SampleView, SampleViewer, class_name, probabilities, sample_name
from kd_core.task import logits_of
from kd_glue.data.splits import TextSplit
from kd_glue.metrics.accumulate import MULTI, REGRESSION

LONGEST = 2000
"""Characters of a text that are shown."""


class TextViewer(SampleViewer):
    """Texts with their loss: the cross entropy in nats, of several classes the mean of them, of a number the error."""

    title = "The texts with the highest loss"

    def losses(self, output: Any, batch: Batch, info: DatasetInfo) -> Tensor:
        """(B,) losses; infinite where outputs are not finite."""
        logits, target = logits_of(output).float(), batch.target
        if info.problem_type == REGRESSION:
            losses, labelled = (logits.reshape(target.shape) - target).square().flatten(), target.isfinite().flatten()
        elif info.problem_type == MULTI:
            losses = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none").mean(1)
            labelled = (target != -100).all(1)
        else:
            losses, labelled = F.cross_entropy(logits, target, reduction="none", ignore_index=-100), target >= 0
        return losses.nan_to_num(nan=torch.inf).where(labelled, torch.nan)

    def view(self, split: Split, position: int, raw: Batch, output: Any, info: DatasetInfo) -> SampleView:
        """A text, or two, with truth and prediction."""
        assert isinstance(split, TextSplit)
        parts = [str(part) for part in split.text(position)]
        text = "\n\n".join(parts)
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        return SampleView(sample_name(split, position, raw), facts_of(logits_of(output)[0].cpu(), raw, info), shown)


def facts_of(logits: Tensor, raw: Batch, info: DatasetInfo) -> dict[str, str]:
    """Truth and prediction of one text."""
    if info.problem_type == REGRESSION:
        return {"true": f"{float(raw.target[0]):.4g}", "predicted": f"{float(logits.flatten()[0]):.4g}"}
    if info.problem_type != MULTI:
        return probabilities(logits, info, int(raw.target[0]))

    def names(chosen: Tensor) -> str:
        return ", ".join(class_name(info, int(label)) for label in chosen.nonzero()) or "none"

    return {"true": names(raw.target[0] > 0), "predicted": names(logits > 0)}
