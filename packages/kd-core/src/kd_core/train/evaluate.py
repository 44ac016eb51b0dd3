"""Scoring a model on a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import tee
from typing import Any

import torch
from torch import nn

from kd_core.data.batch import Batch, DatasetInfo, Split
from kd_core.device.distributed import MicroBatchShard, Processes, epoch_batches, gather, rank, world_size
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError, foreign_errors
from kd_core.taps.wires import describe_shapes
from kd_core.task import Metrics, Task
from kd_core.train.probe import restored


def measured(
    task: Task,
    models: Mapping[str, nn.Module],
    name: str,
    split: Split,
    *,
    spec: Any,
    data: Any,
    info: DatasetInfo,
    batch_size: int,
    runtime: Runtime,
) -> dict[str, Metrics]:
    """The task's metrics of each of the ``models`` on a whole split, in eval mode, to be computed.

    All take what the model called ``name`` in the config takes: samples are read and prepared once for all. Of several
    processes each scores its own rows: outputs are gathered, or what the metrics counted is added up. The models' modes
    and every random state are as before afterwards.
    """
    if len(split) == 0:
        raise KDError("the split to score is empty")
    metrics = {label: task.metrics(info) for label in models}
    modes = {module: module.training for model in models.values() for module in model.modules()}
    for model in models.values():
        model.eval()
    running = {label: runtime.scored(model) for label, model in models.items()}
    try:
        with torch.no_grad(), runtime.autocast(), runtime.compiled(usual=False):
            for raw, shard in _own_batches(split, batch_size):
                batch = runtime.format(task.prepare(raw.to(runtime.device), {name: spec}, data, training=False))
                for label, model in running.items():
                    _score(task, model, name, batch, shard, metrics[label])
    finally:
        for module, training in modes.items():
            module.training = training
    for measure in metrics.values():
        if measure.reduces:
            measure.reduce(Processes())
    return metrics


def _score(task: Task, model: nn.Module, name: str, batch: Batch, shard: MicroBatchShard, metrics: Metrics) -> None:
    """Add what a model gives for this process's rows of a batch to its metrics."""
    shapes = describe_shapes(batch.for_model(name))
    with foreign_errors(f"the forward pass on samples of shape {shapes}", "models", name):
        output = task.call(model, batch.for_model(name))
    if not metrics.reduces:
        truth = without_inputs(batch).map(partial(gather, sizes=shard.rows))
        metrics.update(gather(output, shard.rows), truth)
    elif shard.rows[rank()]:
        metrics.update(output, batch)


def _own_batches(split: Split, batch_size: int) -> Iterator[tuple[Batch, MicroBatchShard]]:
    """This process's rows of each batch of a split, in the split's own order, and what they count.

    A batch smaller than the number of processes is made as large, so that each process has a row of it.
    """
    order = split.arrange(torch.arange(len(split)), batch_size)
    rows, divided = tee(epoch_batches(order, max(batch_size, world_size())))
    batches = split.batches((positions for (positions,), _ in rows), epoch=0, seed=0, augment=False)
    yield from zip(batches, (shard for _, (shard,) in divided), strict=True)


def check_gatherable(
    task: Task, model: nn.Module, name: str, split: Split, *, spec: Any, data: Any, info: DatasetInfo, runtime: Runtime
) -> None:
    """KDError where several processes could not score a split, for outputs or targets are lists of one value a sample.

    Such lists cannot be gathered: their metrics must reduce. Told from tuples of a fixed length by batches of one and
    of two samples, in evaluation mode.
    """
    if world_size() == 1 or task.metrics(info).reduces or not len(split):
        return
    lengths = []
    with restored([model]), torch.no_grad(), runtime.autocast():
        model.eval()
        for count in (1, 2):
            raw = next(iter(split.batches([torch.zeros(count, dtype=torch.int64)], epoch=0, seed=0, augment=False)))
            batch = runtime.format(task.prepare(raw.to(runtime.device), {name: spec}, data, training=False))
            output = task.call(model, batch.for_model(name))
            lengths.append(_list_lengths({"outputs": output, "targets": batch.target}))
    for path, length in lengths[0].items():
        if (length, lengths[1].get(path)) == (1, 2):
            message = f"the {path.split('/')[0]} of task {task.name!r} are lists of one value a sample, which "
            message += f"{world_size()} processes cannot gather to score them"
            raise KDError(message, hint="run one process, or give the task metrics that reduce (`Metrics.reduces`)")


def _list_lengths(value: Any, path: str = "") -> dict[str, int]:
    """The lengths of the lists and tuples in nested mappings, by their places."""
    if isinstance(value, Mapping):
        return {
            nested_path: length
            for key, item in value.items()
            for nested_path, length in _list_lengths(item, f"{path}/{key}" if path else str(key)).items()
        }
    return {path: len(value)} if isinstance(value, (list, tuple)) and not hasattr(value, "_fields") else {}


def without_inputs(batch: Batch) -> Batch:
    """What metrics judge by: one value a sample. Padded texts and their masks differ in length among processes."""
    extra = {name: value for name, value in batch.extra.items() if getattr(value, "ndim", 1) == 1}
    return replace(batch, inputs={}, extra=extra)


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics as text: ``top1 91.92, loss 0.283``, without those of single classes (``iou/cat``)."""
    return ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if "/" not in key)
