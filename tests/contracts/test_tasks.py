"""What every registered task keeps, whoever wrote it.

A new task adds one line to EXAMPLES: data that are there without a connection, and a model of a prepared sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kd_core.data.batch import Batch, Split
from kd_core.taps.nested import map_tensors
from kd_core.task import TASKS


@dataclass(frozen=True)
class Example:
    data: dict[str, Any]
    model: Callable[[], nn.Module]


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
EXAMPLES = {
    "text_classification": Example(TEXTS, Bag),
    "image_classification": Example({"name": "digits"}, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),
    "semantic_segmentation": Example({"name": "scenes", "workers": 0}, lambda: nn.Conv2d(3, 6, 3, stride=2)),
}
every_task = pytest.mark.parametrize("name", TASKS.names())


def loaded(name: str, seed: int = 0) -> tuple[Any, Any, Any]:
    assert name in EXAMPLES, f"add data and a model for {name!r} to EXAMPLES"
    task = TASKS.get(name)()
    data = task.Data(**EXAMPLES[name].data)
    return task, data, task.load(data, seed=seed)


def batches(split: Split, *orders: Sequence[int], epoch: int = 3, augment: bool = True) -> list[Batch]:
    return list(split.batches(map(torch.tensor, orders), epoch=epoch, seed=7, augment=augment))


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


@every_task
def test_unknown_keys_are_refused(name: str) -> None:
    task = TASKS.get(name)()
    for schema, given in ((task.Data, EXAMPLES[name].data), (task.Input, {})):
        schema(**given)
        with pytest.raises(ValidationError, match="Extra inputs"):
            schema(**given, no_such_key=1)


@every_task
def test_a_dummy_batch_is_like_a_batch_of_data(name: str) -> None:
    task, data, splits = loaded(name)
    inputs = {"student": task.Input()}
    made = task.prepare(task.dummy_batch(data, 2, training=True), inputs, data, training=True)
    (read,) = (task.prepare(each, inputs, data, training=True) for each in batches(splits.train, [0, 1]))
    for one, other in ((made.for_model("student"), read.for_model("student")), (made.target, read.target)):
        kinds = [[(each.shape, each.dtype) for each in tensors(value)] for value in (one, other)]
        assert kinds[0] == kinds[1]
    assert len(made) == len(read) == 2


@every_task
def test_what_is_known_before_reading_is_true(name: str) -> None:
    task, data, splits = loaded(name)
    info = task.info(data)
    assert info.classes in (None, splits.info.classes)
    assert info.problem_type in (None, splits.info.problem_type)
    assert info.model_parameters.items() <= splits.info.model_parameters.items()
    assert info.run_values.keys() <= splits.info.run_values.keys()
    assert all(info.run_values[key] == splits.info.run_values[key] for key in info.run_values)
    shape = tuple(tensors(batches(splits.train, [0])[0].inputs)[0].shape[1:])
    assert info.input_shape in (None, shape)


@every_task
def test_run_values_are_those_that_the_task_names(name: str) -> None:
    task, data, splits = loaded(name)
    for info in (task.info(data), task.dummy_info(data), splits.info):
        assert info.run_values.keys() <= task.run_values.keys()


@every_task
def test_a_sample_does_not_depend_on_its_batch_or_on_global_random_state(name: str) -> None:
    train = loaded(name)[2].train
    together = batches(train, [4, 1, 7], [0])[0]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    (alone,) = batches(train, [1])
    assert torch.equal(torch.get_rng_state(), state)
    second = together.map(lambda tensor: tensor[1:2])
    for one, other in zip(tensors([second.inputs, second.target]), tensors([alone.inputs, alone.target]), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(second.index, alone.index)


@every_task
def test_splits_depend_on_the_seed_alone(name: str) -> None:
    first, again = (loaded(name)[2] for _ in range(2))
    for part in ("train", "val", "test"):
        one, other = getattr(first, part), getattr(again, part)
        assert (one is None) == (other is None)
        assert one is None or (len(one), one.fingerprint) == (len(other), other.fingerprint)


@every_task
def test_rows_of_the_data_set(name: str) -> None:
    splits = loaded(name)[2]
    index = torch.cat([each.index for each in batches(splits.train, range(len(splits.train)))])
    assert len(index.unique()) == len(splits.train)
    if "num_samples" in splits.info.run_values:
        assert 0 <= int(index.min()) <= int(index.max()) < splits.info.run_values["num_samples"]


@every_task
def test_metrics_count_samples_not_batches(name: str) -> None:
    task, data, splits = loaded(name)
    torch.manual_seed(0)
    model = EXAMPLES[name].model().eval()
    scores = []
    for orders in ([range(7)], [range(3), range(3, 7)]):
        metrics = task.metrics(splits.info)
        for raw in batches(splits.train, *orders, epoch=0, augment=False):
            batch = task.prepare(raw, {"student": task.Input()}, data, training=False)
            with torch.no_grad():
                metrics.update(task.call(model, batch.for_model("student")), batch)
        scores.append(metrics.compute())
    assert task.monitor in scores[0]
    assert all(math.isfinite(value) for value in scores[0].values())
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
