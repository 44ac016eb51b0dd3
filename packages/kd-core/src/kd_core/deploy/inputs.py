"""A student's inputs as named tensors: of samples that a command names, or of the validation samples of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.evaluation import load_student
from kd_core.student import Student
from kd_core.task import Task

ALONE = "input"
"""The name of the input of a model that takes one tensor."""
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Inputs:
    """Batches of what a student takes, each tensor with the samples as its first dimension, and where they are from."""

    batches: list[Named]
    source: str

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(len(next(iter(batch.values()))) for batch in self.batches)

    def batch(self, size: int) -> Named:
        """A batch of ``size`` samples like those of the first batch, which are repeated where they are fewer."""
        return {name: tensor[torch.arange(size) % len(tensor)].contiguous() for name, tensor in self.batches[0].items()}

    def shape(self) -> str:
        """One sample in words: ``input 3x224x224``."""
        sizes = {name: "x".join(map(str, tensor.shape[1:])) for name, tensor in self.batches[0].items()}
        return ", ".join(f"{name} {size}" for name, size in sizes.items())


class Callee(nn.Module):
    """A student that takes the tensors ``names`` in this order and returns one: the output that its task scores."""

    def __init__(self, student: Student, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.task, self.names = student.model, student.task, tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The logits (B, ...), by the names that evaluation has for them."""
        inputs = tensors[0] if self.names == (ALONE,) else dict(zip(self.names, tensors, strict=True))
        return scored(self.task, self.task.exported(self.model, inputs))


def scored(task: Task, output: Any) -> Tensor:
    """The tensor in a model's output that is scored; KDError where it is something else."""
    value = output.get(task.output) if isinstance(output, Mapping) else output
    if not isinstance(value, Tensor):
        message = f"a model of the task {task.name} returns a {type(value).__name__}, not one tensor for each batch"
        raise KDError(message, hint="models of this task cannot be exported or profiled")
    return value


def inputs_of(
    student: Student, target: str | Path, samples: Sequence[str] = (), *, count: int = 64, **options: Any
) -> Inputs:
    """What evaluation gives a student: ``samples`` as its ``preprocess`` takes them, else those of the run ``target``.

    Of the run they are the first ``count`` of its validation split, or of its test split where it has none; ``options``
    are those of :func:`kd_core.evaluation.load_student`. KDError where there are no such samples.
    """
    if samples:
        size = student.task.eval_batch_size or len(samples)
        chunks = [list(samples[start : start + size]) for start in range(0, len(samples), size)]
        return Inputs([named(student, student.preprocess(chunk)) for chunk in chunks], "the samples that were named")
    if not (Path(target) / "config.yaml").is_file():
        hint = "--sample FILE (an image, or a text) names some; a run's folder knows its validation samples"
        raise KDError(f"{target} is a student's folder without a run: there are no validation samples", hint=hint)
    with load_student(target, **options) as loaded:
        data, splits = loaded.read()
        chosen = ("validation", splits.val) if splits.val is not None else splits.final
        if chosen is None or not len(chosen[1]):
            raise KDError("there are no validation samples", hint="--sample FILE names some")
        name, split = chosen
        order = split.arrange(torch.arange(min(count, len(split))), loaded.batch_size).split(loaded.batch_size)
        wants = {STUDENT: loaded.plan.inputs[STUDENT]}
        batches = []
        for raw in split.batches(order, epoch=0, seed=0, augment=False):
            batch = loaded.plan.task.prepare(raw.to(student.device), wants, data, training=False)
            batches += [named(student, part) for part in one_size(batch.for_model(STUDENT))]
        splits.close()
    return Inputs(batches, f"the {name} split")


def one_size(inputs: Any) -> Iterator[Any]:
    """A batch, or each sample of a list as a batch of one, where samples differ in size."""
    if isinstance(inputs, list):
        yield from (sample[None] for sample in inputs)
    else:
        yield inputs


def named(student: Student, inputs: Any) -> Named:
    """A batch of inputs by name, as far as the model takes them; KDError where they are not tensors."""
    inputs = student.task.taken(student.model, inputs)
    tensors = {ALONE: inputs} if isinstance(inputs, Tensor) else inputs
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise KDError(f"a model of the task {student.task.name} does not take tensors: it cannot be exported")
    return dict(tensors)
