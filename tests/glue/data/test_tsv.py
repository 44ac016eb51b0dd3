"""GLUE's original files: every layout, and what is wrong with a file said with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd_core.errors import KDError
from kd_glue.data.tasks import TASKS
from kd_glue.data.texts import Texts
from kd_glue.data.tsv import glue_folder, read_split, read_tsv, read_unlabelled

SST2 = TASKS["sst2"]
COUNTS = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
}


def written(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    return path


def rows(texts: Texts) -> list[tuple[str, ...]]:
    return list(zip(*(column.to_pylist() for column in texts.columns), strict=True))


PARSES = ["sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"]
MNLI_TRAIN = ["index", "promptID", "pairID", "genre", *PARSES, "sentence1", "sentence2", "label1", "gold_label"]
MNLI_DEV = [*MNLI_TRAIN[:10], "label1", "label2", "label3", "label4", "label5", "gold_label"]
STSB = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]


@pytest.mark.parametrize(
    ("name", "lines", "texts", "target"),
    [
        ("cola", ["gj04\t1\t\tIt is.", "bc01\t0\t*\tIs it it?"], [("It is.",), ("Is it it?",)], [1, 0]),
        ("sst2", ["sentence\tlabel", "fine . \t1", 'so "so\t0'], [("fine . ",), ('so "so',)], [1, 0]),
        ("sst2", ["label\tsentence", "0\tbad"], [("bad",)], [0]),
        ("mrpc", ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\ta b\tc"], [("a b", "c")], [1]),
        ("stsb", ["\t".join(STSB), "0\tg\tf\t2012\t1\tn\tn\ta\tb\t3.800"], [("a", "b")], [[3.8]]),
        ("qqp", ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "3\t5\t6\tHow?\t\t0"], [("How?", "")], [0]),
        ("mnli", ["\t".join(MNLI_TRAIN), "0\tp\tq\tg\t(\t(\t(\t(\ta\tb\tneutral\tneutral"], [("a", "b")], [1]),
        ("mnli", ["\t".join(MNLI_DEV), "0\tp\tq\tg\t(\t(\t(\t(\ta\tb" + "\tneutral" * 5 + "\tentailment"], None, [0]),
        ("qnli", ["index\tquestion\tsentence\tlabel", "0\tWho?\tShe.\tnot_entailment"], [("Who?", "She.")], [1]),
        ("rte", ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tentailment"], [("a", "b")], [0]),
        ("wnli", ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\t1"], [("a", "b")], [1]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_layouts_of_labelled_files(
    tmp_path: Path, name: str, lines: list[str], texts: list[tuple[str, ...]] | None, target: list[float], end: str
) -> None:
    read = read_split(TASKS[name], written(tmp_path / "train.tsv", *lines, end=end))
    assert texts is None or rows(read) == texts
    np.testing.assert_allclose(read.target, target, rtol=1e-6)
    assert read.target.dtype == (np.float32 if name == "stsb" else np.int64)
    assert read.index.tolist() == list(range(len(target)))


@pytest.mark.parametrize(
    ("name", "file", "header", "row", "texts"),
    [
        ("cola", "test.tsv", "index\tsentence", "0\tSo.", ("So.",)),
        ("sst2", "test.tsv", "index\tsentence", "0\tSo.", ("So.",)),
        ("mrpc", "test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t7\t8\ta\tb", ("a", "b")),
        ("stsb", "test.tsv", "\t".join(STSB[:-1]), "0\tg\tf\t2012\t1\tn\tn\ta\tb", ("a", "b")),
        ("qqp", "test.tsv", "id\tquestion1\tquestion2", "0\ta\tb", ("a", "b")),
        ("mnli", "test_mismatched.tsv", "\t".join(MNLI_TRAIN[:10]), "0\tp\tq\tg\t(\t(\t(\t(\ta\tb", ("a", "b")),
        ("qnli", "test.tsv", "index\tquestion\tsentence", "0\ta\tb", ("a", "b")),
        ("ax", "diagnostic.tsv", "index\tsentence1\tsentence2", "0\ta\tb", ("a", "b")),
    ],
)
def test_layouts_of_test_files(
    tmp_path: Path, name: str, file: str, header: str, row: str, texts: tuple[str, ...]
) -> None:
    task = TASKS[name]
    written(tmp_path / task.folder / file, header, row, row)
    found = glue_folder(task, tmp_path, None).unlabelled()
    assert list(found) == ["ax" if name == "ax" else file.removesuffix(".tsv")]
    [read] = found.values()
    assert rows(read) == [texts, texts]
    if name == "stsb":
        assert read.target.shape == (2, 1)
        assert np.isnan(read.target).all()
    else:
        assert read.target.tolist() == [-100, -100]


def test_nothing_but_line_feeds_ends_a_line(tmp_path: Path) -> None:
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\rg"
    assert rows(read_split(SST2, written(tmp_path / "t.tsv", "sentence\tlabel", f"{text}\t1"))) == [(text,)]


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b"sentence\tlabel\na\t1\nb\t0")
    assert rows(read_split(SST2, path)) == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        (
            "sst2",
            ["sentence\tlabel", "a\t1", "b"],
            "train.tsv:3: 1 column, not 2\n    hint: correct or remove this line",
        ),
        ("sst2", ["sentence\tlabel", "a\t1", "", "b\t0"], "train.tsv:3: 1 column, not 2"),
        ("sst2", ["sentence\tlabel", "a\tb\t1", "b\t0", "c"], "train.tsv:2: 3 columns, not 2 (and 1 more of its lines"),
        ("sst2", ["sentence\tlabel", *["x"] * 30], "lines 2, 3, 4, 5, 6, 7, 8"),
        ("sst2", ["sentence\tlabel", "a\t2"], "train.tsv:2: unknown label '2'"),
        ("sst2", ["sentence\tlabel", "a\t"], "train.tsv:2: unknown label ''"),
        ("sst2", ["text\tlabel", "a\t1"], "train.tsv:1: there is no column 'sentence'"),
        ("sst2", ["sentence\tlabels", "a\t1"], "did you mean 'labels'?"),
        ("sst2", ["sentence\tlabel\tlabel", "a\t1\t1"], "train.tsv:1: there are 2 columns 'label'"),
        ("sst2", [], "train.tsv:1: there is no column 'sentence'"),
        ("cola", ["gj04\t1\tIt is."], "train.tsv:1: 3 columns, not 4"),
        ("cola", ["source\tlabel\tmark\tsentence"], "train.tsv:1: unknown label 'label'"),
        ("rte", ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tentailed"], "did you mean 'entailment'?"),
        ("mnli", ["sentence1\tsentence2\tgold_label", "a\tb\t-"], "train.tsv:2: unknown label '-'"),
        ("stsb", ["sentence1\tsentence2\tscore", "a\tb\t5.1"], "train.tsv:2: '5.1' is not a score from 0 to 5"),
        ("stsb", ["sentence1\tsentence2\tscore", "a\tb\tnan"], "train.tsv:2: 'nan' is not a score"),
        ("stsb", ["sentence1\tsentence2\tscore", "a\tb\t1", "a\tb\tx"], "train.tsv:3: 'x' is not a score"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, name: str, lines: list[str], says: str) -> None:
    with pytest.raises(KDError) as caught:
        read_split(TASKS[name], written(tmp_path / "train.tsv", *lines))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "says"), [("latin-1", "train.tsv:3: byte 0xe9 is not UTF-8"), ("utf-16", "train.tsv:1: byte 0xff")]
)
def test_other_encodings_are_refused(tmp_path: Path, encoding: str, says: str) -> None:
    path = written(tmp_path / "train.tsv", "sentence\tlabel", "fine\t1", "café\t0", encoding=encoding)
    with pytest.raises(KDError, match=says):
        read_split(SST2, path)


def test_mnli_has_two_dev_sets_as_groups_of_one(tmp_path: Path) -> None:
    header, folder = "sentence1\tsentence2\tgold_label", tmp_path / "MNLI"
    written(folder / "dev_matched.tsv", header, "a\tb\tneutral", "c\td\tcontradiction")
    source = glue_folder(TASKS["mnli"], tmp_path, None)
    with pytest.raises(KDError, match=r"dev_mismatched.tsv: is missing, and dev_matched.tsv is there"):
        source.val()
    written(folder / "dev_mismatched.tsv", header, "e\tf\tentailment")
    read = source.val()
    assert read is not None
    assert rows(read) == [("a", "b"), ("c", "d"), ("e", "f")]
    assert read.target.tolist() == [1, 2, 0]
    assert read.group is not None
    assert read.group.tolist() == [0, 0, 1]
    assert source.train() is None
    assert source.unlabelled() == {}
    some = read.take(torch.tensor([2, 0]))
    assert some.group is not None
    assert (some.target.tolist(), some.group.tolist(), some.index.tolist()) == ([0, 1], [1, 0], [2, 0])
    assert [column.to_pylist() for column in some.chosen] == [["e", "a"], ["f", "b"]]
    assert read.chosen is read.columns


@pytest.mark.parametrize(
    ("folders", "root", "name", "says"),
    [
        (["QQP_subset"], ".", "qqp", "data.folder: QQP_subset"),
        (["CoLA"], "CoLA", "cola", "hint: data.root: "),
        ([], ".", "cola", "it is the folder that holds CoLA/"),
        (["sst-2"], ".", "sst2", "data.folder: sst-2"),
        ([], "nowhere", "sst2", "there is no folder"),
    ],
)
def test_a_folder_that_is_not_there(tmp_path: Path, folders: list[str], root: str, name: str, says: str) -> None:
    for each in folders:
        (tmp_path / each).mkdir()
    with pytest.raises(KDError) as caught:
        glue_folder(TASKS[name], tmp_path / root, None)
    assert says in str(caught.value)


def test_a_subset_by_its_folder(tmp_path: Path) -> None:
    written(tmp_path / "QQP_subset" / "train.tsv", "question1\tquestion2\tis_duplicate", "a\tb\t1")
    read = glue_folder(TASKS["qqp"], tmp_path, "QQP_subset").train()
    assert read is not None
    assert rows(read) == [("a", "b")]


# nothing that a tab-separated file cannot say: tabs, line feeds, and the carriage return that may stand before one
cells = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), max_size=20)


@given(table=st.lists(st.tuples(cells, cells, st.sampled_from(["0", "1"])), max_size=8), crlf=st.booleans())
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, str]], crlf: bool
) -> None:
    path = tmp_path_factory.mktemp("tsv") / "train.tsv"
    lines = ["question2\tis_duplicate\tquestion1", *(f"{second}\t{label}\t{first}" for first, second, label in table)]
    read = read_split(TASKS["qqp"], written(path, *lines, end="\r\n" if crlf else "\n"))
    assert rows(read) == [(first, second) for first, second, _ in table]
    assert read.target.tolist() == [int(label) for _, _, label in table]


@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("tsv") / "train.tsv"
    path.write_bytes(b"sentence\tlabel\nfine\t1\n" + content)
    try:
        read = read_split(SST2, path)
    except KDError as error:
        line = int(str(error).removeprefix(f"{path}:").partition(":")[0])
        assert 3 <= line <= 3 + content.count(b"\n")
    else:
        assert len(read) == 1 + content.count(b"\n") + (not content.endswith(b"\n") and content != b"")


def test_optional_columns_and_the_place_of_a_row(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", "a\tb", "1\t2", "3\t4")
    table = read_tsv(path, ["b"], optional=["c", "a"])
    assert table.columns == {"b": ["2", "4"], "a": ["1", "3"]}
    assert table.location(1) == f"{path}:3"
    with pytest.raises(KDError, match=r"nowhere.tsv: cannot be read \(No such file"):
        read_tsv(tmp_path / "nowhere.tsv", ["a"])


# -- the real ones


@pytest.mark.realdata
@pytest.mark.parametrize("name", COUNTS)
def test_the_real_files_have_their_official_rows(real_data: Path, name: str) -> None:
    source = glue_folder(TASKS[name], real_data / "glue", None)
    train, val, tests = source.train(), source.val(), source.unlabelled()
    assert train is not None
    assert val is not None
    assert (len(train), len(val), len(tests["test"])) == COUNTS[name]
    assert train.columns[0].null_count == 0
    if name == "stsb":
        assert (train.target.min(), train.target.max()) == (0, 5)
        assert rows(train)[0] == ("A plane is taking off.", "An air plane is taking off.")
    else:
        classes = len(TASKS[name].labels or ())
        assert set(np.unique(train.target)) == set(np.unique(val.target)) == set(range(classes))


@pytest.mark.realdata
def test_the_real_files_without_a_train_set(real_data: Path) -> None:
    qnli = glue_folder(TASKS["qnli"], real_data / "glue", None)
    val = qnli.val()
    assert val is not None
    assert (qnli.train(), len(val), len(qnli.unlabelled()["test"])) == (None, 5463, 5463)
    ax = glue_folder(TASKS["ax"], real_data / "glue", None)
    assert (ax.train(), ax.val(), {name: len(texts) for name, texts in ax.unlabelled().items()}) == (
        None,
        None,
        {"ax": 1104},
    )
    assert rows(ax.unlabelled()["ax"])[0] == ("The cat sat on the mat.", "The cat did not sit on the mat.")


@pytest.mark.realdata
def test_the_real_subsets_by_their_folders(real_data: Path) -> None:
    mnli = glue_folder(TASKS["mnli"], real_data / "glue", "MNLI_subset")
    train, val = mnli.train(), mnli.val()
    assert train is not None
    assert val is not None
    assert val.group is not None
    assert (len(train), np.bincount(val.group).tolist()) == (700, [300, 1000])
    qqp = glue_folder(TASKS["qqp"], real_data / "glue", "QQP_subset")
    train, val = qqp.train(), qqp.val()
    assert train is not None
    assert val is not None
    assert len(train) + len(val) == 23496


def test_a_test_file_with_labels_is_read_without_them(tmp_path: Path) -> None:
    path = written(tmp_path / "test.tsv", "sentence\tlabel", "a\twhatever")
    assert read_unlabelled(SST2, path).target.tolist() == [-100]


def test_empty_texts_of_glue_are_counted() -> None:
    from kd_glue.data.texts import empty_notes, texts_of

    texts = texts_of([["a", "", " "], ["b", "c", "d"]], np.zeros(3, np.int64), str)
    assert [str(note) for note in empty_notes(texts, "QQP")] == ["warning: QQP: 2 of 3 texts are empty"]
    assert empty_notes(None, "QQP") == []
