"""What data are when a run sees them: batches, splits, and what is known of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from kd_core.data.screening import MANY, Readable, few_bytes, refuse
from kd_core.data.seen import SeenSamples
from kd_core.data.sources import SPLITS, Origin, Parts
from kd_core.data.summary import DataSummary, SplitSummary, summarize
from kd_core.errors import ConfigError, ConfigProblem, KDError
from kd_core.notes import Note
from kd_core.taps.nested import map_tensors

STUDENT = "student"
"""The name of the model that a run trains and exports."""
SHARED = ""
"""The key of :attr:`Batch.inputs` that serves every model without an entry of its own."""
PARTNER, PARTNERS = "partner", "partners"
"""The names in :attr:`Batch.extra` of the samples' partners: as the student takes them, and as other models do."""
TAKEN = ("input", PARTNER)
"""What a batch has for each model that takes it in its own way."""
ABSENT = -1
"""In a task's run value ``targets``: the row does not train."""


@dataclass(frozen=True)
class Batch:
    """One training or evaluation batch of B samples.

    ``inputs`` maps a model's name to what it is called with; the entry :data:`SHARED` serves all others. ``target``
    holds the labels (-100: none), ``index`` (B,) the rows in the unsplit data set, and ``extra`` whatever else the task
    wants to reach as ``batch.NAME``. Each of them is a tensor whose first dimension is the samples, a list of one value
    a sample, or a nesting of those in mappings.
    """

    inputs: Mapping[str, Any]
    target: Any
    index: Tensor
    extra: Mapping[str, Any] = field(default_factory=dict)
    known_target: Any = None
    """The target on the CPU where :attr:`target` is on another device: reading that would wait for the device."""

    def for_model(self, name: str) -> Any:
        """The inputs of one model."""
        return self.inputs[name] if name in self.inputs else self.inputs[SHARED]

    def taken(self, what: str, model: str) -> Any:
        """The ``input`` of a model, or the samples' ``partner`` as that model takes it."""
        if what == PARTNER:
            others = self.extra.get(PARTNERS, {})
            return others[model] if model in others else self.extra[PARTNER]
        return self.for_model(model)

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device) -> Batch:
        """The batch with every tensor on ``device``; what the target is stays known on the CPU."""
        return replace(self.map(lambda tensor: tensor.to(device, non_blocking=True)), known_target=self.target)

    def split(self, sizes: Sequence[int]) -> list[Batch]:
        """The batch cut into consecutive micro-batches of ``sizes`` samples."""
        if len(sizes) == 1:
            return [self]
        ends = list(accumulate(sizes, initial=0))
        return [self.take(slice(low, high)) for low, high in pairwise(ends)]

    def take(self, rows: slice | Sequence[int] | Tensor) -> Batch:
        """The samples at some positions, in their order.

        Tensors are cut along their first dimension, lists of one value a sample by their items; single numbers and
        what has another length stay whole. A tensor of booleans says of each sample whether it is taken.
        """
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero().flatten()
        chosen = range(len(self))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        by = rows if isinstance(rows, slice) else torch.as_tensor(chosen, device=self.index.device)
        parts = (self.inputs, self.target, self.index, self.extra)
        inputs, target, index, extra = (_taken(part, len(self), chosen, by) for part in parts)
        known = _taken(self.known_target, len(self), chosen, by if isinstance(rows, slice) else torch.tensor(chosen))
        return Batch(inputs, target, index, extra, known)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with ``function`` applied to every tensor in it."""
        return replace(
            self,
            known_target=None,
            inputs=map_tensors(function, self.inputs),
            target=map_tensors(function, self.target),
            index=function(self.index),
            extra=map_tensors(function, self.extra),
        )


def _taken(value: Any, size: int, chosen: Sequence[int], by: slice | Tensor) -> Any:
    """``value`` at the positions ``chosen``, which ``by`` cuts a tensor at."""
    if isinstance(value, Tensor):
        return value[by] if value.ndim and len(value) == size else value
    if isinstance(value, Mapping):
        return {key: _taken(item, size, chosen, by) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == size and not hasattr(value, "_fields"):
            return type(value)(value[row] for row in chosen)
        items = [_taken(item, size, chosen, by) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class Split:
    """An indexable part of a data set. Positions run from 0 to ``len(split) - 1``."""

    fixed: bool = False
    """True where a training sample is the same in every epoch, so that a teacher's outputs can be cached."""
    marks: bool = False
    """True where :meth:`batches` takes positions that are marked as further showings of a sample in an epoch, and
    augments each by draws of its own: see :mod:`kd_core.data.showings`."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content, for the manifest."""
        raise NotImplementedError

    @property
    def content(self) -> str:
        """A hash of what a sample is known by: of the whole data set whose rows :attr:`Batch.index` has.

        What a frozen model gives is kept under it. It is the fingerprint where a sample depends on which others are in
        the split, as texts that are padded together do.
        """
        return self.fingerprint

    def __len__(self) -> int:
        raise NotImplementedError

    def strong(self) -> Split:
        """The same samples, whose augmentation is followed by a strong one; KDError where there is none for them."""
        raise KDError("these data have no strong augmentation", hint="`partners: sample` shows each sample twice")

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """One batch for each tensor of positions in ``order``.

        What augmentation does to a sample is a pure function of (seed, epoch, sample): which other samples
        share its batch, how many workers load, and what was loaded before change nothing. No global
        random state is read or advanced.
        """
        raise NotImplementedError

    def arrange(self, order: Tensor, batch_size: int) -> Tensor:
        """The positions ``order`` as the split wants them batched: the same positions, a pure function of these.

        A split of texts brings those of like length together, for they are padded to the longest of a batch.
        """
        return order

    @property
    def sample_classes(self) -> Tensor | None:
        """The class of each sample (N,), -100 where it has none; None of data without classes of whole samples."""
        return None

    @property
    def class_pairs(self) -> Tensor | None:
        """(2, P) int64: positions and the classes that those samples hold; None where only reading would tell."""
        classes = self.sample_classes
        if classes is None or classes.ndim != 1 or classes.is_floating_point():
            return None
        positions = (classes >= 0).nonzero().flatten()
        return torch.stack([positions, classes[positions]])

    @property
    def sample_weights(self) -> Tensor | None:
        """The weight of each sample (N,), for the sampler ``weighted``; None where the data give none."""
        return None

    class_counts: Mapping[str, int] | None = None
    """How many samples hold each class, where that is known only from reading them: see :meth:`files`."""

    def files(self) -> Readable | None:
        """The samples as they are read from files, which are tried before a run begins; None where there are none."""
        return None

    def look(self, position: int, sample: Any) -> None:
        """Note what is to be known of a sample that :meth:`files` read before the run begins."""

    def contents(self) -> Mapping[int, int]:
        """A hash of the content of samples by position, of those that are in memory; see :mod:`kd_core.data.seen`."""
        return {}

    def sample_name(self, position: int) -> str:
        """What a line calls a sample: the file that it is read from, where there is one."""
        files = self.files()
        return f"sample {position}" if files is None else str(files.paths(position)[0])

    def notes(self) -> list[Note]:
        """What a run says of what was seen in the samples: see :attr:`Parts.notes`."""
        return []

    def close(self) -> None:
        """End what reads the samples; called when a run is over. The split can be read all the same."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a task knows of a data set: without reading any, as far as the config tells, and after reading, all.

    A task may have a subclass with fields of its own, which its metrics read.
    """

    classes: tuple[str, ...] | None = None
    """The names of the classes, in the order of the targets."""
    input_shape: tuple[int, ...] | None = None
    """The shape of one training sample, without the batch dimension; None where only reading would tell."""
    problem_type: str | None = None
    """Which of a task's problems it is, in transformers' words (``regression``)."""
    model_parameters: Mapping[str, Any] = field(default_factory=dict)
    """What an architecture with a parameter of such a name gets where the config gives none: ``num_classes``, say."""
    run_values: Mapping[str, Any] = field(default_factory=dict)
    """What ``!run NAME`` stands for, by name, as far as it is known."""


