"""Images with detected objects as a report shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_core.data.batch import Batch, DatasetInfo, Split
from kd_core.pictures import LARGEST
from kd_core.report.samples import SampleView, SampleViewer
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.splits import DetectionSplit
from kd_vision.detection.metrics import DetectionMetrics
from kd_vision.detection.results.pictures import side_by_side
from kd_vision.detection.results.report import THRESHOLD, JudgedImage, panels


class DetectionViewer(SampleViewer):
    """Images with the number of their errors, of boxes with a score of one half or more."""

    title = f"The images with most errors, of boxes with a score of {THRESHOLD:g} or more"
    wide = True

    def losses(self, output: Any, batch: Batch, info: DatasetInfo) -> Tensor:
        """(B,) how many errors each image has."""
        images = _judged(output, batch, info, masks=False)
        return torch.tensor([float(image.errors.total) for image in images], dtype=torch.float64)

    def view(self, split: Split, position: int, raw: Batch, output: Any, info: DatasetInfo) -> SampleView:
        """The truth and the detections, side by side, with what is wrong."""
        assert isinstance(split, DetectionSplit)
        assert isinstance(info, DetectionInfo)
        (image,) = _judged(output, raw, info, masks=True)
        pixels, name = np.asarray(split.part.boxes.image(image.row)), split.name(image.row)
        drawn = side_by_side(panels(pixels, image, info.classes or ()), largest=LARGEST, skeleton=info.skeleton)
        counts = ", ".join(f"{count} {kind}" for kind, count in image.errors.counts().most_common())
        return SampleView(name, {name: counts or "no errors"}, picture=drawn)


def _judged(output: Any, batch: Batch, info: DatasetInfo, *, masks: bool) -> list[JudgedImage]:
    """What is wrong in each image of a batch."""
    assert isinstance(info, DetectionInfo)
    metrics = DetectionMetrics(info)
    metrics.update(output, batch)
    return [JudgedImage.of(row, metrics.images[row], masks=masks) for row in batch.index.tolist()]
