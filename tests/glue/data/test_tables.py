"""Tables of one's own: four kinds of files, three kinds of problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from kd_core.data.batch import Splits
from kd_core.data.seen import SeenSamples
from kd_core.data.sources import Parts
from kd_core.data.subset import split
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_glue.data.spec import DataSpec, read_unlabelled
from kd_glue.data.splits import TextSplit
from kd_glue.data.tables import TableTexts, read_texts
from kd_glue.data.targets import Columns
from kd_glue.data.texts import Texts, texts_of

MULTI = "multi_label_classification"


def spec(train: Path | str = "train.csv", **values: Any) -> DataSpec:
    return DataSpec(**{"files": {"train": str(train)}, "text": "text", "label": "label", **values})


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as the file that the suffix says, with nothing in the cells that would need quoting."""
    names = list(rows[0])
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        tab = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join(tab.join(map(str, line)) for line in [names, *(row.values() for row in rows)]))
    return path


def read_one(path: Path, **values: Any) -> TableTexts:
    data: Any = spec(path, **values)
    columns = Columns(data.text, data.label, data.kind, data.normalize_labels)
    return read_texts(path, columns, data.class_names, quoting=data.quoting)


def read(data: DataSpec, seed: int) -> Parts[Texts]:
    return split(data.read(), data, seed)


def texts(read: Texts) -> list[tuple[str, ...]]:
    return list(zip(*(column.to_pylist() for column in read.columns), strict=True))


SUFFIXES = [".csv", ".tsv", ".jsonl", ".json", ".parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_says_the_same(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": 1, "label": "spam", "text": "buy é"}, {"id": 2, "label": "ham", "text": 'a "quoted'}]
    rows = rows[:1] if suffix == ".csv" else rows
    found = read_one(write(tmp_path / f"t{suffix}", rows), labels=["spam", "ham"])
    assert texts(found.texts) == [(row["text"],) for row in rows]
    assert found.texts.target.tolist() == [0, 1][: len(rows)]
    assert found.classes == ("spam", "ham")
    assert found.labelled


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numbers_are_labels_too(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t{suffix}", [{"text": "a", "label": each} for each in (10, 2, 2)])
    assert read_one(path).classes == ("2", "10")
    assert read_one(path).texts.target.tolist() == [1, 0, 0]
    with pytest.raises(KDError, match="unknown label '10'"):
        read_one(path, labels=["no", "perhaps", "yes"])
    path = write(path, [{"text": "a", "label": each} for each in (1, 0, 2)])
    assert read_one(path, labels=["no", "perhaps", "yes"]).texts.target.tolist() == [1, 0, 2]


def test_numbers_that_are_names_are_names(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"text": "a", "label": each} for each in (5, 1)])
    assert read_one(path, labels=["5", "1"]).texts.target.tolist() == [0, 1]
    with pytest.raises(KDError, match=r"t.csv:2: unknown label '5'"):
        read_one(path, labels=["1", "0"])


