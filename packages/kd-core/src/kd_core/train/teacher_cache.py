"""Outputs of a frozen model for the training samples, computed once and kept on disk.

Where samples are the same in every epoch, or are shown in a number of views, what a teacher says of them is known after
the first time. ``cache: true`` on such a model keeps it, for as many epochs, runs and sweeps as have the same model and
data.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_core.config.schema import CacheSpec
from kd_core.data.batch import Batch
from kd_core.data.spec import augmented_views
from kd_core.data.views import identity
from kd_core.device.distributed import all_gather_object, rank, world_size
from kd_core.errors import ConfigError, ConfigProblem, KDError, RunInterrupted
from kd_core.models.weights import state_digest
from kd_core.plan.plan import AdapterPlan, StagePlan, TermPlan
from kd_core.taps.pooled import pooled
from kd_core.taps.wires import Field, Tap, Wire, pick
from kd_core.taps.wrappers import OUTPUT, Capture, Teacher
from kd_core.train.components import Components
from kd_core.train.output_codec import Codec, Place
from kd_core.train.output_store import Layout, OutputStore, cache_folder, room

GROUP = 64
"""Samples that a model runs on at once where they never change, whatever a stage's batch size: of bf16 that decides the
last digits."""
CHOICES = {"limit", "val", "test", "seed", "fraction", "per_class", "labelled"}
ELSEWHERE = {"root", "workers", "download", "on_error", "cache", "augmented_views", *CHOICES}
"""Keys of ``data`` that change nothing of a sample: the content of the data set is in the key, by a hash."""
Fields = tuple[Field, ...]


@dataclass(frozen=True)
class Keeper:
    """Where the values of one place are kept, and how."""

    place: Place
    codec: Codec
    store: OutputStore


class CachedTeacher:
    """A frozen model that runs for those samples of which nothing is kept yet, and keeps what it gives.

    It runs them ``group`` at a time, filled up where they are fewer, so that what is kept depends on nothing else.
    ``view`` is the view that batches are in; ``extent`` are the numbers of samples and of views.
    """

    def __init__(
        self,
        teacher: Teacher,
        keepers: Sequence[Keeper],
        components: Components,
        *,
        group: int,
        extent: tuple[int, int],
    ) -> None:
        self.teacher, self.keepers, self.group = teacher, keepers, group
        self.runtime, self._log = components.runtime, components.log
        self.pool = components.plan.models[teacher.name].pool
        self.view = 0
        self.ran = 0
        """How many samples the model ran on."""
        self._extent = extent
        self._room: dict[Place, int] = {}

    def __call__(self, batch: Batch, rows: Tensor) -> Capture:
        """What the model gives for a batch, whose ``rows`` (B,) on the CPU are those of the data set."""
        read = [keeper.store.read(self.view, rows) for keeper in self.keepers]
        there = torch.stack([found for _, found in read]).all(0)
        tensors_read = [tensors for tensors, _ in read]
        if there.all():
            known = [(keeper.store.layout, each) for keeper, each in zip(self.keepers, tensors_read, strict=True)]
        else:
            known = self._completed(batch, rows, there, tensors_read)
        at = self.teacher.parameter_values()
        for keeper, (layout, tensors) in zip(self.keepers, known, strict=True):
            assert layout is not None
            value = keeper.codec.decoded(layout.structure, [self._placed(tensor) for tensor in tensors])
            at[keeper.place.tap] = _put(at.get(keeper.place.tap, {}), keeper.place.fields, value)
        return Capture(at.get(OUTPUT), at)

    def live(self, batch: Batch) -> Capture:
        """What the model gives for a batch of which nothing is kept."""
        return pooled(self.teacher(batch.for_model(self.teacher.name)), self.pool, self.teacher.name)

    def _placed(self, tensor: Tensor) -> Tensor:
        device = self.runtime.device
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    def _completed(
        self, batch: Batch, rows: Tensor, there: Tensor, read: list[list[Tensor]]
    ) -> list[tuple[Layout | None, list[Tensor]]]:
        """The tensors of all rows, those that are absent computed and kept."""
        absent = (~there).nonzero().flatten()
        with self.runtime.compiled(usual=True):
            made = [self._ran(batch, positions) for positions in absent.split(self.group)]
        known: list[tuple[Layout | None, list[Tensor]]] = []
        for number, keeper in enumerate(self.keepers):
            layout = made[0][number][0]
            columns = zip(*(part[number][1] for part in made), strict=True)
            fresh = [torch.cat(column).cpu() for column in columns]
            self._keep(keeper, rows[absent], layout, fresh)
            known.append((layout, _merged(read[number], fresh, absent, len(rows))))
        return known

    def _ran(self, batch: Batch, positions: Tensor) -> list[tuple[Layout, list[Tensor]]]:
        """What the model gives for some samples of a batch, to be kept, by keeper."""
        count = len(positions)
        if count < self.group or count < len(batch):
            filled = torch.cat([positions, positions[-1:].expand(self.group - count)])
            batch = self.runtime.format(batch.take(filled))
        capture = self.live(batch)
        self.ran += count
        encoded = []
        for keeper in self.keepers:
            layout, tensors = keeper.codec.encoded(_picked(capture, keeper.place), self.group)
            encoded.append((layout, [tensor[:count] for tensor in tensors]))
        return encoded

    def _keep(self, keeper: Keeper, rows: Tensor, layout: Layout, tensors: Sequence[Tensor]) -> None:
        """Keep the tensors of some rows, where there is room for them."""
        path = f"models.{self.teacher.name}.cache"
        if keeper.place not in self._room:
            self._room[keeper.place] = self._views_with_room(layout.bytes)
        if self.view >= self._room[keeper.place]:
            return
        try:
            keeper.store.write(self.view, rows, layout, tensors)
        except RunInterrupted as error:
            self._room = dict.fromkeys(self._room, 0)
            self._log(f"warning: {path}: {error}; nothing more is kept, and the model runs instead")
        except KDError as error:
            raise KDError(str(error), path=path, hint=f"{self.teacher.name}.{keeper.place} cannot be kept") from None

    def _views_with_room(self, size: int) -> int:
        """How many views of all samples there is room for, where a record has so many bytes."""
        samples, views = self._extent
        whole = samples * views * size
        found = room(whole, [keeper.store.folder for keeper in self.keepers])
        if found < whole:
            what = (
                f"{samples} samples in {views} views take {whole / 1e9:.3g} GB, and there is room for {found / 1e9:.3g}"
            )
            self._log(f"warning: models.{self.teacher.name}.cache: {what}; the model runs for what is not kept")
        return views if found == whole else found // (samples * size)

    def has(self, rows: Tensor) -> bool:
        """Whether all is kept of some rows."""
        return all(bool(keeper.store.read(self.view, rows)[1].all()) for keeper in self.keepers)

    def fill(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """Run on whole batches, which are made alike every time, and keep what the model gives; their rows."""
        for batch in batches:
            rows = batch.index.cpu()
            with self.runtime.compiled(usual=False):
                made = self._ran(batch, torch.arange(len(rows)))
            for keeper, (layout, tensors) in zip(self.keepers, made, strict=True):
                self._keep(keeper, rows, layout, tensors)
            yield rows

    def keep_rows(self, split: str, rows: Tensor) -> None:
        """Note in which order all samples of a split were kept, so that the next run need not read them to tell."""
        with suppress(RunInterrupted):  # told of before
            if all(self._room.values()):
                self.keepers[0].store.keep_rows(split, rows)

    def release(self) -> None:
        """Take the wrapper off the model."""
        self.teacher.release()


def _picked(capture: Capture, place: Place) -> Any:
    value = capture.at[place.tap]
    return pick(value, place.fields)


def _merged(kept: Sequence[Tensor], fresh: Sequence[Tensor], absent: Tensor, count: int) -> list[Tensor]:
    """The tensors of all ``count`` samples: those that were kept, with the ``fresh`` ones at the ``absent`` places."""
    if len(absent) == count:
        return list(fresh)
    merged = [tensor.clone() for tensor in kept]
    for whole, part in zip(merged, fresh, strict=True):
        whole[absent] = part
    return merged


def _put(whole: Any, fields: Fields, value: Any) -> Any:
    """``whole``, nested mappings, with ``value`` where ``fields`` lead."""
    if not fields:
        return value
    first, *rest = fields
    return {**whole, first: _put(whole.get(first, {}), tuple(rest), value)}


def cached_names(components: Components, stage: StagePlan, trained: set[str]) -> list[str]:
    """The models of a stage with ``cache``; ConfigError where what they give cannot be kept."""
    names = [name for name in components.plan.taps(stage) if components.plan.models[name].cache]
    for name in names:
        if not any(components.plan.taps(other).get(name) for other in components.plan.stages):
            message = f"only adapters run {name}, and nothing that it gives can be kept"
            raise ConfigError(ConfigProblem(message, f"models.{name}.cache", hint="leave `cache` out"))
    names = [name for name in names if components.plan.taps(stage)[name]]
    for name in names:
        path = f"models.{name}.cache"
        data, splits = components.data.get(stage.data)
        if name in trained:
            raise ConfigError(ConfigProblem(f"the stage {stage.name!r} trains {name}, whose outputs change", path))
        if components.plan.models[name].mode == "train":
            message = "in training mode a model's outputs depend on the batch and on random numbers"
            raise ConfigError(ConfigProblem(message, path, hint="leave `mode: train` or `cache` out"))
        if stage.views is not identity:
            message = f"the views of the stage {stage.name!r} are made after what is kept"
            raise ConfigError(ConfigProblem(message, path, hint="leave `cache` or the views out"))
        if not splits.train.fixed and augmented_views(data) is None:
            message = "training samples differ from epoch to epoch, and a model's outputs with them"
            hint = "with `data.augmented_views: 8` there are 8 of each sample; or leave cache or the augmentation out"
            raise ConfigError(ConfigProblem(message, path, hint=hint))
    return names


def cached_teacher(components: Components, stage: StagePlan, teacher: Teacher) -> CachedTeacher:
    """A frozen model with what is kept of it. Where samples never change, all are complete from here on."""
    name, splits = teacher.name, components.data.get(stage.data)[1]
    group = GROUP if splits.train.fixed else group_size(components, stage)
    spec = cache_spec(components, name)
    facts = _facts(components, stage, name, group)
    keepers = []
    for place in _places(components, stage, name):
        how = (spec.dtype, spec.pool, spec.top_k if place.tap == OUTPUT else None)
        key = hashlib.sha256(repr((facts, place, how)).encode())
        told = {"model": name, "wire": f"{name}.{place}", "samples": len(splits.train), **_told(components, stage)}
        store = OutputStore(cache_folder() / key.hexdigest()[:32], told)
        if store.fault:
            components.log(f"warning: models.{name}: {store.fault}; the outputs are made anew")
        keepers.append(Keeper(place, Codec(place, spec), store))
    data = components.data.get(stage.data)[0]
    extent = (len(splits.train), 1 if splits.train.fixed else augmented_views(data) or 1)
    cached = CachedTeacher(teacher, keepers, components, group=group, extent=extent)
    if splits.train.fixed:
        _fill(components, stage, cached)
    for keeper in keepers:
        components.log(f"models.{name}: {keeper.place} is kept in {keeper.store.folder}")
    return cached


def bytes_per_sample(
    components: Components, stage: StagePlan, name: str, spec: bool | CacheSpec, captures: Mapping[str, Capture]
) -> int:
    """Bytes that one sample takes where what a stage reads of a model is kept, told by what it gave for two samples."""
    how = spec if isinstance(spec, CacheSpec) else CacheSpec()
    layouts = [
        Codec(place, how).encoded(_picked(captures[name], place), 2)[0] for place in _places(components, stage, name)
    ]
    return sum(layout.bytes for layout in layouts)


def cache_spec(components: Components, name: str) -> CacheSpec:
    """How a model's outputs are kept."""
    spec = components.plan.models[name].cache
    return spec if isinstance(spec, CacheSpec) else CacheSpec()


