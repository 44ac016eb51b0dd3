"""The figures of single classes, which every task gives in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
LARGEST = 10_000
"""Classes of which a confusion matrix is kept at most."""


@dataclass(frozen=True)
class ClassFigures:
    """Figures of each of C classes: ``columns`` has C values by name, NaN or None where one is not defined.

    ``confusion`` (C, C) counts the ``unit`` (samples, pixels) by true class, in rows, and predicted class; None where
    there is no such matrix, as for detections or for several classes a sample.
    """

    classes: tuple[str, ...]
    columns: Mapping[str, Sequence[float | None]]
    confusion: Counts | None = None
    unit: str = "samples"

    def rows(self) -> list[list[Any]]:
        """For each class its name and its values."""
        return [list(row) for row in zip(self.classes, *self.columns.values(), strict=True)]

    def as_record(self) -> dict[str, Any]:
        """Plain values for a JSON file; of the confusion matrix the cells [true, predicted, count] that are not 0."""
        record = {"classes": list(self.classes), "columns": {key: list(value) for key, value in self.columns.items()}}
        if self.confusion is None:
            return record
        true, predicted = self.confusion.nonzero()
        cells = np.stack([true, predicted, self.confusion[true, predicted]], 1).tolist()
        return {**record, "unit": self.unit, "confusion": cells}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ClassFigures:
        """What :meth:`as_record` gave; ValueError, TypeError or LookupError where it is something else."""
        classes, columns = tuple(map(str, record["classes"])), dict(record["columns"])
        for name, column in columns.items():
            if not isinstance(name, str) or len(column) != len(classes) or not all(map(_is_value, column)):
                raise ValueError("a column does not have one value for each class")
        confusion = None
        if "confusion" in record and len(classes) <= LARGEST:
            cells = np.array(record["confusion"], np.int64).reshape(-1, 3)
            if len(cells) and not (cells >= 0).all():
                raise ValueError("a count or a class is negative")
            confusion = np.zeros((len(classes), len(classes)), np.int64)
            confusion[cells[:, 0], cells[:, 1]] = cells[:, 2]
        return cls(classes, columns, confusion, str(record.get("unit", "samples")))


def _is_value(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def of_classes(
    classes: Sequence[str] | None, true: Counts, predicted: Counts, num_classes: int, *, scale: float, recall: str
) -> ClassFigures:
    """Precision, recall (called ``recall``) and F1 of each class, times ``scale``, from classes (N,) by number.

    A prediction that is negative is none: it counts for the true class alone. Values that would divide by 0 are NaN:
    the precision of a class that is never predicted, the recall of one that is never true, F1 where it is neither.
    """
    there = predicted >= 0
    cells = np.bincount(true[there] * num_classes + predicted[there], minlength=num_classes**2)
    matrix = cells.reshape(num_classes, num_classes)
    names = tuple(classes) if classes is not None and len(classes) == num_classes else None
    figures = of_counts(
        matrix.diagonal(), np.bincount(true, minlength=num_classes), matrix.sum(0), scale=scale, recall=recall
    )
    return ClassFigures(names or tuple(map(str, range(num_classes))), figures, matrix)


def of_counts(
    hits: Counts, true: Counts, predicted: Counts, *, scale: float, recall: str
) -> dict[str, Sequence[float | None]]:
    """The same from what each class (C,) has: samples that are found, true samples, and predicted ones."""
    shares = {recall: (hits, true), "precision": (hits, predicted), "f1": (2 * hits, true + predicted)}
    figures: dict[str, Sequence[float | None]] = {
        name: (scale * share(part, whole)).tolist() for name, (part, whole) in shares.items()
    }
    return {**figures, "samples": true.tolist(), "predicted": predicted.tolist()}


def share(part: Counts, whole: Counts) -> NDArray[np.float64]:
    """``part / whole``, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
