"""Labels of tables: what is one class, what is a number, and what is too doubtful to train on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kd_core.errors import KDError
from kd_core.notes import Note
from kd_glue.data.rows import Rows
from kd_glue.data.targets import Columns, Targets, targets_of

SINGLE: Any = "single_label_classification"


def read(cells: list[Any], classes: tuple[str, ...] | None = None, *, kind: Any = SINGLE, **values: Any) -> Targets:
    rows = Rows(Path("t.csv"), {}, range(2, 2 + len(cells)))
    return targets_of(rows, Columns("text", "label", kind, **values), [cells], classes)


SPELT = ["yes", "no", " yes", "No", "yes ", "yes"]


def test_spellings_that_differ_by_blanks_or_case_are_refused() -> None:
    with pytest.raises(KDError) as caught:
        read(SPELT)
    told = "t.csv: the labels 'yes' (2), ' yes' (1), 'yes ' (1); 'No' (1), 'no' (1) differ by blanks or case alone"
    assert told in str(caught.value)
    assert "`normalize_labels: true`" in str(caught.value)


def test_normalized_labels_are_one_class_and_that_is_said() -> None:
    found = read(SPELT, normalize=True)
    assert found.classes == ("No", "yes")
    assert found.array.tolist() == [1, 0, 1, 0, 1, 1]
    [note] = found.notes
    assert note.text == "t.csv: labels are read 'no' as 'No' (1), ' yes' as 'yes' (1), 'yes ' as 'yes' (1)"
    assert read(SPELT, ("no", "yes"), normalize=True).array.tolist() == [1, 0, 1, 0, 1, 1]


def test_forms_of_a_letter_are_no_difference() -> None:
    for one, other in (("caf\u00e9", "cafe\u0301"), ("not good", "not\u00a0good"), ("A", "\uff21")):
        with pytest.raises(KDError, match="differ by blanks or case alone"):
            read([one, other])
        assert read([one, other, one, "b"], normalize=True).array.tolist() in ([0, 0, 0, 1], [1, 1, 1, 0])


def test_nearly_as_many_classes_as_rows_are_a_warning() -> None:
    words = [f"text {number}" for number in range(30)]
    assert read(words).notes == (Note.warning("t.csv: 30 classes for 30 labels"),)
    assert read(words * 2).notes == read(["a", "b", "c"]).notes == ()


def test_classes_that_are_named_may_differ_by_case() -> None:
    assert read(["US", "us"], ("US", "us")).array.tolist() == [0, 1]
    with pytest.raises(KDError, match="leave out normalize_labels"):
        read(["US", "us"], ("US", "us"), normalize=True)


def test_another_spelling_of_a_named_class_is_refused_with_all_its_rows() -> None:
    with pytest.raises(KDError, match=r"(?s)t.csv:3: unknown label 'Yes' \(and 1 more.*lines 3, 5; `normalize_labels"):
        read(["yes", "Yes", "no", " no"], ("no", "yes"))


def test_blanks_around_all_labels_are_a_warning() -> None:
    assert read([" yes", " no"]).notes == (Note.warning("t.csv: labels begin or end with blanks: ' no', ' yes'"),)


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert read(["1.0", "0.0"]).classes == ("0", "1")
    assert read([1.0, 0.0, 1]).array.tolist() == [1, 0, 1]
    assert read([f"{number}.0" for number in range(11)]).array.tolist() == list(range(11))
    assert read(["-1", "10", "2"]).classes == ("-1", "2", "10")
    assert read(["1.0", "0.0"], ("bad", "good")).array.tolist() == [1, 0]
    assert read(["1.0", "2.0"], ("2.0", "1.0")).array.tolist() == [1, 0]


@pytest.mark.parametrize("cell", ["4.176", 4.176, "1e-3", "-.5"])
def test_other_numbers_ask_for_a_regression(cell: Any) -> None:
    with pytest.raises(KDError, match=r"(?s)t.csv:2: the label .* is not a class.*`problem: regression`"):
        read([cell])
    assert read([cell], kind="regression").array.tolist() == [[pytest.approx(float(cell))]]
    assert read([cell, "x"] if isinstance(cell, str) else [cell], (str(cell), "x")).array[0] == 0


@pytest.mark.parametrize("cell", ["", " ", None, math.nan, "nan", "NaN", "<NA>"])
def test_missing_labels_are_refused_with_all_their_rows(cell: Any) -> None:
    with pytest.raises(KDError, match=r"(?s)t.csv:3: the label is .*, not a name \(and 1 more.*lines 3, 4"):
        read(["yes", cell, cell])
    with pytest.raises(KDError, match=r"(?s)t.csv:3: the label is .*, not a number \(and 1 more.*lines 3, 4"):
        read([1, cell, cell], kind="regression")


def test_labels_of_several_types_are_refused() -> None:
    for cells in ([1, "1"], [True, "yes"], [0, True]):
        with pytest.raises(KDError, match=r"t.csv:3: the label is .*, and that of line 2 is"):
            read(cells)
    assert read(json.loads("[true, false]")).classes == ("false", "true")


def test_numbers_of_named_classes_are_told() -> None:
    assert read(["1", "0"], ("bad", "good")).notes == (
        Note("t.csv: labels are numbers of classes, in the order of `labels`: 0 is 'bad', 1 is 'good'"),
    )
    assert read(["good", "bad"], ("bad", "good")).notes == ()
    with pytest.raises(KDError, match="the labels '1' are numbers, and 'bad' is a name"):
        read(["1", "bad"], ("bad", "good"))


def test_several_labels_name_the_row_of_the_file() -> None:
    kind = "multi_label_classification"
    found = read(["joy; fear", "", "Joy"], kind=kind, normalize=True)
    assert (found.classes, found.array.tolist()) == (("Joy", "fear"), [[1, 1], [0, 0], [1, 0]])
    with pytest.raises(KDError, match=r"t.csv:4: unknown label 'rage'"):
        read(["joy; fear", "", "fear;rage"], ("fear", "joy"), kind=kind)
    with pytest.raises(KDError, match=r"'joy' .*differ by blanks or case alone"):
        read(["joy; fear", "", "Joy"], kind=kind)


def test_columns_of_marks_name_all_rows() -> None:
    rows = Rows(Path("t.csv"), {}, range(2, 6))
    columns = Columns("text", ["a", "b"], "multi_label_classification")
    cells: list[list[Any]] = [["0", "1.0", True, "1"], ["1", "0", 0, "x"]]
    with pytest.raises(KDError, match=r"t.csv:5: 'b' is 'x', neither 0 nor 1"):
        targets_of(rows, columns, cells, ("a", "b"))
    cells[1][3] = "1"
    assert targets_of(rows, columns, cells, ("a", "b")).array.tolist() == [[0, 1], [1, 0], [1, 0], [1, 1]]


def test_signs_that_nobody_sees_are_no_difference() -> None:
    with pytest.raises(KDError, match="differ by blanks or case alone"):
        read(["yes", "no", "yes\u200b"])


def test_decimal_commas_are_no_classes() -> None:
    with pytest.raises(KDError, match=r"(?s)the label 1,5 is not a class.*hint: write decimals with a point, as 1\.5"):
        read(["1,5", "2,5"])
    assert read(["1,5", "2,5"], ("1,5", "2,5")).classes == ("1,5", "2,5")