@dataclass(frozen=True)
class Splits:
    """What :meth:`Task.load` returns. ``val`` chooses the best checkpoint; ``test`` is read once, at the end.

    ``parts`` are what the splits are made of, where the task reads its data by sources.
    """

    train: Split
    val: Split | None
    test: Split | None
    info: DatasetInfo = DatasetInfo()
    parts: Parts[Any] | None = None
    used: tuple[str, ...] = SPLITS
    """The splits that are looked at; others need not even be there, where they are read late."""
    seen: SeenSamples = field(default_factory=SeenSamples, repr=False, compare=False)
    """What :meth:`screen` noted of samples."""

    def items(self) -> dict[str, Split]:
        """The splits that are there and used, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None and name in self.used}

    def scored(self) -> Splits:
        """The same, of which only the split that a finished student is scored on is used."""
        return replace(self, used=("val",) if self.test is None else ("test",))

    @cached_property
    def summary(self) -> DataSummary:
        """How many samples of which classes are in which split, and why, as far as the task's ``parts`` tell."""
        summary = self._counted() if self.parts is None else summarize(self.parts.only(self.used))
        counts = {name: split.class_counts for name, split in self.items().items()}
        splits = [replace(split, counts=split.counts or counts.get(split.role)) for split in summary.splits]
        notes = tuple(note.at(name) for name, split in self.items().items() for note in split.notes())
        notes = (*summary.notes, *notes, *self.seen.notes(self.items()))
        return replace(summary, splits=tuple(splits), notes=notes, known=self.info, train=self.train)

    def _counted(self) -> DataSummary:
        return DataSummary(
            tuple(SplitSummary(name, len(split), Origin(name, split)) for name, split in self.items().items())
        )

    def screen(self, *, whole: bool = False) -> None:
        """Try every file before a run begins; KDError that names all that cannot be read.

        All are read from end to end where they are few or ``whole`` says so, else both ends of each; of very many,
        none. Splits note what they see (:meth:`Split.look`).
        """
        readable = self._readable()
        whole = whole or few_bytes(readable.values())
        if not whole and sum(len(files.positions) for files in readable.values()) > MANY:
            return
        refuse(
            error
            for name, files in readable.items()
            for error in files.errors(whole=whole, look=partial(self._look, name)).values()
        )

    def _look(self, name: str, position: int, sample: Any) -> None:
        """Note what is to be known of a sample of a split."""
        self.items()[name].look(position, sample)
        self.seen.look(name, position, sample)

    def _readable(self) -> dict[str, Readable]:
        """The files of each split; KDError for what is wrong with any of those that are read late, of all at once."""
        readable: dict[str, Readable] = {}
        problems: list[ConfigProblem] = []
        for name, split in self.items().items():
            try:
                files = split.files()
            except KDError as error:
                problems += error.problems
            else:
                readable |= {} if files is None else {name: files}
        if problems:
            raise ConfigError(problems)
        return readable

    def describe(self) -> list[str]:
        """What a run says of its data before it trains: a line each."""
        return self.summary.lines()

    def close(self) -> None:
        """End what reads the samples."""
        for split in self.items().values():
            split.close()

    @property
    def final(self) -> tuple[str, Split] | None:
        """The split that a finished student is scored on, with its name: test, or validation where none has labels."""
        for name, split in (("test", self.test), ("validation", self.val)):
            if split is not None:
                return name, split
        return None