def test_pairs_of_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"b": "two", "a": "one", "label": "x"}])
    assert texts(read_one(path, text=["a", "b"]).texts) == [("one", "two")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_regression(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t{suffix}", [{"text": "a", "label": each} for each in (0.5, -3.0, 1e3)])
    found = read_one(path, problem="regression")
    assert found.texts.target.tolist() == [[0.5], [-3.0], [1000.0]]
    assert found.texts.target.dtype == np.float32
    assert found.classes is None


def test_several_labels_by_a_separator(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,joy; fear\nb,\nc,anger\n")
    found = read_one(path, problem=MULTI)
    assert found.classes == ("anger", "fear", "joy")
    assert found.texts.target.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert read_one(path, problem=MULTI, labels=["joy", "fear", "anger"]).texts.target.tolist()[0] == [1, 1, 0]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_several_labels_as_a_list(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "label": ["joy", "fear"]}, {"text": "b", "label": []}]
    found = read_one(write(tmp_path / f"t{suffix}", rows), problem=MULTI)
    assert (found.classes, found.texts.target.tolist()) == (("fear", "joy"), [[1, 1], [0, 0]])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_labels_as_columns(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t{suffix}", [{"joy": 1, "fear": 0, "text": "a"}, {"joy": 0, "fear": 0, "text": "b"}])
    found = read_one(path, label=["fear", "joy"])
    assert (found.classes, found.texts.target.tolist()) == (("fear", "joy"), [[0, 1], [0, 0]])
    assert spec(label=["fear", "joy"]).kind == MULTI
    path = write(path, [{"joy": 2, "fear": 0, "text": "a"}])
    with pytest.raises(KDError, match=r"'joy' is '?2'?, neither 0 nor 1"):
        read_one(path, label=["fear", "joy"])


def test_csv_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufefftext,label\r\n"one, ""two""\nthree",a\r\n\r\nfour,b\r\n'.encode())
    assert texts(read_one(path).texts) == [('one, "two"\nthree',), ("four",)]
    path.write_text('text,label\n"one\ntwo",a\nthree\n')
    with pytest.raises(KDError, match=r"t.csv:4: 1 column, not 2"):
        read_one(path)
    path.write_text('text,label\n"one" two,a\n"three" four,b\n')
    with pytest.raises(KDError, match=r"(?s)t.csv:2: a quotation mark closes before a comma \(and 1 more.*lines 2, 3"):
        read_one(path)
    path.write_text('text,label\n"one,a\n')
    with pytest.raises(KDError, match=r"(?s)t.csv:2: a quotation mark is never closed.*`quoting: none`"):
        read_one(path)
    assert texts(read_one(path, quoting="none").texts) == [('"one',)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"text,label\nfine,a\ncaf\xe9,b\n", "t.csv:3: byte 0xe9 is not UTF-8"),
        ("t.csv", b"texts,label\nfine,a\n", "t.csv:1: there is no column 'text'\n    hint: did you mean 'texts'?"),
        ("t.csv", b"", "t.csv:1: there is no column 'text'"),
        ("t.csv", b"text,label\nfine,\n", "t.csv:2: the label is '', not a name"),
        ("t.tsv", b"text\tlabel\nfine\n", "t.tsv:2: 1 column, not 2"),
        ("t.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"\n', "t.jsonl:2: is not valid JSON"),
        ("t.jsonl", b'\n{"text": "a", "label": 1}\n["a"]\n', "t.jsonl:3: is not a JSON object"),
        ("t.jsonl", b"[" * 100_000, "t.jsonl:1: is not valid JSON"),
        ("t.jsonl", b'{"text": "a"}\n', "t.jsonl:1: there is no column 'label'"),
        ("t.jsonl", b'{"text": 3, "label": 1}\n', "t.jsonl:1: 'text' is 3, not a string"),
        ("t.jsonl", b'{"text": null, "label": 1}\n', "t.jsonl:1: 'text' is missing, not a string"),
        ("t.jsonl", b'{"text": "a", "label": 1.5}\n', "t.jsonl:1: the label 1.5 is not a class"),
        ("t.jsonl", b'{"text": "a", "label": null}\n', "t.jsonl:1: the label is missing, not a name"),
        ("t.jsonl", b'{"text": "\\ud800", "label": "x"}\n', "t.jsonl:1: the text is not valid Unicode"),
        ("t.json", b'[{"text": "a", "label": 1}, 2, 3]', "t.json: row 2: is not a JSON object (and 1 more of its rows"),
        ("t.json", b"[1", "t.json: is not valid JSON"),
        ("t.json", b'[{"text": "a"}]', "t.json: row 1: there is no column 'label'"),
        ("t.json", b'{"text": "a", "label": 1}\n2', "t.json:2: is not a JSON object"),
        ("t.parquet", b"no parquet", "t.parquet: is not a readable parquet file"),
        (
            "t.txt",
            b"",
            "'.txt' is not a known table format\n    hint: known suffixes are .csv, .tsv, .jsonl, .json, .parquet",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KDError) as caught:
        read_one(tmp_path / name)
    assert says in str(caught.value)


@pytest.mark.parametrize("cell", ["x", "", "inf", "nan", None, True])
def test_what_is_no_number(tmp_path: Path, cell: Any) -> None:
    path = write(tmp_path / "t.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": cell}])
    with pytest.raises(KDError, match=r"t.jsonl:2: the label is .*, not a number"):
        read_one(path, problem="regression")


def test_rows_of_parquet_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", [{"text": "a", "label": "x"}, {"text": None, "label": "y"}])
    with pytest.raises(KDError, match=r"t.parquet: row 2: 'text' is missing"):
        read_one(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="there is no such file"):
        read_one(tmp_path / "t.csv")


line = st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.sampled_from(["yes", "no"]))


@given(rows=st.lists(line, min_size=1, max_size=8))
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    import csv

    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    found = read_one(path, labels=["yes", "no"])
    assert texts(found.texts) == [(text,) for text, _ in rows]


# -- splits


def table(path: Path, labels: list[Any]) -> str:
    return str(write(path, [{"text": f"text {row}", "label": label} for row, label in enumerate(labels)]))


def test_classes_are_those_of_the_training_rows(tmp_path: Path) -> None:
    train, val = table(tmp_path / "train.csv", ["b", "a", "c"]), table(tmp_path / "val.csv", ["a", "c"])
    parts = read(spec(files={"train": train, "val": val, "test": val}), seed=0)
    assert parts.classes == ("a", "b", "c")
    assert parts.val is not None
    assert parts.test is not None
    assert parts.val.target.tolist() == parts.test.target.tolist() == [0, 2]
    table(tmp_path / "val.csv", ["a", "d"])
    with pytest.raises(KDError, match=r"val.csv:3: unknown label 'd'"):
        read(spec(files={"train": train, "val": val}), seed=0)


def test_one_class_is_no_classification(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="fewer than two classes: a"):
        read(spec(table(tmp_path / "train.csv", ["a", "a"])), seed=0)


def test_without_training_rows_the_classes_are_named(tmp_path: Path) -> None:
    files = {"test": table(tmp_path / "test.csv", ["a", "b"])}
    with pytest.raises(KDError, match=r"data.labels: without training rows"):
        read(spec(files=files), seed=0)
    parts = read(spec(files=files, labels=["b", "a"]), seed=0)
    assert parts.train is None
    assert parts.test is not None
    assert parts.test.target.tolist() == [1, 0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_test_table_without_labels_is_for_prediction(tmp_path: Path, suffix: str) -> None:
    train = table(tmp_path / "train.csv", ["a", "b"] * 10)
    test = str(write(tmp_path / f"test{suffix}", [{"text": "x"}, {"text": "y"}]))
    for values, target in (({}, [-100, -100]), ({"problem": "regression"}, [[np.nan], [np.nan]])):
        data = spec(files={"train": train, "test": test}, **values)
        if not values:
            assert read(data, seed=0).test is None
        found = read_unlabelled(data)
        assert list(found) == ["test"]
        np.testing.assert_array_equal(found["test"].target, target)
    data = spec(files={"train": train, "test": train})
    assert read_unlabelled(data) == {}
    assert read_unlabelled(spec(train)) == {}


def test_files_lie_below_the_root(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", ["a", "b"] * 10)
    data = spec("train.csv", root=str(tmp_path), val=0)
    assert len(read(data, seed=0).train or ()) == 20
    assert data.read().places == {"train": str(tmp_path / "train.csv")}


def test_limits_keep_the_shares_of_classes_and_the_rows(tmp_path: Path) -> None:
    files = {name: table(tmp_path / f"{name}.csv", ["a", "b", "b", "b"] * 5) for name in ("train", "val", "test")}
    parts = read(spec(files=files, limit=8), seed=0)
    assert [len(part or ()) for part in (parts.train, parts.val, parts.test)] == [8, 20, 20]
    assert parts.train is not None
    assert np.bincount(parts.train.target).tolist() == [2, 6]
    assert [column.to_pylist() for column in parts.train.chosen] == [[f"text {row}" for row in parts.train.index]]
    assert parts.train.rows == 20
    parts = read(spec(files=files, limit={"val": 3, "test": 50}), seed=0)
    assert [len(part or ()) for part in (parts.train, parts.val, parts.test)] == [20, 3, 20]


def test_rows_are_held_out_where_none_validate(tmp_path: Path) -> None:
    path = table(tmp_path / "train.csv", ["a"] * 80 + ["b"] * 20)
    parts = read(spec(path), seed=0)
    assert parts.train is not None
    assert parts.val is not None
    assert np.bincount(parts.val.target).tolist() == [8, 2]
    assert sorted([*parts.train.index.tolist(), *parts.val.index.tolist()]) == list(range(100))
    again, other = read(spec(path), seed=0), read(spec(path), seed=1)
    assert again.val is not None
    assert other.val is not None
    assert again.val.index.tolist() == parts.val.index.tolist() != other.val.index.tolist()
    assert read(spec(path, val=0), seed=0).val is None
    assert len(read(spec(path, val=0.25), seed=0).val or ()) == 25
    with pytest.raises(KDError, match=r"data.val: 100 of 100 samples for validation leave none to train on"):
        read(spec(path, val=100), seed=0)
    with pytest.raises(KDError, match=r"(?s)data.val: .*leave 'val' out"):
        read(spec(files={"train": path, "val": path}, val=0.1), seed=0)


# -- what a config may say


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "give 'name', a data set by its name, or 'files'"),
        ({"name": "sst2", "files": {"train": "a.csv"}}, "(?s)files.*Extra inputs"),
        ({"name": "sst-2"}, "did you mean 'sst2'"),
        ({"name": "sst2", "text": "sentence"}, "(?s)text.*Extra inputs"),
        ({"name": "sst2", "val": 0.1}, "a validation split of its own"),
        ({"name": "sst2", "folder": "x"}, "'folder' is a folder below 'root'"),
        ({"name": "sst2", "root": "x", "revision": "main"}, "'revision' is one of the hub's"),
        ({"files": {"train": "a.csv"}, "label": "l"}, "(?s)text.*Field required"),
        ({"files": {"train": "a.csv"}, "text": "t"}, "'label' is missing"),
        ({"files": {}, "text": "t"}, "names no table"),
        ({"files": {"dev": "a.csv"}, "text": "t"}, "Extra inputs"),
        ({"files": {"train": "a.csv"}, "text": ["a", "b", "c"], "label": "l"}, "at most 2"),
        ({"files": {"train": "a.csv"}, "text": ["a", "a"], "label": "l"}, "listed twice"),
        ({"files": {"train": "a.csv"}, "text": "t", "label": "l", "folder": "x"}, "(?s)folder.*Extra inputs"),
        ({"files": {"train": "a.csv"}, "text": "t", "label": ["a", "b"], "problem": "regression"}, "several 'label'"),
        ({"files": {"train": "a.csv"}, "text": "t", "label": ["a", "b"], "labels": ["a"]}, "leave 'labels' out"),
        ({"files": {"train": "a.csv"}, "text": "t", "label": "l", "labels": ["a"]}, "two or more"),
        (
            {"files": {"train": "a.csv"}, "text": "t", "label": "l", "labels": ["a", "b"], "problem": "regression"},
            "no classes",
        ),
        ({"files": {"train": "a.csv"}, "text": "t", "label": "l", "problem": "ranking"}, "Input should be"),
        ({"name": "sst2", "limit": 0}, "greater than or equal to 1"),
        ({"name": "sst2", "limit": True}, "valid integer"),
        ({"name": "sst2", "max_length": 0}, "greater than or equal to 1"),
        ({"name": "sst2", "bucket": True}, "Extra inputs"),
    ],
)
def test_configs_that_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DataSpec(**values)


