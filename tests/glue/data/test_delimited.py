"""csv and tsv files in both dialects: what pandas writes is read as it reads it, GLUE's own stay as they are."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kd_core.errors import KDError
from kd_glue.data.delimited import read_delimited

NAMES = ["text", "label"]


def read(path: Path, quoting: Any = "auto") -> list[tuple[str, str]]:
    rows = read_delimited(path, "\t" if path.suffix == ".tsv" else ",", quoting, NAMES)
    return list(zip(*rows.columns.values(), strict=True))


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def by_pandas(path: Path) -> list[tuple[str, str]]:
    separator = "\t" if path.suffix == ".tsv" else ","
    frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")
    return list(frame[NAMES].itertuples(index=False, name=None))


cell = st.text(st.sampled_from(list('ab "\t\n,;\u2028\x85é')), max_size=8)


@settings(max_examples=30)
@given(rows=st.lists(st.tuples(cell, st.sampled_from(["yes", "no"])), min_size=1, max_size=6))
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_pandas_writes_is_read_as_pandas_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], suffix: str, quoting: Any
) -> None:
    # parts of a text that are rows by themselves read as such, where quotation marks are letters
    assume(suffix == ".csv" or not any("\t" in text and "\n" in text for text, _ in rows))
    path = tmp_path_factory.mktemp("pandas") / f"t{suffix}"
    pd.DataFrame(rows, columns=NAMES).to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False, quoting=quoting)
    assert read(path) == by_pandas(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_ends_of_lines(tmp_path: Path, suffix: str, end: str) -> None:
    separator = "\t" if suffix == ".tsv" else ","
    lines = ["text|label", '"a bad ""really"" dull"|no', f'"two{end}lines"|yes', '"with | in it"|no', 'a 5" nail|yes']
    path = written(tmp_path / f"t{suffix}", "\ufeff" + "".join(line.replace("|", separator) + end for line in lines))
    assert read(path) == by_pandas(path)
    assert [text for text, _ in read(path)] == [
        'a bad "really" dull',
        f"two{end}lines",
        f"with {separator} in it",
        'a 5" nail',
    ]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", 'text\tlabel\n"a\nb"\tyes\n\n"c ""d"""\tno\n')
    assert list(read_delimited(path, "\t", "auto", NAMES).lines) == [2, 5]


@pytest.mark.parametrize(
    "rows",
    [
        ['"unbalanced\t1', "b\t0"],
        ['"He said," she said.\t1', '"Wrapped."\t0'],
        ['"Wrapped."\t1', "b\t0"],
        ['a "b" c\t1', '"\t0'],
    ],
)
def test_files_like_glues_own_keep_their_marks(tmp_path: Path, rows: list[str]) -> None:
    path = written(tmp_path / "t.tsv", "\n".join(["text\tlabel", *rows]) + "\n")
    assert read(path) == [tuple(row.split("\t")) for row in rows] == read(path, "none")


def test_the_dialect_is_told_where_it_matters(tmp_path: Path) -> None:
    def notes(text: str) -> list[str]:
        path = written(tmp_path / "t.tsv", f"text\tlabel\n{text}")
        return [note.text.removeprefix(f"{path}: ") for note in read_delimited(path, "\t", "auto", NAMES).notes]

    assert notes('a "b"\tyes\n') == []
    assert notes('"a\tyes\n') == ["read with `quoting: none`"]
    assert notes('"a"\tyes\n') == ["read with `quoting: minimal`"]


def test_all_broken_rows_are_named_with_a_hint_of_quoting(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", 'text\tlabel\n"a\tyes\nb\nc\tno\nd\te\tno\n')
    with pytest.raises(KDError) as caught:
        read(path)
    message = str(caught.value)
    assert "t.tsv:3: 1 column, not 2 (and 1 more of its lines is malformed)" in message
    assert "correct or remove lines 3, 5; `quoting: minimal` reads fields in quotation marks" in message
    path = written(tmp_path / "t.csv", 'text,label\n"a" b,yes\nc,no\nd\n"e,no\nf,no\n')
    with pytest.raises(KDError, match=r"(?s)t.csv:2: .*\(and 2 more.*lines 2, 4, 5; `quoting: none`"):
        read(path)
    assert read(written(tmp_path / "t.csv", 'text,label\n"a" b,yes\n'), "none") == [('"a" b', "yes")]


def test_a_broken_file_is_read_in_the_dialect_that_breaks_fewer_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", 'text\tlabel\n"a\nb\nc"\tyes\n"d\ne"\tno\nf\n')
    with pytest.raises(KDError, match=r"t.tsv:7: 1 column, not 2\n"):
        read(path)
    path = written(tmp_path / "t.tsv", '"text"\t"label"\n"a \\"b\\""\t"yes"\n')
    with pytest.raises(KDError, match=r"t.tsv:2: a quotation mark closes before a tab"):
        read(path)


def test_all_lines_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"text,label\ncaf\xe9,yes\nfine,no\nna\xefve,no\n")
    with pytest.raises(KDError, match=r"(?s)t.csv:2: byte 0xe9 is not UTF-8 \(and 1 more.*lines 2, 4.*iconv"):
        read(path)


def test_another_delimiter_is_named(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="its columns are divided by a semicolon"):
        read(written(tmp_path / "t.csv", "text;label\na;yes\n"))


def test_texts_may_be_long(tmp_path: Path) -> None:
    limit, text = csv.field_size_limit(), "a" * 200_000
    assert read(written(tmp_path / "t.csv", f"text,label\n{text},yes\n")) == [(text, "yes")]
    assert csv.field_size_limit() == limit


def test_an_empty_file_has_no_column(tmp_path: Path) -> None:
    for suffix in (".csv", ".tsv"):
        with pytest.raises(KDError, match="there is no column 'text'"):
            read(written(tmp_path / f"t{suffix}", ""))


def test_csv_writes_what_is_read(tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([NAMES, ("", "yes"), ('"', "no")])
    assert read(written(tmp_path / "t.csv", text.getvalue())) == [("", "yes"), ('"', "no")]
