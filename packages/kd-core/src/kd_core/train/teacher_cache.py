"""Outputs of a frozen model for all training samples, computed once and kept on disk.

Where samples are the same in every epoch, what a teacher says of them is too. ``cache: true`` on such a model runs it
once, for as many epochs, runs and sweeps as have the same model and data.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kd_core.data.batch import Batch
from kd_core.data.views import identity
from kd_core.device.distributed import main_first
from kd_core.errors import ConfigError, ConfigProblem, KDError
from kd_core.files import write_errors, write_whole
from kd_core.models.weights import state_digest
from kd_core.plan.plan import AdapterPlan, StagePlan, TermPlan
from kd_core.runs.prune import outputs_folder
from kd_core.taps.wires import Field, pick
from kd_core.taps.wrappers import OUTPUT, Capture
from kd_core.train.components import Components

INDEX = "index"
CHECKSUM = "crc32"
"""The key of a file's checksum in its metadata."""
ROWS = 1 << 26
"""Rows of a data set that are believed whatever the number of training samples."""
BATCH = 64
"""Samples that are computed at once, whatever a stage's batch size: of bf16 that decides the last digits."""
Fields = tuple[Field, ...]


class CachedTeacher:
    """Stands in for a frozen model with the outputs that it gave for each training sample.

    ``outputs`` maps the fields of the output that wires name to (N, ...) values; ``index`` (N,) has the samples' rows.
    """

    def __init__(self, outputs: Mapping[Fields, Tensor], index: Tensor) -> None:
        self._outputs = outputs
        self._position = torch.zeros(int(index.max()) + 1, dtype=torch.int64, device=index.device)
        self._position[index] = torch.arange(len(index), device=index.device)

    def __call__(self, batch: Batch) -> Capture:
        """The output for a batch, as far as it was kept."""
        positions = self._position[batch.index]
        value: Any = {}
        for fields, values in self._outputs.items():
            value = _put(value, fields, values[positions])
        return Capture(value, {OUTPUT: value})

    def release(self) -> None:
        """Nothing holds on to the model."""


def _put(whole: Any, fields: Fields, value: Tensor) -> Any:
    """``whole``, nested mappings, with ``value`` where ``fields`` lead."""
    if not fields:
        return value
    first, *rest = fields
    return {**whole, first: _put(whole.get(first, {}), tuple(rest), value)}


def cached_teachers(components: Components, stage: StagePlan, trained: set[str]) -> dict[str, CachedTeacher]:
    """For each model of a stage with ``cache: true``, its outputs for the stage's training samples.

    ConfigError where those are not the same in every epoch, or the stage trains the model.
    """
    names = [name for name in components.plan.taps(stage) if components.plan.models[name].cache]
    caches = {}
    for name in names:
        path = f"models.{name}.cache"
        split = components.data.get(stage.data)[1].train
        if name in trained:
            raise ConfigError(ConfigProblem(f"the stage {stage.name!r} trains {name}, whose outputs change", path))
        if components.plan.models[name].mode == "train":
            message = "in training mode a model's outputs depend on the batch and on random numbers"
            raise ConfigError(ConfigProblem(message, path, hint="leave `mode: train` or `cache: true` out"))
        if not split.fixed or stage.views is not identity:
            message = "training samples differ from epoch to epoch, and a model's outputs with them"
            raise ConfigError(ConfigProblem(message, path, hint="leave cache out, or the augmentation and views"))
        with main_first():
            caches[name] = _read_or_make(components, stage, name)
    return caches


def _read_or_make(components: Components, stage: StagePlan, name: str) -> CachedTeacher:
    fields = _fields(components, stage, name)
    folder = outputs_folder()
    path = folder / f"{_key(components, stage, name)}.safetensors"
    tensors, fault = _read(path, fields, len(components.data.get(stage.data)[1].train))
    if fault:
        components.log(f"warning: models.{name}: the outputs kept in {path} {fault}; they are made anew")
    if tensors is None:
        started = time.monotonic()
        tensors = _computed(components, stage, name, fields)
        content = save(tensors, {CHECKSUM: _checksum(tensors)})
        with write_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder, lambda file: file.write(content), lambda temporary: path.name)
        components.log(f"models.{name}: ran on {len(tensors[INDEX])} samples in {time.monotonic() - started:.1f} s")
    components.log(f"models.{name}: outputs are those kept in {path}")
    device = components.runtime.device
    outputs = {field: tensors[_named(field)].to(device) for field in fields}
    return CachedTeacher(outputs, tensors[INDEX].to(device))


