"""What every registered task keeps, whoever wrote it: the checks of :mod:`kd_core.testing`.

A new task adds one line to EXAMPLES: data that are there without a connection, and a model of a prepared sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.task import TASKS
from kd_core.testing import TASK_CHECKS, TaskCase


class Boxes(nn.Module):
    """A detector that finds one object of the first class in the middle of every image, with a loss that is 0."""

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if self.training:
            return {"nothing": images[0].new_zeros(())}
        boxes = [image.new_tensor([[0.0, 0.0, *image.shape[:0:-1]]]) for image in images]
        return [{"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.5])} for box in boxes]


class Bag(nn.Module):
    """Logits (B, 2) of the tokens that a text has, wherever they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.embed(input_ids) * attention_mask[..., None]).sum(1)


REVIEWS = Path(__file__).parents[2] / "configs" / "glue" / "example"
TEXTS = {
    "files": {"train": str(REVIEWS / "train.tsv"), "val": str(REVIEWS / "val.tsv")},
    "text": "sentence",
    "label": "label",
    "labels": ["negative", "positive"],
    "tokenizer": str(REVIEWS / "tiny"),
    "max_length": 8,
}
EXAMPLES: dict[str, tuple[dict[str, Any], Callable[[], nn.Module]]] = {
    "text_classification": (TEXTS, Bag),
    "image_classification": ({"name": "digits"}, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),
    "object_detection": ({"name": "scenes", "workers": 0}, Boxes),
    "semantic_segmentation": ({"name": "scenes", "workers": 0}, lambda: nn.Conv2d(3, 6, 3, stride=2)),
}
every_task = pytest.mark.parametrize("name", TASKS.names())


@functools.cache
def case(name: str) -> TaskCase:
    assert name in EXAMPLES, f"add data and a model for {name!r} to EXAMPLES"
    return TaskCase(name, *EXAMPLES[name])


@every_task
@pytest.mark.parametrize("check", TASK_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(name: str, check: Callable[[TaskCase], None]) -> None:
    check(case(name))