def test_files_without_labels_are_enough_to_predict(tmp_path: Path) -> None:
    test = str(write(tmp_path / "test.csv", [{"text": "x"}]))
    data = DataSpec(files={"test": test}, text="text")
    assert list(read_unlabelled(data)) == ["test"]
    with pytest.raises(KDError, match=r"data.labels"):
        read(data, seed=0)
    with pytest.raises(KDError, match="no split has labels"):
        read(data.model_copy(update={"problem": "regression"}), seed=0)


def test_empty_texts_are_counted_and_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\n,a\nfine,b\n  ,a\nnull,b\n")
    told = Note.warning(f"{path}: 2 of 4 texts in column 'text' are empty (lines 2, 4)")
    assert read_one(path).notes == (told,)
    parts = read(spec(path, files={"train": str(path), "val": str(path)}), seed=0)
    assert parts.notes == (told,)
    assert str(told) in Splits(*[None] * 3, parts=parts).describe()  # type: ignore[arg-type]


def test_an_empty_column_of_labels_is_none_at_all(tmp_path: Path) -> None:
    train = table(tmp_path / "train.csv", ["a", "b"] * 10)
    test = str(write(tmp_path / "test.csv", [{"text": "x", "label": ""}, {"text": "y", "label": ""}]))
    assert list(read_unlabelled(spec(files={"train": train, "test": test}))) == ["test"]


