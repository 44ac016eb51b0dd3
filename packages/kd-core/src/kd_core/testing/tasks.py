"""What every task and every data source keep: :data:`TASK_CHECKS` and :data:`SOURCE_CHECKS`, of a :class:`TaskCase`."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from kd_core.data.batch import STUDENT, Batch, Split, Splits
from kd_core.errors import KDError
from kd_core.taps.nested import tensors
from kd_core.task import TASKS, Task
from kd_core.testing.require import no_error, random_state_untouched, require, run_all

SEED = 7


@dataclass(frozen=True)
class TaskCase:
    """A task, by itself or by its registered name, and the data that it is tested on.

    ``data`` is what a config says below ``data:``, of data that are there without a connection and have at least eight
    training samples. ``model`` returns a model whose outputs the task's metrics take; data sources need none.
    """

    task: type[Task] | str
    data: Mapping[str, Any]
    model: Callable[[], nn.Module] | None = None

    @cached_property
    def instance(self) -> Task:
        """The task; KDError where no task has that name."""
        return TASKS.get(self.task)() if isinstance(self.task, str) else self.task()

    @cached_property
    def spec(self) -> Any:
        """The data as the task's schema has them; pydantic's ValidationError where they are not."""
        return self.instance.Data(**self.data)

    @property
    def inputs(self) -> dict[str, Any]:
        """The ``Input`` of the student, as a config that says nothing of it gives it."""
        return {STUDENT: self.instance.Input()}

    def load(self) -> Splits:
        """The splits, read anew."""
        return self.instance.load(self.spec, seed=0)

    @cached_property
    def splits(self) -> Splits:
        """The splits, read once."""
        return self.load()

    def batches(self, *orders: Sequence[int], epoch: int = 3, augment: bool = True) -> list[Batch]:
        """Batches of the training split."""
        orders_of_positions = map(torch.tensor, map(list, orders))
        return list(self.splits.train.batches(orders_of_positions, epoch=epoch, seed=SEED, augment=augment))

    def prepare(self, batch: Batch, *, training: bool = True) -> Batch:
        """What the student takes."""
        return self.instance.prepare(batch, self.inputs, self.spec, training=training)


def unknown_keys_are_refused(case: TaskCase) -> None:
    """The schemas of ``data:`` and of a model's ``input:`` forbid keys that they do not know."""
    schemas: tuple[tuple[type[BaseModel], Mapping[str, Any]], ...] = (
        (case.instance.Data, case.data),
        (case.instance.Input, {}),
    )
    for schema, values in schemas:
        schema(**values)
        try:
            schema(**values, no_such_key=1)
        except ValidationError as error:
            refused = "extra_forbidden" in {problem["type"] for problem in error.errors()}
        else:
            refused = False
        require(refused, f"{schema.__name__} takes an unknown key: its model_config must say extra='forbid'")


def a_dummy_batch_is_like_a_batch_of_the_data(case: TaskCase) -> None:
    """Same shapes and types of inputs and targets, so that what ``check`` finds out holds in training.

    A task may raise a KDError where only reading the data would tell the shapes.
    """
    try:
        dummy = case.prepare(case.instance.dummy_batch(case.spec, 2, training=True))
    except KDError:
        return
    (batch,) = (case.prepare(raw) for raw in case.batches([0, 1]))
    pairs = {
        "inputs": (dummy.for_model(STUDENT), batch.for_model(STUDENT)),
        "targets": (dummy.target, batch.target),
    }
    for which, values in pairs.items():
        kinds, expected = (list(_kinds(value, 2)) for value in values)
        require(kinds == expected, f"the {which} of a dummy batch are {kinds}, those of the data {expected}")
    sizes = (len(dummy), len(batch))
    require(sizes == (2, 2), f"a dummy batch and a batch of two samples have {sizes[0]} and {sizes[1]} samples")


