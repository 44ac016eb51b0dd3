"""Which images train, which choose the best checkpoint, which test, and which of them keep their labels."""

from __future__ import annotations

from dataclasses import replace

from kd_core.errors import KDError, did_you_mean
from kd_vision.data.pool import LabelledSubset, balanced, complement, only_classes, stratified
from kd_vision.data.sources import Parts
from kd_vision.data.spec import DataSpec

VAL_SHARE = 0.1
"""The share of the training images that validates, for data sets without a validation split."""


def split(parts: Parts, data: DataSpec, seed: int) -> Parts:
    """The data set as the config wants it: classes, then size, then validation, then labels.

    A pure function of the data set, the config and the seed; every class keeps its share.
    """
    if data.num_classes not in (None, len(parts.classes)):
        raise KDError(
            f"is {data.num_classes}, and the data set has {len(parts.classes)} classes", path="data.num_classes"
        )
    if data.classes:
        parts = keep_classes(parts, data.classes)
    train, val = split_off(choose_train(parts.train, data, seed), parts.val, data, seed)
    if data.labelled is not None:
        labelled = (train.target >= 0).nonzero().flatten()
        chosen = stratified(train.target[labelled], data.labelled, seed=seed, purpose="labelled")
        train = train.hide_labels(labelled[chosen])
    limits = data.limits
    val, test = at_most(val, limits.val, seed, "limit.val"), at_most(parts.test, limits.test, seed, "limit.test")
    return replace(parts, train=train, val=val, test=test)


def keep_classes(parts: Parts, wanted: list[str | int]) -> Parts:
    """Some classes only, by name or number, in the order given."""
    numbers: list[int] = []
    for item in wanted:
        if isinstance(item, str) and item not in parts.classes:
            raise KDError(f"there is no class {item!r}", hint=did_you_mean(item, parts.classes), path="data.classes")
        number = parts.classes.index(item) if isinstance(item, str) else item
        if not 0 <= number < len(parts.classes):
            raise KDError(f"there is no class {item}; they are 0 .. {len(parts.classes) - 1}", path="data.classes")
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        raise KDError("a class is named twice", path="data.classes")
    train = only_classes(parts.train, numbers)
    if not len(train):
        raise KDError("there are no training images of these classes", path="data.classes")
    return Parts(
        train,
        parts.val and only_classes(parts.val, numbers),
        parts.test and only_classes(parts.test, numbers),
        tuple(parts.classes[number] for number in numbers),
    )


def choose_train(train: LabelledSubset, data: DataSpec, seed: int) -> LabelledSubset:
    """The training images that ``fraction``, ``per_class`` or ``limit`` leave."""
    if data.fraction is not None:
        count = round(len(train) * data.fraction)
        return train.take(stratified(train.target, count, seed=seed, purpose="fraction"))
    if data.per_class is not None:
        return train.take(balanced(train.target, data.per_class, seed=seed))
    # the images that `labelled` would choose, so that a student alone sees the labels a distilled one does
    return at_most(train, data.limits.train, seed, "labelled") or train


def split_off(
    train: LabelledSubset, val: LabelledSubset | None, data: DataSpec, seed: int
) -> tuple[LabelledSubset, LabelledSubset | None]:
    """Training and validation images, the latter taken from the former where there are none yet."""
    if val is not None:
        if data.val is not None:
            raise KDError("the data set has a validation split of its own; leave 'val' out", path="data.val")
        return train, val
    share = VAL_SHARE if data.val is None else data.val
    count = share if isinstance(share, int) else round(len(train) * share)
    if not count:
        return train, None
    if count >= len(train):
        raise KDError(f"{count} of {len(train)} images for validation leave none to train on", path="data.val")
    chosen = stratified(train.target, count, seed=seed, purpose="val")
    return train.take(complement(len(train), chosen)), train.take(chosen)


def at_most(pool: LabelledSubset | None, count: int | None, seed: int, purpose: str) -> LabelledSubset | None:
    """``count`` images of a pool where it has more."""
    if pool is None or count is None or count >= len(pool):
        return pool
    return pool.take(stratified(pool.target, count, seed=seed, purpose=purpose))