def _fields(components: Components, stage: StagePlan, name: str) -> list[Fields]:
    """The fields of a model's output that a stage's wires name."""
    parts: list[TermPlan | AdapterPlan] = [
        *stage.terms.values(),
        *(components.plan.adapters[adapter] for adapter in stage.adapters),
    ]
    wires = [wire for part in parts for wire in part.all_wires() if wire.root == name]
    return list(dict.fromkeys(wire.fields for wire in wires))


def _named(fields: Fields) -> str:
    return "/".join(["output", *map(str, fields)])


def _key(components: Components, stage: StagePlan, name: str) -> str:
    """A hash of what the outputs depend on: weights, samples, and how those are read and run."""
    spec, splits = components.data.get(stage.data)
    state = hashlib.sha256()
    facts = (
        splits.train.fingerprint,
        spec,
        components.plan.inputs[name],
        components.runtime.spec.precision,
        components.runtime.device.type,
    )
    state.update(repr((*facts, _fields(components, stage, name), components.models[name])).encode())
    state.update(state_digest(components.models[name].state_dict()).encode())
    return state.hexdigest()[:32]


def _read(path: Path, fields: list[Fields], samples: int) -> tuple[dict[str, Tensor] | None, str | None]:
    """What a file holds of ``samples`` samples, or None with what is wrong with it, if it is there."""
    if not path.exists():
        return None, None
    try:
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get(CHECKSUM)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        return None, f"cannot be read ({error})"
    fault = _fault(tensors, checksum, {INDEX, *map(_named, fields)}, samples)
    return (None, fault) if fault else (tensors, None)


def _fault(tensors: Mapping[str, Tensor], checksum: str | None, names: set[str], samples: int) -> str | None:
    """What is wrong with the tensors of a file, None where they are what was written for ``samples`` samples."""
    if not names <= tensors.keys():
        return f"have no {', '.join(sorted(names - tensors.keys()))}"
    if checksum != _checksum(tensors):
        return "are damaged: they do not have the checksum that was kept with them"
    if any(value.ndim == 0 or len(value) != samples for value in tensors.values()):
        return f"are not those of {samples} samples"
    index = tensors[INDEX]
    if index.dtype != torch.int64 or index.ndim != 1 or len(index.unique()) != samples:
        return "do not say which sample is which"
    if int(index.min()) < 0 or int(index.max()) >= max(ROWS, 64 * samples):
        return f"are of row {int(index.max())}, which no data set has"
    return None


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names, types, shapes and contents: a flipped bit always changes it."""
    state = 0
    for name, value in sorted(tensors.items()):
        state = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), state)
        state = zlib.crc32(value.contiguous().flatten().view(torch.uint8).numpy().data, state)
    return f"{state:08x}"


def _computed(components: Components, stage: StagePlan, name: str, fields: list[Fields]) -> dict[str, Tensor]:
    """One pass over the training samples, prepared as for a step: (N, ...) values by name, with their rows."""
    task, runtime, model = components.plan.task, components.runtime, components.models[name]
    spec, splits = components.data.get(stage.data)
    order = splits.train.arrange(torch.arange(len(splits.train)), BATCH).split(BATCH)
    seen: dict[str, list[Tensor]] = {INDEX: [], **{_named(field): [] for field in fields}}
    training = [module for module in model.modules() if module.training]
    model.eval()
    with torch.no_grad(), runtime.autocast():
        for raw in splits.train.batches(order, epoch=0, seed=0, augment=False):
            batch = runtime.format(
                task.prepare(raw.to(runtime.device), {name: components.plan.inputs[name]}, spec, training=True)
            )
            output = task.call(model, batch.for_model(name))
            for name_path in fields:
                seen[_named(name_path)].append(_rows(pick(output, name_path), len(batch)).cpu())
            seen[INDEX].append(batch.index.cpu())
    for module in training:
        module.training = True
    return {key: torch.cat(values) for key, values in seen.items()}


def _rows(value: Any, count: int) -> Tensor:
    """A value with one row a sample; KDError for any other."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
        held = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise KDError(f"cache keeps tensors with one row a sample, not {held} of {count} samples")
    return value