def _kinds(value: Any, size: int) -> Iterator[tuple[str, Any, torch.dtype]]:
    """Shape and type of each tensor in a batch's value.

    Where it is a list of one value a sample, the numbers of dimensions and the types: samples may differ in shape.
    """
    if isinstance(value, (list, tuple)) and len(value) == size:
        yield from sorted({("dimensions", tensor.ndim, tensor.dtype) for tensor in tensors(value)}, key=str)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _kinds(item, size)
    else:
        yield from (("shape", tuple(tensor.shape), tensor.dtype) for tensor in tensors(value))


def what_is_known_before_reading_is_true(case: TaskCase) -> None:
    """``Task.info`` says nothing of the data that reading them does not confirm."""
    expected, actual = case.instance.info(case.spec), case.splits.info
    for name in ("classes", "problem_type"):
        declared, read = getattr(expected, name), getattr(actual, name)
        require(declared in (None, read), f"info says that {name} is {declared}, but the data have {read}")
    for name in ("model_parameters", "run_values"):
        declared, read = getattr(expected, name), getattr(actual, name)
        wrong = {key: value for key, value in declared.items() if key not in read or read[key] != value}
        require(not wrong, f"info says {name} {wrong}, but the data have {dict(read)}")
    shape = _sample_shape(case.batches([0])[0].inputs)
    told = expected.input_shape
    require(told in (None, shape), f"info says that input_shape is {told}, but the first sample has {shape}")


def _sample_shape(value: Any) -> tuple[int, ...]:
    """The shape of the first tensor of a batch of one sample, without the batch dimension."""
    if isinstance(value, Mapping):
        return _sample_shape(next(iter(value.values())))
    if isinstance(value, (list, tuple)):
        return tuple(next(tensors(value)).shape)
    return tuple(value.shape[1:])


def run_values_are_those_that_the_task_names(case: TaskCase) -> None:
    """``!run NAME`` knows no other names than those in ``Task.run_values``."""
    for info in (case.instance.info(case.spec), case.instance.dummy_info(case.spec), case.splits.info):
        unnamed = sorted(info.run_values.keys() - case.instance.run_values.keys())
        require(not unnamed, f"the run values {unnamed} are not in {type(case.instance).__name__}.run_values")


def a_sample_does_not_depend_on_its_batch(case: TaskCase) -> None:
    """Nor on global random state: what augmentation does to it is a function of the seed, the epoch and the sample."""
    together = case.batches([4, 1, 7], [0])[0]
    torch.manual_seed(1)
    with random_state_untouched("reading a batch draws from torch's global random state"):
        (alone,) = case.batches([1])
    second = together.take([1])
    require(torch.equal(second.index, alone.index), "Batch.index of a sample depends on its batch")
    for which in ("inputs", "target"):
        pairs = zip(tensors(getattr(second, which)), tensors(getattr(alone, which)), strict=True)
        same = all(_equal_but_for_padding(first, other) for first, other in pairs)
        require(same, f"Batch.{which} of a sample depends on the samples that share its batch, or on random state")


def _equal_but_for_padding(first: Tensor, other: Tensor) -> bool:
    """Whether two samples are equal, of which the first may be padded to the longest of its batch."""
    if first.ndim != other.ndim or any(size < least for size, least in zip(first.shape, other.shape, strict=True)):
        return False
    return torch.equal(first[tuple(slice(size) for size in other.shape)], other)


def splits_depend_on_the_seed_alone(case: TaskCase) -> None:
    """Reading twice gives the same samples."""
    again = case.load()
    for name in ("train", "val", "test"):
        first, second = getattr(case.splits, name), getattr(again, name)
        require((first is None) == (second is None), f"the split {name} is there in one of two readings only")
        if first is not None:
            same = (len(first), first.fingerprint) == (len(second), second.fingerprint)
            require(same, f"two readings with one seed give two different splits {name}")


