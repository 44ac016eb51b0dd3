"""Metrics of segmentation against their definitions, torchvision's and the VOC devkit's formulas."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_seg.data.sources import VOID
from kd_seg.metrics import SegmentationMetrics, confusion, predicted
from kd_seg.results.report import ImageMetrics


def batch(target: Any) -> Batch:
    return Batch({}, target, torch.arange(len(target)))


def score(logits: Any, target: Any, classes: int) -> dict[str, float]:
    metrics = SegmentationMetrics(classes, [f"c{each}" for each in range(classes)])
    metrics.update({"out": logits}, batch(target))
    return metrics.compute()


def sample(classes: int, used: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (3, classes, 9, 11) and targets (3, 9, 11) of the first ``used`` classes, a tenth void."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 9, 11, generator=generator)
    target = torch.randint(0, used or classes, (3, 9, 11), generator=generator)
    logits.scatter_add_(1, target[:, None], torch.full((3, 1, 9, 11), 1.5))
    if used is not None:
        logits[:, used:] = -100
    target[torch.rand(3, 9, 11, generator=generator) < 0.1] = VOID
    return logits, target


def counted(logits: Tensor, target: Tensor) -> np.ndarray:
    """The confusion matrix, pixel by pixel."""
    classes = logits.shape[1]
    matrix = np.zeros((classes, classes), int)
    for truth, scores in zip(target.flatten().tolist(), logits.movedim(1, -1).reshape(-1, classes), strict=True):
        if truth >= 0:
            matrix[truth, int(np.argmax(scores.numpy()))] += 1
    return matrix


def torchvisions(matrix: np.ndarray) -> tuple[float, float, list[float]]:
    """Pixel accuracy, mean IoU and the IoU of each class, as its reference computes them, in percent."""
    with np.errstate(invalid="ignore"):
        iou = 100 * np.diag(matrix) / (matrix.sum(1) + matrix.sum(0) - np.diag(matrix))
    return 100 * np.diag(matrix).sum() / matrix.sum(), float(iou.mean()), iou.tolist()


def voc_devkits(matrix: np.ndarray) -> tuple[float, list[float]]:
    """Mean IoU and that of each class, class by class, where 0 / 0 is NaN as in MATLAB."""
    found = []
    for k in range(len(matrix)):
        truth, result, both = int(sum(matrix[k, :])), int(sum(matrix[:, k])), int(matrix[k, k])
        union = truth + result - both
        found.append(100 * both / union if union else float("nan"))
    return sum(found) / len(found), found


def ious(figures: dict[str, float]) -> list[float]:
    return [value for name, value in figures.items() if name.startswith("iou/")]


@pytest.mark.parametrize("classes", [2, 6, 21])
def test_figures_are_torchvisions_and_the_devkits_where_every_class_occurs(classes: int) -> None:
    logits, target = sample(classes)
    figures, matrix = score(logits, target, classes), counted(logits, target)
    accuracy, mean, each = torchvisions(matrix)
    assert figures["pixel_accuracy"] == pytest.approx(accuracy, rel=1e-12)
    assert figures["miou"] == pytest.approx(mean, rel=1e-12)
    assert ious(figures) == pytest.approx(each, rel=1e-12)
    mean, each = voc_devkits(matrix)
    assert figures["miou"] == pytest.approx(mean, rel=1e-12)
    assert ious(figures) == pytest.approx(each, rel=1e-12)
    true = matrix.sum(1)
    assert figures["fwiou"] == pytest.approx((true * each).sum() / true.sum(), rel=1e-12)
    assert figures["mean_accuracy"] == pytest.approx(100 * (np.diag(matrix) / true).mean(), rel=1e-12)


def test_a_class_that_never_occurs_is_left_out_where_theirs_are_nan() -> None:
    logits, target = sample(6, used=4)
    figures, matrix = score(logits, target, 6), counted(logits, target)
    for mean, each in (torchvisions(matrix)[1:], voc_devkits(matrix)):
        assert math.isnan(mean)
        assert ious(figures) == pytest.approx(each, nan_ok=True)
        assert figures["miou"] == pytest.approx(np.nanmean(each), rel=1e-12)
    assert [math.isnan(value) for value in ious(figures)] == [False] * 4 + [True] * 2


def test_a_class_that_is_predicted_but_never_true_counts_as_zero() -> None:
    target = torch.tensor([[[0, 0, 1, 1]]])
    logits = F.one_hot(torch.tensor([[[0, 2, 1, 1]]]), 4).movedim(-1, 1).float()
    figures = score(logits, target, 4)
    assert ious(figures) == pytest.approx([50, 100, 0, float("nan")], nan_ok=True)
    assert figures["miou"] == pytest.approx(50)
    assert figures["mean_accuracy"] == pytest.approx(75)  # of the classes that are true
    assert figures["fwiou"] == pytest.approx(75)
    assert figures["pixel_accuracy"] == pytest.approx(75)


def test_how_images_are_batched_changes_nothing() -> None:
    logits, target = sample(5)
    whole = score(logits, target, 5)
    parts = SegmentationMetrics(5, [f"c{each}" for each in range(5)])
    parts.update(logits[:1], batch(target[:1]))
    parts.update({"out": list(logits[1:])}, batch(list(target[1:])))
    assert parts.compute() == whole


def test_lists_of_several_sizes() -> None:
    logits, target = sample(4)
    ragged = [logits[0], logits[1, :, :5], logits[2, :, :, :3]]
    truths = [target[0], target[1, :5], target[2, :, :3]]
    expected = sum(counted(one[None], truth[None]) for one, truth in zip(ragged, truths, strict=True))
    metrics = SegmentationMetrics(4)
    metrics.update({"out": ragged}, batch(truths))
    assert np.array_equal(metrics.matrix.numpy(), expected)
    assert metrics.matrix.dtype == torch.int64


def test_logits_are_scaled_to_their_masks() -> None:
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(0, 3, (2, 15, 9))
    metrics = SegmentationMetrics(3)
    metrics.update(logits, batch(target))
    full = F.interpolate(logits, (15, 9), mode="bilinear", align_corners=False)
    assert np.array_equal(metrics.matrix.numpy(), counted(full, target))


def test_void_alone_gives_nan() -> None:
    logits, target = sample(3)
    assert all(math.isnan(value) for value in score(logits, torch.full_like(target, VOID), 3).values())
    assert all(math.isnan(value) for value in SegmentationMetrics(3).compute().values())
    assert set(SegmentationMetrics().compute()) == {"miou", "pixel_accuracy", "fwiou", "mean_accuracy"}


def test_counts_of_processes_are_added_up() -> None:
    logits, target = sample(4)
    shares = [SegmentationMetrics(4) for _ in range(3)]  # the third has no rows
    for share, rows in zip(shares, (slice(0, 1), slice(1, 3)), strict=False):
        share.update(logits[rows], batch(target[rows]))
    total = sum(share.matrix for share in shares)
    whole = SegmentationMetrics(4)
    whole.update(logits, batch(target))
    processes = SimpleNamespace(sum=lambda tensor: tensor.copy_(total))
    for share in shares:
        share.reduce(processes)
        assert share.compute() == whole.compute()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 7, 9, 13), (1, 300, 3, 2), (1, 1, 4, 4), (2, 7, 40, 1)])
def test_the_likeliest_class_is_that_of_argmax(dtype: Any, layout: Any, shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape).mul(3).round().to(dtype).contiguous(memory_format=layout)  # with many ties
    best = predicted(logits, shape[-2:]).long()
    expected = torch.from_numpy(logits.double().numpy().argmax(1))
    assert torch.equal(best, expected)


def test_masks_with_more_classes_than_the_model() -> None:
    with pytest.raises(KDError, match=r"class 3, and the model"):
        confusion(torch.zeros(2, 2, dtype=torch.uint8), torch.tensor([[0, 3], [1, 2]]), 3)


def test_half_a_million_pixels_of_one_class_do_not_overflow() -> None:
    target = torch.full((720, 720), 20)
    matrix = confusion(torch.full((720, 720), 20, dtype=torch.uint8), target, 21)
    assert int(matrix[20, 20]) == int(matrix.sum()) == 720 * 720


@pytest.mark.parametrize(
    "output",
    [
        torch.rand(2, 4, 3, 3),
        torch.rand(2, 6, 3, 3),
        torch.rand(1, 5, 3, 3),
        torch.rand(2, 5),
        {"logits": torch.rand(2, 5, 3, 3)},
        [torch.rand(5, 3, 3)],
        [torch.rand(5, 3, 3), "no"],
        3,
    ],
)
def test_what_are_no_such_logits_is_refused(output: Any) -> None:
    with pytest.raises(KDError, match="segmentation is scored on logits"):
        SegmentationMetrics(5).update(output, batch(torch.zeros(2, 3, 3, dtype=torch.int64)))


def image_mious(output: Any, of: Batch) -> list[float]:
    metrics = ImageMetrics(5, None, worst=0)
    metrics.update(output, of)
    return [each.miou for each in metrics.images]


def test_images_have_a_mean_iou_each() -> None:
    logits, target = sample(5)
    target[2] = VOID
    found = image_mious({"out": logits}, batch(target))
    for one in range(2):
        matrix = counted(logits[one : one + 1], target[one : one + 1])
        assert found[one] == pytest.approx(np.nanmean(torchvisions(matrix)[2]), rel=1e-12)
    assert math.isnan(found[2])
    listed = image_mious({"out": list(logits)}, batch(list(target)))
    assert listed == pytest.approx(found, nan_ok=True)


def test_names_are_given_where_they_fit() -> None:
    logits, target = sample(3)
    metrics = SegmentationMetrics(3, ["sky", "road", "car"])
    metrics.update(logits, batch(target))
    assert list(metrics.compute()) == [
        "miou", "pixel_accuracy", "fwiou", "mean_accuracy", "iou/sky", "iou/road", "iou/car",
    ]  # fmt: skip


def test_classes_have_figures_of_their_own() -> None:
    metrics = SegmentationMetrics(2, ["sky", "road"])
    target = torch.tensor([[[0, 0, 1, -1]]])
    metrics.update(
        F.one_hot(torch.tensor([[[0, 1, 1, 0]]]), 2).permute(0, 3, 1, 2).float(), Batch({}, target, torch.arange(1))
    )
    figures = metrics.by_class()
    assert figures.unit == "pixels"
    assert figures.columns == {"iou": [50, 50], "accuracy": [50, 100], "pixels": [2, 1], "predicted": [1, 2]}
    assert figures.confusion is not None
    assert figures.confusion.tolist() == [[1, 1], [0, 1]]
