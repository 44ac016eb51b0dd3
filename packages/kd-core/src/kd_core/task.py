"""What a task package provides: data in splits, how a model is called, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kd_core.errors import KDError
from kd_core.registry import Registry

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import Tensor, nn

    from kd_core.config.schema import ModelSpec
    from kd_core.device.distributed import Share

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
    """An indexable part of a data set. Positions run from 0 to ``len(split) - 1``.

    A split may have a method ``arrange`` (see :func:`arranged`), and ``fixed = True`` where a sample is the same in
    every epoch.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of the content, for the manifest."""
        ...

    def __len__(self) -> int: ...

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """One batch for each tensor of positions in ``order``.

        What augmentation does to a sample is a pure function of (seed, epoch, sample): which other samples
        share its batch, how many workers load, and what was loaded before change nothing. No global
        random state is read or advanced.
        """
        ...


def arranged(split: Split, order: Tensor, batch_size: int) -> Tensor:
    """The positions ``order`` as the split wants them: ``split.arrange(order, batch_size)``, where it has that.

    A split of texts brings those of like length together, for they are padded to the longest of a batch. The result
    holds the same positions, and is a pure function of the arguments.
    """
    arrange = getattr(split, "arrange", None)
    return order if arrange is None else arrange(order, batch_size)


@dataclass(frozen=True)
class Facts:
    """What a task knows of its data without reading any: None where only reading would tell."""

    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    """The shape of one sample, without the batch dimension."""
    classes: tuple[str, ...] | None = None
    """The names of the classes, in the order of the targets."""
    problem: str | None = None
    """Which of a task's problems it is, in the words of its hub's library (``regression``)."""


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

    classes: tuple[str, ...] | None = None
    problem: str | None = None

    def facts(self) -> Facts:
        """What reading the data told."""
        return Facts(self.num_classes, None, self.classes, self.problem)

    @property
    def judged(self) -> tuple[str, Split] | None:
        """The split a finished student is scored on, with its name: that without labels has none to be scored by."""
        for name, split in (("test", self.test), ("validation", self.val)):
            if split is not None:
                return name, split
        return None


class Metrics(Protocol):
    """Accumulates over a split, on whatever device the outputs are.

    Of several processes all get the outputs for all rows. Where those are large, metrics that only count have a method
    ``reduce(total)``: each process then counts its own rows, and before ``compute`` it is called with a function that
    adds a tensor up over the processes, in place.
    """

    def update(self, output: Any, batch: Batch) -> None: ...

    def compute(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Wanted:
    """A model of a hub, as a config wants it. ``name`` is an id on the hub, or a folder."""

    name: str
    facts: Facts
    """The data it is for."""
    weights: bool = True
    """False: the structure, with whatever values."""
    new_head: bool = True
    """Whether what classifies may begin at random where the weights hold none that fits."""
    offline: bool = False
    """In a check: only what lies on this machine is read; Unverified where that does not tell the structure."""


class Hub(Protocol):
    """Where the models of ``hub:`` come from, for a task that has such."""

    build: Callable[..., nn.Module]
    """``build(wanted, *, ...)``: its keyword-only parameters are what a config may say of such a model."""

    def input(self, spec: ModelSpec) -> dict[str, Any]:
        """What a model is known to take, in the words of the task's ``Input``, from its ``hub`` and the like."""
        ...

    def pins(self, models: Mapping[str, ModelSpec], data: Any) -> list[str]:
        """Overrides (``models.teacher.revision=...``) that say which version of each thing there is today."""
        ...

    def save(self, model: nn.Module, wants: Any, folder: Path) -> None:
        """Write beside a student's weights what the hub's own library needs to load that folder as it is."""
        ...


class Task(Protocol):
    """A kind of problem: image classification, text classification, segmentation.

    A task may have further: ``hub``, a :class:`Hub`; ``output``, the field of a model's output that losses take where
    a config names none; ``compiles = False``, where inputs change their shape from batch to batch;
    ``eval_batch_size``, where a config says none and that of training is too much; and ``fits(model, wants, data)``,
    a KDError where a built model cannot take the data as its ``Input`` has them.

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

    def load(self, data: Any, *, seed: int, inputs: Mapping[str, Any] | None = None) -> Splits:
        """Read the data, for models that take ``inputs`` (name -> ``Input``); KDError where it is missing or broken."""
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


def check_fit(task: Task, name: str, model: nn.Module, wants: Any, data: Any) -> None:
    """KDError where a built model cannot take the data, as far as the task looks at that."""
    fits = getattr(task, "fits", None)
    if fits is not None:
        try:
            fits(model, wants, data)
        except KDError as error:
            raise KDError(f"models.{name}: {error}") from None


def eval_batch(task: Task, given: int | None, training: int | None) -> int:
    """Samples that are scored at once: as ``given``, as the task has it, as in ``training``, or 256."""
    return given or getattr(task, "eval_batch_size", None) or training or 256


def hub_of(task: Task | None) -> Hub | None:
    """The hub of a task, where it has one."""
    return getattr(task, "hub", None)


TASKS: Registry[type[Task]] = Registry("task", "kd.tasks")