def test_quoting_and_spelling_are_keys(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('text\tlabel\n"a"\tyes\n"b"\t Yes\n"c"\tno\n')
    data = spec(path, files={"train": str(path), "val": str(path)}, normalize_labels=True)
    parts = data.read()
    assert (parts.classes, texts(parts.train)) == (("no", "yes"), [("a",), ("b",), ("c",)])
    assert parts.notes == (
        Note(f"{path}: read with `quoting: minimal`"),
        Note(f"{path}: labels are read ' Yes' as 'yes' (1)"),
    )
    data = spec(path, files={"train": str(path)}, normalize_labels=True, quoting="none")
    assert texts(data.read().train) == [('"a"',), ('"b"',), ('"c"',)]


def test_all_lines_of_jsonl_that_are_broken_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes('\ufeff{"text": "a\u2028b", "label": "x"}\r\n{\r\n[]\r\n'.encode())
    with pytest.raises(KDError, match=r"(?s)t.jsonl:2: is not valid JSON .*and 1 more.*lines 2, 3"):
        read_one(path)
    path.write_bytes('\ufeff{"text": "a\u2028b", "label": "x"}\r\n'.encode())
    assert texts(read_one(path).texts) == [("a\u2028b",)]


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (["a"] * 60 + ["b"] * 60, {}),
        ([number / 8 for number in range(120)], {"problem": "regression"}),
        (["x"] * 60 + ["x;y"] * 60, {"problem": MULTI}),
    ],
)
def test_no_choice_among_rows_takes_the_head_of_a_sorted_file(tmp_path: Path, labels: Any, values: Any) -> None:
    files = {name: table(tmp_path / f"{name}.csv", labels) for name in ("train", "test")}
    parts = read(spec(files=files, limit={"train": 40, "test": 40}, val=20, **values), seed=0)
    for part in (parts.train, parts.val, parts.test):
        assert part is not None
        second_half = int((part.index >= 60).sum())
        assert 0.25 < second_half / len(part) < 0.75
        assert values or second_half * 2 == len(part)


def test_the_home_folder_of_nobody_is_no_folder() -> None:
    with pytest.raises(KDError, match="there is no such file"):
        spec("~nobody-here/t.csv").read()
    with pytest.raises(KDError, match="there is no such file"):
        spec("t.csv", root="~nobody-here").read()


def test_faults_of_all_tables_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,label\n"a "b",x\nfine,y\n')
    (tmp_path / "test.csv").write_text("text,label\nalone\n")
    with pytest.raises(KDError) as caught:
        read(spec(files={"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}), seed=0)
    assert "train.csv:2: " in str(caught.value)
    assert "test.csv:2: 1 column, not 2" in str(caught.value)


def test_texts_of_two_splits_are_told() -> None:
    splits = {}
    for role, rows in (("train", ["good film", "bad"]), ("val", ["new", " bad "])):
        part = texts_of([rows], np.array([0, 1]), str)
        splits[role] = TextSplit(part, {})
    [line] = SeenSamples().notes(splits)
    assert str(line) == "warning: 1 of 2 validation samples is a training sample, too: ' bad ' is 'bad'"
