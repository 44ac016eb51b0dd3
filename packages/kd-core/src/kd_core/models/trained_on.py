"""What a model was trained on, by the note beside its weights, compared with the data that it is to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.data.summary import shortened
from kd_core.errors import KDError
from kd_core.models.factory import from_hub, recorded
from kd_core.notes import Note

HINT = "`data.classes` gives the classes of the data in the model's order; `new_head: true` trains a new classifier"


def class_names_of(spec: ModelSpec) -> tuple[str, ...] | None:
    """The names of the classes of a model's outputs, None where they are not known or an edit may have changed them.

    The models of a hub are left to it: it knows names of its own.
    """
    if spec.new_head or spec.edit or from_hub(spec).hub is not None:
        return None
    if spec.class_names is not None:
        return tuple(spec.class_names)
    saved = recorded(spec)
    return None if saved is None or saved.class_names is None else tuple(saved.class_names)


def check_class_names(spec: ModelSpec, info: DatasetInfo, path: str) -> Note | None:
    """KDError, with both lists, where a model's classes are not those of the data, in the same order.

    A warning where one of the two has only numbers for names, so that the order is assumed.
    """
    names, actual = class_names_of(spec), info.classes
    if not names or not actual or names == tuple(actual):
        return None
    if len(names) == len(actual) and only_numbers(names) != only_numbers(actual):
        text = "classes have names on one side only; their order is assumed to be that of the data"
        return Note.warning(text).at(path)
    both = f"the model was trained on the classes {shortened(names)}, and the data have {shortened(actual)}"
    if set(names) == set(actual):
        both += ": the same in another order"
    elif len(names) == len(actual):
        number = next(number for number, name in enumerate(names) if name != actual[number])
        one, other = names[number], actual[number]
        both += f": class {number} is {one!r} there and {other!r} here"
    else:
        both += f": {len(names)} there and {len(actual)} here"
    raise KDError(both, hint=HINT, path=path)


def preprocessing_warning(spec: ModelSpec, preprocessing: Mapping[str, Any], path: str) -> Note | None:
    """A warning where a model's run evaluated images of another form than the data are brought to."""
    saved = None if from_hub(spec).hub is not None else recorded(spec)
    if saved is None or not saved.preprocessing or saved.preprocessing == preprocessing or spec.input.get("size"):
        return None
    before, now = (
        ", ".join(f"{key} {value}" for key, value in values.items()) for values in (saved.preprocessing, preprocessing)
    )
    text = f"evaluated in its own run with {before}; these data have {now or 'a size of their own'}"
    return Note.warning(text).at(path)


def only_numbers(names: Sequence[str]) -> bool:
    """Whether names are only the numbers of the classes."""
    return list(names) == [str(number) for number in range(len(names))]