def group_size(components: Components, stage: StagePlan) -> int:
    """How many samples a model runs on at once: as many as this stage's micro-batches have."""
    assert stage.spec.batch_size is not None
    return -(-stage.spec.batch_size // (world_size() * stage.spec.accumulation_steps))


def _places(components: Components, stage: StagePlan, name: str) -> list[Place]:
    """The values of a model that a stage's wires name; a part of another one is not kept twice."""
    parts: list[TermPlan | AdapterPlan] = [
        *stage.terms.values(),
        *(components.plan.adapters[adapter] for adapter in stage.adapters),
    ]
    wires = [wire for part in parts for wire in part.all_wires() if wire.root == name]
    places = dict.fromkeys(Place(tap, wire.fields) for wire in wires if (tap := _tap(wire)) is not None)
    whole = {place.tap for place in places if not place.fields}
    return [place for place in places if not place.fields or place.tap not in whole]


def _tap(wire: Wire) -> Tap | None:
    """The tap of a wire whose value has a row a sample."""
    return None if wire.tap is None or wire.tap.is_parameter else wire.tap


def _facts(components: Components, stage: StagePlan, name: str, group: int) -> tuple[Any, ...]:
    """What the outputs depend on: weights, samples, and how those are read and run."""
    data, splits = components.data.get(stage.data)
    runtime, model = components.runtime.spec, components.models[name]
    fixed = splits.train.fixed
    return (
        splits.train.content,
        {key: value for key, value in dict(data).items() if key not in ELSEWHERE},
        components.plan.inputs[name],
        (runtime.precision, runtime.channels_last, runtime.fuse_bn, components.runtime.device.type),
        name in runtime.cpu_kernels,
        fixed or (name in runtime.compile, group),
        model,
        state_digest(model.state_dict()),
    )


def _told(components: Components, stage: StagePlan) -> dict[str, Any]:
    """What `cache list` says of a run's outputs."""
    data = components.data.get(stage.data)[0]
    return {
        "task": components.plan.task.name,
        "data": getattr(data, "name", None),
        "precision": components.runtime.spec.precision,
    }


def _fill(components: Components, stage: StagePlan, cached: CachedTeacher) -> None:
    """Keep what is absent of all samples, in groups that are the same every time; processes share them out."""
    started, train = time.monotonic(), components.data.get(stage.data)[1].train
    positions = train.arrange(torch.arange(len(train)), GROUP).split(GROUP)
    first = cached.keepers[0].store
    known = first.rows(train.fingerprint)
    if known is not None and len(known) == len(train):
        absent = [number for number, rows in enumerate(known.split(GROUP)) if not cached.has(rows)]
    else:
        known, absent = None, list(range(len(positions)))
    own = absent[rank() :: world_size()]
    batches = _batches(components, stage, cached.teacher.name, [positions[number] for number in own])
    rows = dict(zip(own, cached.fill(batches), strict=True))
    everyones = {number: row for part in all_gather_object(rows) for number, row in part.items()}
    if known is None and not rank():
        cached.keep_rows(train.fingerprint, torch.cat([everyones[number] for number in absent]))
    if cached.ran:
        seconds = time.monotonic() - started
        components.log(f"models.{cached.teacher.name}: ran on {cached.ran} samples in {seconds:.1f} s")


def _batches(components: Components, stage: StagePlan, name: str, positions: Sequence[Tensor]) -> Iterator[Batch]:
    """Training samples, prepared as for a step."""
    task, runtime = components.plan.task, components.runtime
    spec, splits = components.data.get(stage.data)
    for raw in splits.train.batches(positions, epoch=0, seed=0, augment=False):
        inputs = {name: components.plan.inputs[name]}
        yield runtime.format(task.prepare(raw.to(runtime.device), inputs, spec, training=True))
