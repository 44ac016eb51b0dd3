"""Figures of single classes: their values, their form in a file, and as a table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from kd_core.class_figures import ClassFigures, of_classes
from kd_core.cli.output import class_table
from kd_core.files import json_text

TRUE = np.array([0, 0, 0, 1, 1, 3])
PREDICTED = np.array([0, 0, 1, 1, -1, 1])


@pytest.fixture
def figures() -> ClassFigures:
    return of_classes(["a", "b", "c", "d"], TRUE, PREDICTED, 4, scale=100.0, recall="accuracy")


def test_they_are_counted_by_their_definitions(figures: ClassFigures) -> None:
    nan = float("nan")
    assert figures.confusion is not None
    assert figures.confusion.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    expected = {
        "accuracy": [200 / 3, 50, nan, 0],
        "precision": [100, 100 / 3, nan, nan],
        "f1": [80, 40, nan, 0],
        "samples": [3, 2, 0, 1],
        "predicted": [2, 3, 0, 0],
    }
    assert list(figures.columns) == list(expected)
    for name, column in expected.items():
        assert figures.columns[name] == pytest.approx(column, nan_ok=True), name


def test_a_file_keeps_them(figures: ClassFigures) -> None:
    again = ClassFigures.from_record(json.loads(json_text(figures.as_record())))
    assert again.classes == figures.classes
    assert np.array_equal(again.confusion, figures.confusion)
    assert again.columns["accuracy"] == [pytest.approx(200 / 3), 50, None, 0]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"classes": ["a"], "columns": {"f1": []}},
        {"classes": ["a"], "columns": {"f1": ["x"]}},
        {"classes": ["a"], "columns": {}, "confusion": [[0, 1, 2]]},
        {"classes": ["a"], "columns": {}, "confusion": [[0, -1, 2]]},
    ],
)
def test_other_records_are_refused(record: dict[str, object]) -> None:
    with pytest.raises((ValueError, LookupError)):
        ClassFigures.from_record(record)


def test_classes_without_fitting_names_have_numbers() -> None:
    assert of_classes(["a"], TRUE, PREDICTED, 4, scale=1.0, recall="recall").classes == ("0", "1", "2", "3")


def test_the_table_is_aligned(figures: ClassFigures) -> None:
    assert class_table(figures).splitlines() == [
        "",
        "class  accuracy  precision  f1  samples  predicted",
        "a         66.67        100  80        3          2",
        "b            50      33.33  40        2          3",
        "c             -          -   -        0          0",
        "d             0          -   0        1          0",
    ]


def test_nothing_is_defined_without_samples() -> None:
    empty = of_classes(None, TRUE[:0], PREDICTED[:0], 2, scale=1.0, recall="recall")
    assert all(math.isnan(value) for value in empty.columns["f1"])
