"""RandAugment, and two augmentations of one image in a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_core.config import Policy, loads
from kd_core.data.batch import Batch
from kd_core.data.rng import CounterRNG
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.train.objective import Objective
from kd_vision.data.strong import CHANGES, GREY, rand_augment

CONFIG = """
task: image_classification
data: {name: digits, limit: 24, augment: AUGMENT, workers: WORKERS, val: 0}
models: {student: {arch: cnn, width: 4}, teacher: {arch: cnn, width: 4, weights: null}}
stages:
  distill: {epochs: 1, batch_size: 8, method: mlkd, optimizer: !call:torch.optim.SGD {lr: 0.1}}
"""


def images(count: int, channels: int, size: int = 16) -> Tensor:
    return torch.randint(
        0, 256, (count, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_what_an_image_becomes_depends_on_seed_epoch_and_itself(channels: int) -> None:
    given, index = images(40, channels), np.arange(40)
    whole = rand_augment(given, CounterRNG(0, 0, index))
    assert whole.shape == given.shape
    assert whole.dtype == torch.uint8
    assert torch.equal(whole[7:9], rand_augment(given[7:9], CounterRNG(0, 0, index[7:9])))
    assert (whole != given).flatten(1).any(1).double().mean() > 0.9
    assert not torch.equal(whole, rand_augment(given, CounterRNG(0, 1, index)))


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_each_change_keeps_the_size(number: int) -> None:
    from PIL import Image

    change, low, high = CHANGES[number]
    image = Image.fromarray(images(1, 3)[0].permute(1, 2, 0).numpy())
    for strength in (low, high):
        assert change(image, strength).size == image.size


def test_the_square_is_grey_and_at_most_half_as_wide() -> None:
    black = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    changed = rand_augment(black, CounterRNG(0, 0, np.arange(200)), count=1)
    hidden = (changed == torch.tensor(GREY)[:, None, None]).all(1)
    widths = hidden.any(1).sum(1)
    assert int(widths.max()) in (8, 9)
    assert int(widths.min()) >= 1


def test_floats_are_refused() -> None:
    with pytest.raises(KDError, match="takes images of uint8"):
        rand_augment(images(2, 3).float(), CounterRNG(0, 0, np.arange(2)))


ONE_BY_ONE = "[!call:torchvision.transforms.v2.Identity {}]"


@pytest.mark.parametrize("reading", ["none", pytest.param(ONE_BY_ONE, marks=pytest.mark.slow)])
def test_mlkd_shows_each_image_twice(reading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From memory, and read one by one."""
    seen: list[Batch] = []
    forward: Callable[..., Any] = Objective.forward

    def noted(self: Objective, captures: Any, batch: Batch, *rest: Any) -> Any:
        seen.append(batch)
        return forward(self, captures, batch, *rest)

    monkeypatch.setattr(Objective, "forward", noted)
    text = CONFIG.replace("AUGMENT", reading).replace("WORKERS", "0")
    Experiment.planned(loads(text), Policy()).train(tmp_path / "run")
    weak = torch.cat([batch.for_model("student") for batch in seen])
    strong = torch.cat([batch.extra["partner"] for batch in seen])
    same = (weak == strong).flatten(1)
    assert not same.all(1).any()
    assert same.double().mean() > 0.2  # most changes leave the black around a digit


def test_a_model_sees_the_second_view_in_its_own_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    forward: Callable[..., Any] = Objective.forward
    monkeypatch.setattr(
        Objective,
        "forward",
        lambda self, captures, batch, *rest: seen.append(batch) or forward(self, captures, batch, *rest),
    )
    text = CONFIG.replace("AUGMENT", "none").replace("weights: null", "weights: null, input: {mean: [0.1], std: [0.5]}")
    Experiment.planned(loads(text.replace("WORKERS", "0")), Policy()).train(tmp_path / "run")
    student, teacher = seen[0].for_model("student"), seen[0].for_model("teacher")
    slope = (teacher.max() - teacher.min()) / (student.max() - student.min())
    expected = (seen[0].taken("partner", "student") - student.min()) * slope + teacher.min()
    assert torch.allclose(seen[0].taken("partner", "teacher"), expected, atol=1e-5)
    assert not torch.equal(seen[0].taken("partner", "teacher"), seen[0].taken("partner", "student"))
