"""What the input of a step takes: cutting, augmenting and normalising a batch of 128 images of CIFAR's size.

::

    python -m pytest tests/bench/bench_input.py --benchmark-only

A step of resnet20 from resnet56 on such a batch is what tests/bench/bench_speed.py measures.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd_core.data.sources import Parts
from kd_vision.data.labelled_subset import LabelledSubset, labelled_images
from kd_vision.data.sources import SOURCES, ImageSource
from kd_vision.data.spec import DataSpec, InputSpec
from kd_vision.task import ImageClassification

BATCH = 128
IMAGES = 10 * BATCH


def noise() -> Parts[LabelledSubset]:
    """Random images."""
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    return Parts(labelled_images(images, torch.arange(IMAGES) % 10), None, None, tuple("0123456789"))


SOURCES("bench-noise")(ImageSource("random images", noise, num_classes=10, shape=(3, 32, 32)))


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_input(benchmark: Any, augment: str) -> None:
    data = DataSpec(name="bench-noise", val=0, augment=augment)
    task = ImageClassification()
    train = task.load(data, seed=0).train
    rows = torch.randperm(IMAGES)[:BATCH]

    def step() -> None:
        (raw,) = train.batches([rows], epoch=0, seed=0, augment=True)
        task.prepare(raw, {"student": InputSpec()}, data, training=True)

    benchmark(step)
