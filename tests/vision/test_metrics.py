"""Metrics of classification against their definitions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_vision.metrics import ClassificationMetrics, rank_of


def batch(target: Tensor) -> Batch:
    return Batch({"": None}, target, torch.arange(len(target)))


def score(logits: Tensor, target: Tensor, size: int = 1000) -> dict[str, float]:
    metrics = ClassificationMetrics(logits.shape[1])
    for rows, labels in zip(logits.split(size), target.split(size), strict=True):
        metrics.update(rows, batch(labels))
    return metrics.compute()


def by_definition(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Sample by sample, in Python."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    top1 = top5 = loss = 0.0
    for row, label in zip(logits.double().tolist(), target.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        shares = [math.exp(value) / total for value in row]
        ranked = sorted(range(len(row)), key=lambda k: -row[k])
        top1 += ranked[0] == label
        top5 += label in ranked[:5]
        loss -= math.log(shares[label])
        bins.setdefault(math.ceil(max(shares) * 15), []).append((max(shares), ranked[0] == label))
    n = len(target)
    gaps = [abs(sum(hit for _, hit in each) - sum(share for share, _ in each)) for each in bins.values()]
    return {"top1": 100 * top1 / n, "top5": 100 * top5 / n, "loss": loss / n, "ece": 100 * sum(gaps) / n}


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_figures_equal_their_definitions(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(300, classes, generator=generator)
    target = torch.randint(0, classes, (300,), generator=generator)
    assert score(logits, target) == pytest.approx(by_definition(logits, target), rel=1e-5)


def test_how_samples_are_batched_changes_nothing() -> None:
    logits, target = torch.randn(101, 7), torch.randint(0, 7, (101,))
    assert score(logits, target, size=13) == pytest.approx(score(logits, target), rel=1e-12)


def test_samples_without_a_label_do_not_count() -> None:
    logits, target = torch.randn(50, 6), torch.randint(0, 6, (50,))
    hidden = target.clone()
    hidden[::3] = -100
    kept = hidden >= 0
    assert score(logits, hidden) == pytest.approx(score(logits[kept], target[kept]), rel=1e-12)


def test_a_perfect_sure_model_is_calibrated() -> None:
    target = torch.arange(10)
    assert score(1000.0 * torch.eye(10), target) == {"top1": 100, "top5": 100, "loss": 0, "ece": 0}


def test_without_any_label_figures_are_nan() -> None:
    assert all(math.isnan(value) for value in ClassificationMetrics().compute().values())
    assert all(math.isnan(value) for value in score(torch.randn(4, 3), torch.full((4,), -100)).values())


def test_half_precision_is_scored_in_single() -> None:
    logits, target = torch.randn(64, 10).bfloat16(), torch.randint(0, 10, (64,))
    assert score(logits, target) == score(logits.float(), target)


@pytest.mark.parametrize("wrap", [lambda x: {"logits": x}, lambda x: SimpleNamespace(logits=x)])
def test_logits_are_found_in_an_output(wrap: object) -> None:
    metrics = ClassificationMetrics(3)
    metrics.update(wrap(torch.eye(3)), batch(torch.arange(3)))  # type: ignore[operator]
    assert metrics.compute()["top1"] == 100


@pytest.mark.parametrize("output", [torch.rand(4, 3, 2, 2), torch.rand(4, 2), torch.rand(3, 3), [torch.rand(4, 3)]])
def test_what_are_no_logits_is_refused(output: object) -> None:
    with pytest.raises(KDError, match="classification is scored on"):
        ClassificationMetrics(3).update(output, batch(torch.arange(4)))


def test_of_equal_logits_the_first_class_is_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [torch.nan, 0.0, 0.0]])
    target = torch.tensor([0, 1, 2, 1])
    assert rank_of(logits, target).tolist() == [0, 1, 2, 3]
    assert (rank_of(logits, target) == 0)[:3].equal(logits.argmax(1)[:3] == target[:3])


def test_classes_have_figures_of_their_own() -> None:
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 1, 0], [float("nan"), 0, 0], [0, 0, 1]])
    metrics = ClassificationMetrics(3, ["a", "b", "c"])
    assert metrics.by_class() is None
    for rows in (slice(0, 2), slice(2, 5)):
        metrics.update(logits[rows], batch(torch.tensor([0, 0, 1, 1, -100])[rows]))
    figures = metrics.by_class()
    assert figures is not None
    assert figures.confusion is not None
    assert figures.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert figures.columns["accuracy"][:2] == [50, 50]
    assert figures.columns["precision"][:2] == [100, 50]
    assert figures.classes == ("a", "b", "c")