def rows_of_the_data_set_are_distinct(case: TaskCase) -> None:
    """``Batch.index`` tells the samples of the training split apart, and lies below ``num_samples``."""
    train = case.splits.train
    index = torch.cat([batch.index for batch in case.batches(range(len(train)))])
    require(len(index.unique()) == len(train), "Batch.index is the same for two samples of the training split")
    total = case.splits.info.run_values.get("num_samples")
    inside = total is None or 0 <= int(index.min()) <= int(index.max()) < total
    require(inside, f"Batch.index runs from {int(index.min())} to {int(index.max())}, but num_samples is {total}")


def splits_can_be_pickled(case: TaskCase) -> None:
    """Processes that read the data get them pickled on macOS and Windows, and on Linux from Python 3.14 on."""
    splits = case.load()  # before a batch was read: processes that read are started with what is copied here
    for name in ("train", "val", "test"):
        split: Split | None = getattr(splits, name)
        if split is not None:
            with no_error(f"the split {name} cannot be pickled (a lambda or an open file in it?)"):
                copied = pickle.loads(pickle.dumps(split))
            require(len(copied) == len(split), f"the split {name} has another length once it was pickled")


def metrics_count_samples_not_batches(case: TaskCase) -> None:
    """Seven samples in one batch score as in two, every metric is a finite number, ``Task.monitor`` is among them."""
    require(case.model is not None, "metrics are checked with a model: TaskCase.model is missing")
    assert case.model is not None
    torch.manual_seed(0)
    model = case.model().eval()
    scores = []
    for orders in ([range(7)], [range(3), range(3, 7)]):
        metrics = case.instance.metrics(case.splits.info)
        for raw in case.batches(*orders, epoch=0, augment=False):
            batch = case.prepare(raw, training=False)
            with torch.no_grad():
                metrics.update(case.instance.call(model, batch.for_model(STUDENT)), batch)
        scores.append(metrics.compute())
    whole, parts = scores
    monitor = case.instance.monitor
    require(monitor in whole, f"the metrics {sorted(whole)} do not have the task's monitor {monitor!r}")
    broken = {key: value for key, value in whole.items() if not math.isfinite(value)}
    require(not broken, f"the metrics {broken} of seven samples are not finite numbers")
    differ = [key for key, value in whole.items() if not math.isclose(value, parts[key], rel_tol=1e-5)]
    require(not differ, f"the metrics of seven samples are others in one batch than in two: {differ}")


SOURCE_CHECKS: tuple[Callable[[TaskCase], None], ...] = (
    unknown_keys_are_refused,
    a_dummy_batch_is_like_a_batch_of_the_data,
    what_is_known_before_reading_is_true,
    run_values_are_those_that_the_task_names,
    a_sample_does_not_depend_on_its_batch,
    splits_depend_on_the_seed_alone,
    rows_of_the_data_set_are_distinct,
    splits_can_be_pickled,
)
"""What every data source keeps as its task reads it, each as a function that raises AssertionError."""

TASK_CHECKS: tuple[Callable[[TaskCase], None], ...] = (*SOURCE_CHECKS, metrics_count_samples_not_batches)
"""What every task keeps, each as a function that raises AssertionError."""


def check_source(task: type[Task] | str, data: Mapping[str, Any]) -> None:
    """Run :data:`SOURCE_CHECKS` on data as a task reads them: what a config says below ``data:``.

    The data must be there without a connection, a few small files in a temporary folder for instance, with at least
    eight training samples. AssertionError says what the source does not keep::

        check_source("image_classification", {"name": "medmnist", "root": str(tmp_path)})
    """
    run_all(SOURCE_CHECKS, TaskCase(task, data))


def check_task(task: type[Task] | str, data: Mapping[str, Any], model: Callable[[], nn.Module]) -> None:
    """Run :data:`TASK_CHECKS` on a task, or on the registered one of that name.

    ``data`` are as for :func:`check_source`; ``model`` returns a model, small and with random weights, that takes what
    the task prepares for the student and whose outputs the task's metrics take. AssertionError says what the task does
    not keep::

        check_task("image_classification", {"name": "digits"}, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    """
    run_all(TASK_CHECKS, TaskCase(task, data, model))
