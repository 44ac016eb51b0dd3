"""What a task package provides: data in splits, how a model is called, and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Protocol

from kd_core.registry import Registry

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import Tensor, nn

    from kd_core.distributed import Share

SHARED = ""
"""The key of :attr:`Batch.inputs` that serves every model without an entry of its own."""
ABSENT = -1
"""In :attr:`Splits.targets`: the row does not train."""


@dataclass(frozen=True)
class Batch:
    """One training or evaluation batch of B samples.

    ``inputs`` maps a model's name to what it is called with; the entry :data:`SHARED` serves all others.
    ``target`` holds the labels (-100: none), ``index`` (B,) the rows in the unsplit data set, and ``extra``
    whatever else the task wants to reach as ``batch.NAME``.
    """

    inputs: Mapping[str, Any]
    target: Any
    index: Tensor
    extra: Mapping[str, Any] = field(default_factory=dict)

    def for_model(self, name: str) -> Any:
        """The inputs of one model."""
        return self.inputs[name] if name in self.inputs else self.inputs[SHARED]

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device) -> Batch:
        """The batch with every tensor on ``device``."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def parts(self, shares: Sequence[Share]) -> list[Batch]:
        """The batch in micro-batches of this process's rows."""
        if len(shares) == 1:
            return [self]
        ends = list(accumulate((share.present for share in shares), initial=0))
        return [self.map(lambda tensor, rows=slice(low, high): tensor[rows]) for low, high in pairwise(ends)]

    def map(self, function: Any) -> Batch:
        """The batch with ``function`` applied to every tensor in it."""
        return replace(
            self,
            inputs=map_tensors(function, self.inputs),
            target=map_tensors(function, self.target),
            index=function(self.index),
            extra=map_tensors(function, self.extra),
        )


def map_tensors(function: Any, value: Any) -> Any:
    """``value`` with ``function`` applied to each tensor in its lists, tuples and mappings."""
    if hasattr(value, "untyped_storage"):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class Split(Protocol):
    """An indexable part of a data set. Positions run from 0 to ``len(split) - 1``."""

    fingerprint: str
    """A hash of the content, for the manifest."""

    def __len__(self) -> int: ...

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """One batch for each tensor of positions in ``order``.

        What augmentation does to a sample is a pure function of (seed, epoch, sample): which other samples
        share its batch, how many workers load, and what was loaded before change nothing. No global
        random state is read or advanced.
        """
        ...


@dataclass(frozen=True)
class Splits:
    """What :meth:`Task.load` returns. ``val`` chooses the best checkpoint; ``test`` is read once, at the end."""

    train: Split
    val: Split | None
    test: Split | None
    num_classes: int | None = None
    rows: int | None = None
    """Rows of the unsplit training data, among which :attr:`Batch.index` counts; None where there is no such thing."""
    targets: Tensor | None = None
    """(rows,) the label of each row that trains, -100 where it has none, and :data:`ABSENT` for all other rows."""


@dataclass(frozen=True)
class Facts:
    """What a task knows of its data without reading any: None where only reading would tell."""

    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    """The shape of one sample, without the batch dimension."""


class Metrics(Protocol):
    """Accumulates over a split, on whatever device the outputs are."""

    def update(self, output: Any, batch: Batch) -> None: ...

    def compute(self) -> dict[str, float]: ...


class Task(Protocol):
    """A kind of problem: image classification, text classification, segmentation.

    ``Data`` is the schema of the config's ``data:`` mapping, ``Input`` that of a model's ``input:`` (what this
    model wants its input to be: normalisation, size); both forbid unknown keys.
    """

    name: str
    primary: str
    """The metric that chooses the best checkpoint."""
    maximise: bool
    Data: type[BaseModel]
    Input: type[BaseModel]

    def facts(self, data: Any) -> Facts:
        """What is known without opening a file."""
        ...

    def load(self, data: Any, *, seed: int) -> Splits:
        """Read the data; KDError where it is missing or broken."""
        ...

    def prepare(self, batch: Batch, inputs: Mapping[str, Any], data: Any) -> Batch:
        """On the device: turn a split's batch into what each model in ``inputs`` (name -> ``Input``) takes."""
        ...

    def example(self, data: Any, size: int) -> Batch:
        """A batch of ``size`` made-up samples of the right shapes; KDError where only reading the data would tell."""
        ...

    def call(self, model: nn.Module, inputs: Any) -> Any:
        """One forward pass."""
        ...

    def metrics(self, num_classes: int | None) -> Metrics: ...


TASKS: Registry[type[Task]] = Registry("task", "kd.tasks")
