"""A task of points, small enough for unit tests: what the planner, the verifier and the loop are tested with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from kd_core.config import Policy, loads
from kd_core.config.schema import PositiveInt, StrictModel
from kd_core.data.batch import SHARED, Batch, DatasetInfo, Split, Splits
from kd_core.errors import Unverified
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.registry import Registry
from kd_core.task import Metrics, Task

POINTS = """
task: points
data: {}
models:
  student: !call:torch.nn.Sequential
    - !call:torch.nn.Linear [3, 4]
    - !call:torch.nn.Tanh {}
    - !call:torch.nn.Linear [4, 2]
  teacher: !call:torch.nn.Linear [3, 2]
stages:
  distill:
    epochs: 2
    batch_size: 8
    losses:
      ce: {loss: cross_entropy}
      kd: {loss: kd, temperature: 4.0}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


class PointsData(StrictModel):
    """``samples`` points of ``width`` numbers, a quarter more to validate; ``hidden``: only reading tells the width."""

    name: str | None = None
    samples: PositiveInt = 20
    width: PositiveInt = 3
    hidden: bool = False


class PointsInput(StrictModel):
    """What a model takes: the points times ``scale``."""

    scale: float = 1.0


class PointsSplit(Split):
    """Random points; the class says whether the first number is positive."""

    fixed = True

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.asked: list[tuple[int, int, bool]] = []
        """Epoch, seed and augmentation of every call of :meth:`batches`."""

    @property
    def fingerprint(self) -> str:
        return str(self.points.sum().item())

    def __len__(self) -> int:
        return len(self.points)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        self.asked.append((epoch, seed, augment))
        for rows in order:
            yield Batch({SHARED: self.points[rows]}, (self.points[rows, 0] > 0).long(), rows)


class Accuracy(Metrics):
    """The share of samples whose largest output is that of their class."""

    def __init__(self) -> None:
        self.right = self.total = 0

    def update(self, output: Tensor, batch: Batch) -> None:
        self.right += int((output.argmax(1) == batch.target).sum())
        self.total += len(batch)

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.right / max(self.total, 1)}


class PointsTask(Task):
    """Points of two classes."""

    name = "points"
    monitor = "accuracy"
    run_values: ClassVar[Mapping[str, str]] = {"num_classes": "the number of classes"}
    Data = PointsData
    Input = PointsInput

    def info(self, data: PointsData) -> DatasetInfo:
        shape = None if data.hidden else (data.width,)
        return DatasetInfo(input_shape=shape, run_values={"num_classes": 2})

    def load(self, data: PointsData, *, seed: int, inputs: Mapping[str, Any] | None = None) -> Splits:
        random = torch.Generator().manual_seed(seed)
        train, val = (torch.randn(size, data.width, generator=random) for size in (data.samples, data.samples // 4))
        return Splits(PointsSplit(train), PointsSplit(val) if len(val) else None, None, self.info(data))

    def prepare(self, batch: Batch, inputs: Mapping[str, PointsInput], data: Any, *, training: bool) -> Batch:
        (points,) = batch.inputs.values()
        return Batch(
            {name: points * wants.scale for name, wants in inputs.items()}, batch.target, batch.index, batch.extra
        )

    def dummy_batch(self, data: PointsData, size: int, *, training: bool) -> Batch:
        if data.hidden:
            raise Unverified("the width is not known before the points are read", path="data")
        index = torch.arange(size)
        return Batch({SHARED: torch.ones(size, data.width)}, index % 2, index)

    def metrics(self, info: DatasetInfo) -> Metrics:
        return Accuracy()


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> type[Task]:
    """The task ``points``, the only one there is while a test runs."""
    torch.set_num_threads(1)
    tasks: Registry[type[Task]] = Registry("task", "kd.none")
    tasks("points")(PointsTask)
    monkeypatch.setattr("kd_core.plan.planner.TASKS", tasks)
    return PointsTask


@pytest.fixture
def planner(points: type[Task]) -> Callable[..., Planner]:
    """A planner of the config ``POINTS``, with replacements of its text and overrides."""

    def make(*overrides: str, replaced: Mapping[str, str] | None = None) -> Planner:
        text = POINTS
        for old, new in (replaced or {}).items():
            assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        return Planner(loads(text, "points.yaml", overrides=list(overrides)), Policy())

    return make


@pytest.fixture
def planned(planner: Callable[..., Planner]) -> Callable[..., Plan]:
    """The plan of the config ``POINTS``, with replacements of its text and overrides."""

    def make(*overrides: str, replaced: Mapping[str, str] | None = None) -> Plan:
        made = planner(*overrides, replaced=replaced)
        plan = made.plan()
        assert made.problems == [], [str(problem) for problem in made.problems]
        assert plan is not None
        return plan

    return make
