"""Segmented images as a report shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_core.data.batch import SHARED, STUDENT, Batch, DatasetInfo, Split
from kd_core.report.samples import SampleView, SampleViewer
from kd_seg.data.splits import SegSplit
from kd_seg.metrics import confusion, figures_of, pairs, predicted
from kd_seg.results.pictures import side_by_side
from kd_seg.results.predict import masks_of, panels_of


class MaskViewer(SampleViewer):
    """Images with what their mean IoU lacks of 100 percent."""

    title = "The images with the lowest mean IoU"
    wide = True

    def losses(self, output: Any, batch: Batch, info: DatasetInfo) -> Tensor:
        """(B,) 100 less the mean IoU over the classes of an image; NaN where its truth is void all over."""
        scores = [
            figures_of(confusion(classes, truth, logits.shape[1]).cpu().numpy())["miou"]
            for logits, target in pairs(output, batch.target, info.model_parameters.get("num_classes"))
            for classes, truth in zip(predicted(logits, target.shape[-2:]), target, strict=True)
        ]
        return 100 - torch.tensor(scores, dtype=torch.float64)

    def view(self, split: Split, position: int, raw: Batch, output: Any, info: DatasetInfo) -> SampleView:
        """The image, its truth and what the student sees, side by side."""
        assert isinstance(split, SegSplit)
        mask = masks_of(STUDENT, output, raw, info.model_parameters.get("num_classes"))[0]
        pixels, truth = raw.inputs[SHARED][0], raw.target[0].numpy().astype(np.int16)
        score = 100 - float(self.losses(output, raw, info)[0])
        panels = panels_of(pixels.permute(1, 2, 0).numpy(), truth, {STUDENT: mask}, {STUDENT: score})
        classes = info.classes or tuple(map(str, range(int(max(mask.max(), truth.max())) + 1)))
        name = split.name(int(raw.index[0]))
        return SampleView(name, {name: f"mean IoU {score:.1f} %"}, picture=side_by_side(panels, classes))
