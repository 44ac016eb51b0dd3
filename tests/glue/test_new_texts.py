"""``kd-glue predict`` of new texts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kd_core.errors import KDError
from kd_core.runs.export import write_student
from kd_glue.cli import main
from kd_glue.hub.models import TransformersHub
from kd_glue.results.texts import predict_texts

from .hub.tiny_models import save, save_tokenizer

DESCRIPTION = """
task: text_classification
hub: .
input: {tokenizer: ., max_length: 8, padding: longest}
class_names: [negative, positive]
preprocessing: {problem_type: single_label_classification}
"""


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student's folder, without a run."""
    model = save(tmp_path / "model", "bert", ("negative", "positive"))

    def beside(folder: Path) -> None:
        TransformersHub().save(model, folder)
        save_tokenizer(folder)

    write_student(tmp_path / "student", model.state_dict(), DESCRIPTION, beside)
    return tmp_path / "student"


def predict(*arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)], input=input)


def test_tables_lines_and_standard_input_agree(student: Path, tmp_path: Path) -> None:
    texts = ["good, film", '=bad\n"film"', "bad"]
    table = io.StringIO()
    csv.writer(table).writerows([["sentence"], *([text] for text in texts)])
    (tmp_path / "new.csv").write_text(table.getvalue())
    done = predict(student, tmp_path / "new.csv", "--text", "sentence", "--out", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    assert all(row["prediction"] == max(row["probabilities"], key=row["probabilities"].get) for row in rows)
    done = predict(student, "-", input="bad\n\ngood, film\n")
    lines = list(csv.reader(io.StringIO(done.stdout), delimiter="\t"))
    assert lines[0] == ["index", "text", "prediction", "negative", "positive"]
    assert [line[1] for line in lines[1:]] == ["bad", "good, film"]
    assert float(lines[2][4]) == pytest.approx(rows[0]["probabilities"]["positive"], abs=1e-5)


def test_pairs_and_what_is_wrong(student: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"a": "good", "b": "film"}\n')
    pairs, failed = predict_texts(student, [tmp_path / "pairs.jsonl"], columns=("a", "b"))
    assert not failed
    assert [row["text"] for row in pairs.rows()] == [["good", "film"]]
    assert pairs.tsv().startswith("index\ttext\ttext_2\tprediction\tnegative\tpositive\n0\tgood\tfilm\t")
    (tmp_path / "pairs.jsonl").write_text('{"a": "good", "b": 3}\n')
    with pytest.raises(KDError, match="is not a string"):
        predict_texts(student, [tmp_path / "pairs.jsonl"], columns=("a", "b"))
    with pytest.raises(KDError, match=r"nothing\.txt: is not a readable text file"):
        predict_texts(student, [tmp_path / "nothing.txt"])
    done = predict(student, "-", "--split", "test", input="bad")
    assert (done.exit_code, "--split, --root and --set are about the data" in done.stderr) == (2, True)


def test_a_file_that_cannot_be_read_is_passed_over_and_named_last(student: Path, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good\n\nbad\u2028film\r\n")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "null.jsonl").write_text('{"text": "good"}\n{"text": null}\n')
    names = ("good.txt", "bad.txt", "null.jsonl", "gone.csv", "good.txt")
    files = [tmp_path / name for name in names]
    done = predict(student, *files[:4], "--out", tmp_path / "out.csv")
    assert done.exit_code == 2
    named = ", ".join(map(str, files[1:4]))
    assert done.stderr.endswith(f"3 of 4 files could not be read; the others are done: {named}\n")
    assert "null.jsonl:2: is not a string" in done.stderr
    rows = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert rows[0] == ["file", "index", "text", "prediction", "negative", "positive"]
    assert [row[:3] for row in rows[1:]] == [[str(files[0]), "0", "good"], [str(files[0]), "1", "bad\u2028film"]]
    answer = predict(student, *files[:2], "--json")
    assert list(json.loads(answer.stdout)["failed"]) == [str(files[1])]
