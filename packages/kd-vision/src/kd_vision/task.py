"""Image classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kd_vision.cifar  # noqa: F401  (registers data sets)
from kd_core.errors import KDError, did_you_mean
from kd_core.task import SHARED, TASKS, Batch, Facts, Split, Splits
from kd_vision.arrays import ArraySplit
from kd_vision.augment import parse
from kd_vision.metrics import ClassificationMetrics
from kd_vision.pool import Pool, all_but, equally, only_classes, stratified
from kd_vision.sources import SOURCES, Parts, Source
from kd_vision.spec import Data, Input, pixels

LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey image (ITU-R BT.601)."""


@TASKS("image_classification", "classification")
class ImageClassification:
    """One label per image. Targets are (B,) int64, inputs (B, C, H, W) normalised float32, outputs logits (B, classes)."""

    name = "image_classification"
    primary = "top1"
    maximise = True
    Data = Data
    Input = Input

    def facts(self, data: Data) -> Facts:
        """What the data set's name and the config tell."""
        source = source_of(data)
        num_classes = len(data.classes) if data.classes else data.num_classes or source.num_classes
        return Facts(num_classes, source.shape)

    def load(self, data: Data, *, seed: int) -> Splits:
        """Read, choose and split; ``data.seed``, where given, replaces ``seed`` in every choice."""
        source = source_of(data)
        seed = seed if data.seed is None else data.seed
        parts = source.read(data)
        if data.classes:
            parts = keep_classes(parts, data.classes)
        train, val = split_train(parts, data, seed)
        augmentation = parse(source.augment if data.augment is None else data.augment)

        def split(pool: Pool | None) -> Split | None:
            return ArraySplit(pool, augmentation) if pool is not None and len(pool) else None

        train_split = split(train)
        if train_split is None:
            raise KDError("data: no training image is left")
        test = at_most(parts.test, data.limits.test, seed, "limit.test")
        return Splits(train_split, split(val), split(test), len(parts.classes))

    def prepare(self, batch: Batch, inputs: Mapping[str, Input], data: Data) -> Batch:
        """Float images as each model takes them; models that take the same share one tensor."""
        images: Tensor = batch.inputs[SHARED]
        views = {name: view_of(spec, data, images) for name, spec in inputs.items()}
        made = {view: view.of(images) for view in set(views.values())}
        if len(made) == 1:
            return Batch({SHARED: next(iter(made.values()))}, batch.target, batch.index, batch.extra)
        return Batch({name: made[view] for name, view in views.items()}, batch.target, batch.index, batch.extra)

    def example(self, data: Data, size: int) -> Batch:
        """Grey noise with classes in turn; KDError where only reading the data would tell the shape."""
        facts = self.facts(data)
        if facts.input_shape is None:
            raise KDError("data: the images' size is not known before they are read; set data.size")
        images = torch.randint(
            0, 256, (size, *facts.input_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        index = torch.arange(size)
        return Batch({SHARED: images}, index % (facts.num_classes or 1), index)

    def call(self, model: nn.Module, inputs: Tensor) -> Any:
        """``model(images)``."""
        return model(inputs)

    def metrics(self, num_classes: int | None) -> ClassificationMetrics:
        """top1, top5, loss and ece."""
        return ClassificationMetrics(num_classes)


def source_of(data: Data) -> Source:
    """The data set a config names."""
    assert data.name is not None
    return SOURCES.get(data.name)()


def keep_classes(parts: Parts, wanted: list[str | int]) -> Parts:
    """Some classes only, by name or number, in the order given."""
    numbers = []
    for item in wanted:
        if isinstance(item, str) and item not in parts.classes:
            raise KDError(f"data.classes: there is no class {item!r} ({did_you_mean(item, parts.classes)})")
        number = parts.classes.index(item) if isinstance(item, str) else item
        if not 0 <= number < len(parts.classes):
            raise KDError(f"data.classes: there is no class {item}; they are 0 .. {len(parts.classes) - 1}")
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        raise KDError("data.classes: a class is named twice")
    train, val, test = (pool and only_classes(pool, numbers) for pool in (parts.train, parts.val, parts.test))
    assert train is not None
    return Parts(train, val, test, tuple(parts.classes[number] for number in numbers))


def at_most(pool: Pool | None, count: int | None, seed: int, purpose: str) -> Pool | None:
    """``count`` images of a pool where it has more, every class in its share."""
    if pool is None or count is None or count >= len(pool):
        return pool
    return pool.take(stratified(pool.target, count, seed=seed, purpose=purpose))


def split_train(parts: Parts, data: Data, seed: int) -> tuple[Pool, Pool | None]:
    """Training and validation images: a choice of the training images, cut in two, of which some keep their labels."""
    train = parts.train
    if data.fraction is not None:
        train = train.take(stratified(train.target, round(len(train) * data.fraction), seed=seed, purpose="fraction"))
    if data.per_class is not None:
        train = train.take(equally(train.target, data.per_class, seed=seed))
    train = at_most(train, data.limits.train, seed, "limit.train") or train
    val = parts.val
    if val is None:
        share = 0.1 if data.val is None else data.val
        count = share if isinstance(share, int) else round(len(train) * share)
        chosen = stratified(train.target, count, seed=seed, purpose="val")
        train, val = train.take(all_but(len(train), chosen)), train.take(chosen)
    elif data.val is not None:
        raise KDError("data.val: the data set has a validation split of its own; leave 'val' out")
    if data.labelled is not None:
        train = train.hide_labels(stratified(train.target, data.labelled, seed=seed, purpose="labelled"))
    return train, at_most(val, data.limits.val, seed, "limit.val")


@dataclass(frozen=True)
class View:
    """How one model sees an image: channels, size, normalisation."""

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, images: Tensor) -> Tensor:
        """uint8, or float in [0, 1], (B, C, H, W) -> normalised float32 (B, channels, *size)."""
        images = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        if images.shape[1] == 1 < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        elif self.channels == 1 < images.shape[1]:
            images = torch.einsum("bchw,c->bhw", images, constant(LUMINANCE, images.device).flatten())[:, None]
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return (images - constant(self.mean, images.device)).div_(constant(self.std, images.device))


def view_of(spec: Input, data: Data, images: Tensor) -> View:
    """The view an ``input:`` asks for, the rest from the data; KDError where channels do not fit."""
    source, have = source_of(data), images.shape[1]
    channels = spec.channels or have
    if channels != have and not {channels, have} <= {1, 3}:
        raise KDError(f"input.channels: images of {have} channels cannot become {channels}")
    size = pixels(spec.size) if spec.size else (images.shape[-2], images.shape[-1])
    mean = fit(spec.mean or data.mean or source.mean, channels, "mean")
    return View(channels, size, mean, fit(spec.std or data.std or source.std, channels, "std"))


def fit(values: tuple[float, ...] | list[float], channels: int, key: str) -> tuple[float, ...]:
    """``values`` for that many channels: one is repeated, three make a grey one."""
    if len(values) == 1:
        return tuple(values) * channels
    if channels == 1 and len(values) == 3:
        return (sum(share * value for share, value in zip(LUMINANCE, values, strict=True)),)
    if len(values) != channels:
        raise KDError(f"input.{key}: {len(values)} values for {channels} channels")
    return tuple(values)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) on the device, made once: a copy to it in every step would wait for it."""
    return torch.tensor(values, device=device)[:, None, None]
