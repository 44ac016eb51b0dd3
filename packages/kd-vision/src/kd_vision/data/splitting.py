"""Which images train, which choose the best checkpoint, which test, and which of them keep their labels."""

from __future__ import annotations

from dataclasses import replace

from kd_core.data.sources import Parts
from kd_core.data.subset import LABELLED, balanced, stratified
from kd_core.data.subset import split as split_parts
from kd_core.errors import KDError, did_you_mean
from kd_core.notes import Note
from kd_vision.data.labelled_subset import LabelledSubset, only_classes
from kd_vision.data.spec import DataSpec


def split(parts: Parts[LabelledSubset], data: DataSpec, seed: int) -> Parts[LabelledSubset]:
    """The data set as the config wants it: classes, then size, then validation, then labels.

    A pure function of the data set, the config and the seed; every class keeps its share.
    """
    parts = with_classes(scorable(parts), data).with_origins()
    if parts.train is not None and not (parts.train.target >= 0).any():
        if data.val:
            raise KDError("holds out images to validate, and these have no labels", path="data.val")
        data = data.model_copy(update={"val": 0})
    if data.classes:
        parts = keep_classes(parts, data.classes)
    assert parts.train is not None
    parts = split_parts(replace(parts, train=choose_train(parts.train, data, data.seed_or(seed))), data, seed)
    assert parts.train is not None
    return replace(parts, train=keep_labels(parts.train, data, data.seed_or(seed)))


def scorable(parts: Parts[LabelledSubset]) -> Parts[LabelledSubset]:
    """The data set without a test split of which no image has a label: nothing could be scored on it."""
    if parts.test is None or not len(parts.test) or (parts.test.target >= 0).any():
        return parts
    note = Note.warning(f"none of the {len(parts.test):,} test images has a label: they are left out")
    return replace(parts, test=None, notes=(*parts.notes, note))


def with_classes(parts: Parts[LabelledSubset], data: DataSpec) -> Parts[LabelledSubset]:
    """The data set with names for its classes: numbers where it has none; KDError for another number than it has."""
    if parts.classes is None:
        count = max(int(subset.target.max()) + 1 for subset in parts.items().values())
        parts = replace(parts, classes=tuple(map(str, range(max(count, data.num_classes or 0)))))
    assert parts.classes is not None
    if data.num_classes not in (None, len(parts.classes)):
        message = f"is {data.num_classes}, and the data set has {len(parts.classes)} classes"
        raise KDError(message, path="data.num_classes")
    return parts


def keep_classes(parts: Parts[LabelledSubset], selection: list[str | int]) -> Parts[LabelledSubset]:
    """Some classes only, by name or number, in the order given."""
    names = parts.classes or ()
    numbers: list[int] = []
    for item in selection:
        if isinstance(item, str) and item not in names:
            raise KDError(f"there is no class {item!r}", hint=did_you_mean(item, names), path="data.classes")
        number = names.index(item) if isinstance(item, str) else item
        if isinstance(item, int) and str(item) in names and names.index(str(item)) != number:
            message = f"{item} may be the class named {str(item)!r}, or the class at position {item}"
            raise KDError(message, hint=f"write {str(item)!r}, in quotes, for the name", path="data.classes")
        if not 0 <= number < len(names):
            raise KDError(f"there is no class {item}; they are 0 .. {len(names) - 1}", path="data.classes")
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        raise KDError("a class is named twice", path="data.classes")
    subsets = {name: only_classes(subset, numbers) for name, subset in parts.items().items()}
    if not len(subsets["train"]):
        raise KDError("there are no training images of these classes", path="data.classes")
    origins = {name: replace(parts.origins[name], whole=subset) for name, subset in subsets.items()}
    classes = tuple(names[number] for number in numbers)
    val, test = subsets.get("val"), subsets.get("test")
    return replace(parts, train=subsets["train"], val=val, test=test, classes=classes, origins=origins)


def choose_train(train: LabelledSubset, data: DataSpec, seed: int) -> LabelledSubset:
    """The training images that ``fraction`` or ``per_class`` leave."""
    if data.fraction is not None:
        count = round(len(train) * data.fraction)
        return train.take(stratified(train.target, count, seed=seed, purpose="fraction"))
    if data.per_class is not None:
        return train.take(balanced(train.target, data.per_class, seed=seed))
    return train


def keep_labels(train: LabelledSubset, data: DataSpec, seed: int) -> LabelledSubset:
    """The training images with labels for ``labelled`` of them only."""
    if data.labelled is None:
        return train
    labelled = (train.target >= 0).nonzero().flatten()
    positions = stratified(train.target[labelled], data.labelled, seed=seed, purpose=LABELLED)
    return train.hide_labels(labelled[positions])
