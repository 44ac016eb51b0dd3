"""Changes in the samples of a data set that a config calls are noticed, where its samples are the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kd_vision.data.sample_contents import DRAWN, SAMPLED, SampleContents
from kd_vision.data.torch_datasets import dataset_subset

LABELS = torch.arange(8) % 2


class Samples:
    """Whatever a function gives for a row."""

    targets = LABELS

    def __init__(self, sample: Any) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.sample(row), int(LABELS[row])


def grey(value: int) -> Image.Image:
    return Image.new("L", (4, 4), value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda row: grey(row), lambda row: grey(row + (row == 5))),
        (lambda row: np.full((2, 2), row), lambda row: np.full((2, 2), row, np.int32)),
        (lambda row: torch.full((2, 2), row), lambda row: torch.full((4,), row)),
        (lambda row: torch.rand(3) + row, lambda row: torch.rand(3) + row + 1e-6),
    ],
)
def test_other_samples_are_another_content(one: Any, other: Any) -> None:
    """A sample may be drawn with the usual generators."""
    first, again, changed = (dataset_subset(Samples(sample), "x").digest() for sample in (one, one, other))
    assert first == again
    assert first != changed


@pytest.mark.parametrize(
    "sample",
    [lambda row: np.random.default_rng().random(3), lambda row: object(), lambda row: {}[row]],
)
def test_samples_that_cannot_be_compared_are_all_alike(sample: Any) -> None:
    assert str(SampleContents(Samples(sample), "head")) == f"head {DRAWN}"


def test_of_many_samples_some_are_read() -> None:
    rows = []

    class Many(Samples):
        def __len__(self) -> int:
            return 5000

        def __getitem__(self, row: int) -> tuple[int, int]:
            rows.append(row)
            return row, 0

    str(SampleContents(Many(None), ""))
    assert (len(rows), rows[0], rows[-1]) == (2 * SAMPLED, 0, 4999)
