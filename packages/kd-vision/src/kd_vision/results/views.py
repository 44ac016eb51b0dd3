"""Classified images as a report shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.data.batch import SHARED, Batch, DatasetInfo, Split
from kd_core.report.samples import SampleView, SampleViewer, probabilities, sample_name
from kd_core.task import logits_of


class ImageViewer(SampleViewer):
    """Images with the cross entropy of their classes in nats."""

    title = "The images with the highest loss"

    def losses(self, output: Any, batch: Batch, info: DatasetInfo) -> Tensor:
        """(B,) cross entropies; infinite where logits are not finite."""
        logits, target = logits_of(output).float(), batch.target
        losses = F.cross_entropy(logits, target, reduction="none", ignore_index=-100).nan_to_num(nan=torch.inf)
        return losses.where(target >= 0, torch.nan)

    def view(self, split: Split, position: int, raw: Batch, output: Any, info: DatasetInfo) -> SampleView:
        """An image with its true and its predicted class."""
        from PIL import Image

        pixels = raw.inputs[SHARED][0]
        array = pixels.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        array = np.repeat(array, 3, 2) if array.shape[2] == 1 else array[:, :, :3]
        facts = probabilities(logits_of(output)[0].cpu(), info, int(raw.target[0]))
        return SampleView(
            sample_name(split, position, raw), facts, picture=Image.fromarray(np.ascontiguousarray(array))
        )
